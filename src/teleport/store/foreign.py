"""What is stored of other clusters: that there are such clusters, and their authorities. What cannot be used counts as
none: nothing about one other cluster keeps people of this one, or of a third, from being known, and what cannot be read
allows nothing. Statements are looked at before they are stored (`pki.cluster_statement`); this is for what got there
otherwise: by another version, a restored backup, or a hand."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final, TypeVar

from teleport.errors import BadRequest, TeleportError
from teleport.pki.keys import PublicKey
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509verify import trusted_tls_authority
from teleport.resources.authority import Authority
from teleport.resources.codec import from_json
from teleport.resources.kinds import Kind
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster

log = logging.getLogger(__name__)

KINDS: Final = {Kind.TRUSTED_CLUSTER: TrustedCluster, Kind.REMOTE_CLUSTER: RemoteCluster}
SHORT: Final = {Kind.TRUSTED_CLUSTER: "tc", Kind.REMOTE_CLUSTER: "rc"}
C = TypeVar("C", TrustedCluster, RemoteCluster)


def other_cluster(value: bytes, kind: type[C], name: str) -> C | None:
    """The cluster that is stored under this name; None, with a word in the log, when nobody can say what is there."""
    found = _cluster(value, Kind.TRUSTED_CLUSTER if kind is TrustedCluster else Kind.REMOTE_CLUSTER, name)
    return found if isinstance(found, kind) else None


def unreadable(value: bytes, kind: Kind, name: str) -> str:
    """Why what is stored of another cluster cannot be read; empty when it can."""
    found = _cluster(value, kind, name)
    return found if isinstance(found, str) else ""


def refuse_unreadable(kind: Kind, name: str) -> TeleportError:
    """What is raised for it. It says nothing of what is stored, which not everybody may read who asks."""
    short = SHORT[kind]
    return BadRequest(
        f"what is stored of the {kind} {name!r} cannot be read, and counts for nothing",
        hint=f"tctl get {short} says why; on an auth server: tctl rm {short}/{name}, then establish the trust anew",
    )


@lru_cache(maxsize=4096)
def _cluster(value: bytes, kind: Kind, name: str) -> TrustedCluster | RemoteCluster | str:
    """The cluster, or why it cannot be read."""
    try:
        found = from_json(value)
        if not isinstance(found, (TrustedCluster, RemoteCluster)) or (found.kind, found.name) != (str(kind), name):
            raise BadRequest("it is something else")
    except Exception as error:  # whatever is there: the others count
        log.error("what is stored of the %s %s cannot be read, and counts for nothing: %s", kind, name, error)
        return str(error)
    return found


@lru_cache(maxsize=512)
def foreign_authority(value: bytes, kind: AuthorityKind, cluster: str) -> Authority | None:
    """The authority of `cluster` in its stored form; None, with a word in the log, when a key in it is none."""
    try:
        found = from_json(value)
        if not isinstance(found, Authority) or (str(found.type), found.name) != (str(kind), cluster):
            raise ValueError("it is something else")
        retired = (line for one in found.spec.retired_keys for line in one.ssh)
        for line in (*found.trusted_ssh_keys, *retired):
            PublicKey.parse(line).crypto()
        for pem in found.trusted_tls_certs:
            trusted_tls_authority(kind, cluster, pem.encode())
    except Exception as error:  # whatever is there: the others count
        log.error("the %s authority of the cluster %s cannot be used, and is not believed: %s", kind, cluster, error)
        return None
    return found
