"""What tsh remembers of one proxy and user: `~/.tsh/<proxy>.yaml`, with the keys of `cli.md` 4 and two of our own.

`proxy_trust` says how the proxy's web certificate is believed (`trust.py`), `root_cluster` whose proxy it is. The file
is a flat map; it is read here without a YAML library, whose import costs more than all of `tsh status`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace

from teleport.client.addresses import SSH_PORT, check_host, join, split_port
from teleport.client.home import Home
from teleport.errors import AccessDenied, TeleportError

_KEYS = {
    "web_proxy_addr": "web_proxy_addr",
    "ssh_proxy_addr": "ssh_proxy_addr",
    "kube_proxy_addr": "kube_proxy_addr",
    "postgres_proxy_addr": "postgres_proxy_addr",
    "mysql_proxy_addr": "mysql_proxy_addr",
    "user": "user",
    "auth_type": "auth_type",
    "cluster": "cluster",
    "root_cluster": "root_cluster",
    "proxy_trust": "proxy_trust",
    "tls_routing_enabled": "tls_routing",
}
CURRENT = "current-profile"


@dataclass(frozen=True, slots=True)
class Profile:
    """One login. `name` is the proxy's host, without port."""

    name: str
    web_proxy_addr: str
    ssh_proxy_addr: str
    user: str
    cluster: str  # the chosen one
    root_cluster: str  # the one whose proxy this is
    proxy_trust: str = "public"
    auth_type: str = "local"
    kube_proxy_addr: str = ""
    postgres_proxy_addr: str = ""
    mysql_proxy_addr: str = ""
    tls_routing: str = ""  # how SSH goes by the web port (`one_port`); empty: it has a port of its own

    @property
    def web(self) -> tuple[str, int]:
        return split_port(self.web_proxy_addr, 3080)

    @property
    def ssh(self) -> tuple[str, int]:
        return split_port(self.ssh_proxy_addr, SSH_PORT)

    @property
    def url(self) -> str:
        return f"https://{join(*self.web)}"

    @property
    def login_command(self) -> str:
        """What to type to log in again."""
        return shlex.join(["tsh", "login", f"--proxy={self.web_proxy_addr}", f"--user={self.user}"])

    def with_cluster(self, cluster: str) -> Profile:
        return replace(self, cluster=cluster)


def encode(profile: Profile) -> bytes:
    """The profile as YAML."""
    lines = [f"{key}: {_quoted(getattr(profile, field))}" for key, field in _KEYS.items() if getattr(profile, field)]
    return ("\n".join([*lines, "forward_ports: []", "dynamic_forward_ports: []"]) + "\n").encode()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # YAML reads no surrogate pairs


def decode(name: str, data: bytes) -> Profile:
    """What `encode` wrote, or the plain scalars of the field's own files. Raises `TeleportError` when it is damaged."""
    found: dict[str, str] = {}
    try:
        for line in data.decode("utf-8").split("\n"):
            key, colon, value = line.partition(":")
            text = _scalar(value.strip()) if colon and key in _KEYS else ""
            if text:  # what is empty is as what is missing
                found[_KEYS[key]] = text
        found.setdefault("ssh_proxy_addr", f"{name}:{SSH_PORT}")
        found.setdefault("root_cluster", found.get("cluster", ""))
        profile = Profile(name=check_host(name), **found)
        _ = profile.web, profile.ssh
    except (ValueError, TypeError, TeleportError) as error:
        raise TeleportError(f"the profile {name}.yaml is damaged: {error}", hint="tsh logout, then tsh login") from None
    return profile


def _scalar(text: str) -> str:
    if text.startswith('"'):
        value = json.loads(text)
        if not isinstance(value, str):
            raise ValueError("a value is no text")
        return value
    if text.startswith("'") and text.endswith("'") and len(text) > 1:
        return text[1:-1].replace("''", "'")
    return text


def save(home: Home, profile: Profile, *, current: bool = True) -> None:
    """Writes the profile, and makes it the active one."""
    home.write(encode(profile), f"{profile.name}.yaml")
    if current:
        home.write(f"{profile.name}\n".encode(), CURRENT)


def load(home: Home, name: str) -> Profile | None:
    """The profile of a proxy's host, None when there is none."""
    data = home.read(f"{check_host(name)}.yaml")
    return None if data is None else decode(name, data)


def current_name(home: Home) -> str:
    """The active profile's name, empty when there is none."""
    return (home.read(CURRENT) or b"").decode(errors="replace").strip()


def load_all(home: Home) -> list[Profile]:
    """All profiles, the active one first."""
    active = current_name(home)
    names = [entry.removesuffix(".yaml") for entry in home.names() if entry.endswith(".yaml")]
    found = [load(home, name) for name in sorted(names, key=lambda name: (name != active, name))]
    return [profile for profile in found if profile is not None]


def choose(home: Home, proxy: str, user: str) -> Profile:
    """The profile that the flags mean: of `proxy` (a host; empty: the active one), checked against `user` if given.

    Raises `AccessDenied` when nobody is logged in there.
    """
    name = proxy or current_name(home)
    profile = load(home, name) if name else None
    where = f" to {proxy}" if proxy else ""
    if profile is None or (user and profile.user != user):
        who = f"{user} is" if user else "you are"
        raise AccessDenied(
            f"{who} not logged in{where}", hint=shlex.join(["tsh", "login", f"--proxy={proxy or 'HOST'}"])
        )
    return profile


def forget(home: Home, name: str) -> None:
    """Removes the profile; another one does not become active by itself."""
    home.remove(f"{name}.yaml")
    if current_name(home) == name:
        home.remove(CURRENT)
