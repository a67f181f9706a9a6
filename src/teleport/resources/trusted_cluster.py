"""Clusters that trust each other (`resources.md` 9): seen from the one whose hosts are reached, and from the other.

A `trusted_cluster` stands in the *leaf*: users of the cluster it names may reach this one's hosts, with the roles that
`role_map` gives them. A `remote_cluster` stands in the *root*: a cluster whose hosts its users may reach. Neither holds
keys: those are `cert_authority` resources of the other cluster's name, without private halves, and they give nothing
without the resource here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

import msgspec

from teleport.errors import BadRequest
from teleport.identity import REMOTE_PREFIX
from teleport.resources.authority import RoleMapping
from teleport.resources.metadata import Finding, Metadata, Moment, Value, shown, text_findings
from teleport.resources.names import check_name, check_text
from teleport.resources.pattern import BadPattern, Pattern, compile_pattern, is_pattern
from teleport.resources.secret import SecretText
from teleport.resources.values import HostPort

WEB_PORT: Final = 443
TUNNEL_PORT: Final = 3024
MAX_MAPPINGS: Final = 256
MAX_LOCAL: Final = 64
MAX_ROLE_PATTERN: Final = 256  # characters
OFFLINE_AFTER: Final = timedelta(minutes=15)  # without a word of the other cluster


def names_meet(one: str, other: str) -> bool:
    """Whether users of two clusters could get the same name here: `bob` of `a-b`, and `bob-a` of `b`."""
    one, other = one.lower(), other.lower()
    return one == other or one.endswith(f"-{other}") or other.endswith(f"-{one}")


@lru_cache(maxsize=1024)
def mapping_pattern(remote: str) -> Pattern | None:
    """The expression that `remote` of a mapping stands for: `^..$` as it is, globs with a group for each `*`; None for
    a plain name. Raises `BadPattern`."""
    if is_pattern(remote):
        return compile_pattern(remote)
    if "*" not in remote:
        return None
    return compile_pattern("^" + "".join(_of_glob(char) for char in remote) + "$")


def _of_glob(char: str) -> str:
    if char == "*":
        return "(.*)"
    return f"\\{char}" if char.isascii() and not char.isalnum() else char


class TrustedClusterStatus(Value, frozen=True, kw_only=True):
    """How the exchange of authorities goes; output only."""

    last_exchange: Moment | None = None
    problem: str = ""  # why the last try failed


class TrustedClusterSpec(Value, frozen=True, kw_only=True):
    enabled: bool = False
    token: SecretText | None = None  # of the root; not kept once it was used
    web_proxy_addr: str = ""
    tunnel_addr: str = ""  # where the root's proxies take tunnels; empty: as its web page says
    role_map: tuple[RoleMapping, ...] = ()
    roles: tuple[str, ...] = ()  # the older form: every role of the root gives these
    ca_pins: tuple[str, ...] = ()  # of the root; without them its web certificate has to be one that is known here


class TrustedCluster(Value, frozen=True, kw_only=True):
    """A cluster whose users are let in here. `metadata.name` is its name."""

    kind: Literal["trusted_cluster"] = "trusted_cluster"
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: TrustedClusterSpec
    status: TrustedClusterStatus = TrustedClusterStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def role_map(self) -> tuple[RoleMapping, ...]:
        """The mappings, also where they were written in the older form."""
        if self.spec.roles:
            return (RoleMapping(remote="*", local=self.spec.roles),)
        return self.spec.role_map

    @property
    def web_proxy(self) -> HostPort:
        return HostPort.parse(self.spec.web_proxy_addr, WEB_PORT)

    def without_token(self) -> TrustedCluster:
        """As it is kept."""
        return msgspec.structs.replace(
            self, spec=msgspec.structs.replace(self.spec, token=None), status=TrustedClusterStatus()
        )

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        spec = self.spec
        for field, port in (("web_proxy_addr", WEB_PORT), ("tunnel_addr", TUNNEL_PORT)):
            text = getattr(spec, field)
            if not text and field == "tunnel_addr":
                continue
            try:
                HostPort.parse(text, port)
            except ValueError as error:
                yield Finding(("spec", field), shown(text), f"the address of the root's proxy, host:port; {error}")
        if bool(spec.role_map) == bool(spec.roles):
            found = "both" if spec.roles else "no role_map"
            yield Finding(("spec", "role_map"), found, "which roles of the root give which here: role_map, or roles")
        if len(spec.role_map) > MAX_MAPPINGS:
            yield Finding(("spec", "role_map"), f"{len(spec.role_map)} mappings", f"at most {MAX_MAPPINGS}")
        for number, one in enumerate(spec.role_map):
            yield from _mapping_findings(("spec", "role_map", number), one)
        for number, role in enumerate(spec.roles):
            if problem := check_name(role):
                yield Finding(("spec", "roles", number), shown(role), f"the name of a role; this one {problem}")
        for number, pin in enumerate(spec.ca_pins):
            if not _is_pin(pin):
                yield Finding(("spec", "ca_pins", number), shown(pin), "sha256: and 64 hex digits: tctl status")
        yield from text_findings(("status", "problem"), self.status.problem)


def _mapping_findings(where: tuple[str | int, ...], one: RoleMapping) -> Iterator[Finding]:
    try:
        if not one.remote or len(one.remote) > MAX_ROLE_PATTERN or check_text(one.remote):
            raise BadPattern("is empty, too long or no line of text")
        pattern = mapping_pattern(one.remote)
    except BadPattern as error:
        yield Finding((*where, "remote"), shown(one.remote), f"a role, a glob or ^..$; this one {error}")
        return
    if not one.local or len(one.local) > MAX_LOCAL:
        yield Finding((*where, "local"), f"{len(one.local)} roles", f"1 to {MAX_LOCAL} roles of this cluster")
    for number, local in enumerate(one.local):
        problem = check_name(local.replace("{", "").replace("}", "") if "$" in local else local)
        if not problem and "$" in local and pattern is None:
            problem = "refers to a part of a pattern, and remote is none"
        if problem:
            yield Finding((*where, "local", number), shown(local), f"a role of this cluster; this one {problem}")


def _is_pin(text: str) -> bool:
    digits = text.removeprefix("sha256:")
    return len(digits) == 64 and len(text) == 71 and all(char in "0123456789abcdef" for char in digits)


class RemoteClusterStatus(Value, frozen=True, kw_only=True):
    """Whether the cluster is there; output only."""

    connection: Literal["online", "offline"] = "offline"
    last_heartbeat: Moment | None = None  # when a proxy last held a tunnel of it
    last_exchange: Moment | None = None  # when it last exchanged authorities


class RemoteClusterSpec(Value, frozen=True, kw_only=True):
    removed: Moment | None = None  # it said goodbye: nothing of it is believed any more


class RemoteCluster(Value, frozen=True, kw_only=True):
    """A cluster whose hosts are reached from here. It appears when the other side proves a token."""

    kind: Literal["remote_cluster"] = "remote_cluster"
    version: Literal["v3"] = "v3"
    metadata: Metadata
    spec: RemoteClusterSpec = RemoteClusterSpec()
    status: RemoteClusterStatus = RemoteClusterStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def removed(self) -> bool:
        return self.spec.removed is not None

    def as_of(self, heartbeat: datetime | None, exchange: datetime | None, now: datetime) -> RemoteCluster:
        """The cluster with its status at `now`, from when it was heard of."""
        heard = not self.removed and heartbeat is not None and now - heartbeat < OFFLINE_AFTER
        status = RemoteClusterStatus(
            connection="online" if heard else "offline", last_heartbeat=heartbeat, last_exchange=exchange
        )
        return msgspec.structs.replace(self, status=status)

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()


def check_local_user(name: str) -> None:
    """Raises `BadRequest` for a name that users of other clusters have here."""
    if name.lower().startswith(REMOTE_PREFIX):
        raise BadRequest(
            f"a user cannot be called {name[:80]!r}: names with {REMOTE_PREFIX} are those of other clusters' users",
            hint="choose another name",
        )
