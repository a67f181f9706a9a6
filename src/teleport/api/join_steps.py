"""What to type so that a host joins, or another cluster trusts this one: the same from tctl and from a browser.

The token goes to the new host in a file, so that no process list shows it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Final

from teleport.api import messages as m

KUBE_FILE: Final = "/etc/teleport-kube.yaml"
TOKEN_PLACE: Final = "/etc/teleport.token"  # noqa: S105 - where the instructions put one
SERVED: Final = frozenset({"node", "proxy", "auth", "kube"})  # what hosts join as; other types are kept for later
BY_FLAG: Final = SERVED - {"kube"}  # which `--roles` starts; a Kubernetes service needs a file
_LOOPBACK: Final = ("127.", "localhost:", "[::1]")
OWN_HOST_ONLY: Final = "That address of the auth server is good on this host only: use one that the new host reaches."


def write_token(made: m.JoinToken) -> str:
    """The command that puts the token into a file."""
    return f"(umask 077 && printf '%s\\n' {shlex.quote(made.token)} > {shlex.quote(TOKEN_PLACE)})"


def start_command(made: m.JoinToken, out: str, reached: Sequence[str], *, indent: str = "    ") -> str:
    """The command that starts the host. `out`: the file that holds the token already; `reached`: addresses of auth,
    when none has announced itself."""
    place = shlex.quote(out) if out else TOKEN_PLACE
    flags = [f"--roles={','.join(role for role in made.roles if role in BY_FLAG)}", f"--token={place}"]
    flags += [f"--ca-pin={pin}" for pin in made.ca_pins]
    flags += [shlex.quote(f"--auth-server={server}") for server in auth_servers(made, reached)]
    return "teleport start " + f" \\\n{indent}    ".join(flags)


def auth_servers(made: m.JoinToken, reached: Sequence[str]) -> list[str]:
    """Where the new host is sent."""
    return made.auth_servers[:1] or list(reached[:1])


def own_host_only(made: m.JoinToken, reached: Sequence[str]) -> bool:
    """Whether that address is good on the auth server's host alone."""
    return any(server.startswith(_LOOPBACK) for server in auth_servers(made, reached))


def kube_document(made: m.JoinToken, out: str, reached: Sequence[str]) -> str:
    """The file of a host that runs a Kubernetes service."""
    servers = made.web_addresses[:1] or auth_servers(made, reached)
    pins = "".join(f"\n  - {pin}" for pin in made.ca_pins)
    return (
        f"teleport:\n  auth_token: {_quoted(out or TOKEN_PLACE)}\n"
        f"  auth_servers: [{', '.join(_quoted(server) for server in servers)}]\n  ca_pin:{pins}\n"
        "kubernetes_service:\n  enabled: yes\n"
        "  kubeconfig_file: /etc/teleport.kubeconfig   # each context is a cluster; or kube_cluster_name, in a pod\n"
        "  # listen_addr: 0.0.0.0:3027   # without it, it keeps tunnels to the proxy in auth_servers\n"
        "auth_service: {enabled: no}\nproxy_service: {enabled: no}\nssh_service: {enabled: no}\n"
    )


def kube_command(made: m.JoinToken, reached: Sequence[str]) -> str:
    """What starts such a host, all in one."""
    return (
        f"{write_token(made)}\ncat > {KUBE_FILE} <<'END'\n{kube_document(made, '', reached)}END\n"
        f"teleport start --config={KUBE_FILE}"
    )


def for_host(made: m.JoinToken, out: str, reached: Sequence[str]) -> str:
    """What to type on the new host, with words around it."""
    if not BY_FLAG.intersection(made.roles):
        first = (
            f"Copy {out} to the new host"
            if out
            else f"On the new host, put the token into a file:\n\n    {write_token(made)}\n"
        )
        then = f"Then write {KUBE_FILE} and run teleport start --config={KUBE_FILE}:"
        text = f"{first}\n{then}\n\n{kube_document(made, out, reached)}"
        return text + (f"\n{OWN_HOST_ONLY}\n" if not made.web_addresses and own_host_only(made, reached) else "")
    first = (
        f"Copy {out} to the new host, and start there, as root:\n\n"
        if out
        else f"On the new host, as root, put the token into a file and start:\n\n    {write_token(made)}\n"
    )
    text = f"{first}    {start_command(made, out, reached)}\n"
    return text + (f"\n{OWN_HOST_ONLY}\n" if own_host_only(made, reached) else "")


def for_cluster(made: m.JoinToken, out: str) -> str:
    """What to write on the other cluster, so that it trusts this one."""
    return (
        "On the other cluster, whose hosts people of this one shall reach, write tc.yaml and run:\n\n"
        f"    tctl create tc.yaml\n\n{cluster_document(made, out)}"
    )


def cluster_document(made: m.JoinToken, out: str = "") -> str:
    """The trusted cluster, as it is written over there."""
    pins = "".join(f"\n    - {pin}" for pin in made.ca_pins)
    address = made.web_addresses[0] if made.web_addresses else "PROXY.OF.THIS.CLUSTER:443"
    token = _quoted(f"THE TOKEN IN {out}") if out else made.token
    return (
        "kind: trusted_cluster\nversion: v2\nmetadata:\n  name: root   # becomes this cluster's name\nspec:\n"
        f"  enabled: true\n  token: {token}\n  web_proxy_addr: {_quoted(address)}\n  ca_pins:{pins}\n"
        "  role_map:            # roles here, and the roles that they give there\n"
        "  - remote: access\n    local: [access]\n"
    )


def _quoted(text: str) -> str:
    """As YAML takes it for text: an address like [::1]:443 would be a list. JSON's strings are YAML's, too."""
    return json.dumps(text)
