"""What a proxy asks of another cluster's proxy, through the tunnel that the latter keeps (`tunnel.clusters`). Pure.

The message opens a `teleport-transport` channel; the channel's bytes are those of the connection asked for. It names a
host of the other cluster as the user typed it, or that cluster's auth service, or what its proxy serves Kubernetes
clients with, and never an address to dial: the other proxy looks the name up among its own registered hosts, as for
clients of its own. Towards Kubernetes the bytes are HTTP, as the person's client speaks it.

`vouch` is a line of `wire.vouch` by the asking proxy. Its target is `dial_target`, which covers the whole message: a
line that was heard elsewhere leads to no other host and for no other user. `certificate` is the user's SSH certificate
(base64 of its blob), or for Kubernetes the TLS certificate (of its DER), which the asking proxy has seen proved.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, Literal
from uuid import UUID, uuid5

import msgspec

from teleport.errors import BadRequest
from teleport.tunnel import messages as m

VERSION: Final = 1
MAX_HOST: Final = 255  # characters
_DIALS: Final = UUID("a9a3f1de-6a0c-4f43-8c0e-3f6f0f1f7a11")  # name space of `dial_target`

NODE: Final = "node"
AUTH: Final = "auth"
KUBE: Final = "kube"


class ClusterDial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a channel leads to, for whom."""

    cluster: str  # that is asked
    certificate: str  # the user's
    conn_type: Literal["node", "auth", "kube"] = NODE
    host: str = ""  # as it was typed; of a node
    port: int = 0
    vouch: str = ""
    version: int = VERSION


def dial_target(dial: ClusterDial) -> UUID:
    """Whom the vouch of a message is meant for."""
    plain = msgspec.structs.replace(dial, vouch="")
    return uuid5(_DIALS, hashlib.sha256(m.encode(plain)).hexdigest())


def encoded_certificate(blob: bytes) -> str:
    """A certificate as it stands in a message."""
    return base64.b64encode(blob).decode()


def read_dial(data: bytes, cluster: str) -> tuple[ClusterDial, bytes]:
    """A message that `cluster` got, and the blob of the certificate in it. Raises `BadRequest`, never anything else."""
    dial = m.decode(data, ClusterDial)
    if dial.version != VERSION:
        raise BadRequest(f"a connection of version {dial.version} is not known here", hint="update the proxies")
    if dial.cluster != cluster:
        raise BadRequest(f"this is the cluster {cluster}, and another one was asked for")
    if len(dial.host) > MAX_HOST or not 0 <= dial.port <= 65535 or (dial.conn_type == NODE) != bool(dial.host):
        raise BadRequest("a connection leads to a host, by its name and port, or to auth or Kubernetes")
    try:
        return dial, base64.b64decode(dial.certificate.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("the user's certificate cannot be read") from None
