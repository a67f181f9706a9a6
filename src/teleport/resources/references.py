"""How people point at resources on a command line: `users`, `ca`, `role/admin` (`resources.md` 1)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from teleport.errors import BadRequest
from teleport.resources.kinds import Kind
from teleport.resources.names import check_name

_SHORT: dict[str, Kind] = {
    "ca": Kind.CERT_AUTHORITY,
    "cas": Kind.CERT_AUTHORITY,
    "cert_authorities": Kind.CERT_AUTHORITY,
    "cluster": Kind.TRUSTED_CLUSTER,
    "clusters": Kind.TRUSTED_CLUSTER,
    "tc": Kind.TRUSTED_CLUSTER,
    "rc": Kind.REMOTE_CLUSTER,
    "rcs": Kind.REMOTE_CLUSTER,
    "sem": Kind.SEMAPHORE,
    "sems": Kind.SEMAPHORE,
    "connector": Kind.AUTH_CONNECTOR,
    "connectors": Kind.AUTH_CONNECTOR,
    "cap": Kind.CLUSTER_AUTH_PREFERENCE,
    "auth_preference": Kind.CLUSTER_AUTH_PREFERENCE,
    "netconfig": Kind.CLUSTER_NETWORKING_CONFIG,
    "recconfig": Kind.SESSION_RECORDING_CONFIG,
    "auth": Kind.AUTH_SERVER,
    "auths": Kind.AUTH_SERVER,
    "proxies": Kind.PROXY,
    "server": Kind.NODE,
    "servers": Kind.NODE,
    "rts": Kind.TUNNEL,
}

PLURALS: dict[str, Kind] = {f"{kind}s": kind for kind in Kind if not kind.endswith("s")}


def kind_by_name(name: str) -> Kind:
    """The kind that an operator means by `users`, `ca`, `netconfig`; raises `BadRequest` naming the nearest."""
    word = name.strip().lower().replace("-", "_")
    if word in Kind.__members__.values():
        return Kind(word)
    kind = _SHORT.get(word) or PLURALS.get(word)
    if kind is not None:
        return kind
    known = [*Kind.__members__.values(), *PLURALS, *_SHORT]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"kinds are {', '.join(sorted(Kind))}"
    raise BadRequest(f"unknown kind of resource {name[:64]!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """What `kind/name`, `kind/sub_kind/name` or `kind` on a command line points at."""

    kind: Kind
    name: str = ""
    sub_kind: str = ""

    @classmethod
    def parse(cls, text: str) -> ResourceRef:
        """Raises `BadRequest`. `cert_authority/user` names the type; the cluster's name may follow."""
        parts = text.split("/")
        kind = kind_by_name(parts[0])
        if len(parts) > 3 or any(check_name(part) for part in parts[1:]):
            raise BadRequest(f"{text[:128]!r} names no resource", hint="write kind, kind/name or kind/sub_kind/name")
        if len(parts) == 3:
            return cls(kind, parts[2], parts[1])
        if len(parts) == 2 and kind is Kind.CERT_AUTHORITY:
            return cls(kind, "", parts[1])
        return cls(kind, parts[1] if len(parts) == 2 else "")
