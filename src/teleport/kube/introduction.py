"""What a proxy says first to a Kubernetes service: whose calls follow, from where, to which cluster. Pure.

It is one line of JSON inside mutual TLS, before HTTP, once for each connection: no call can be taken for another
person's. Who may say it is decided by the certificate of TLS, which has to be a proxy's; the person's own certificate
stands in the line, so that nobody is spoken for who has not come to a proxy with one, and it is judged as it would be
at the proxy. The address is the proxy's word. A line that is not as it should be ends the connection.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from teleport.errors import BadRequest
from teleport.resources.names import canonical_address

VERSION: Final = 1
MAX_LINE: Final = 64 * 1024  # bytes, with the line's end
MAX_NAME: Final = 256  # characters


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    certificate: str
    host: str
    port: int
    kube_cluster: str


@dataclass(frozen=True, slots=True)
class Introduction:
    """One person's connection, as a proxy tells of it."""

    certificate: bytes  # DER, of the person
    host: str  # where the person is: an IP address
    port: int
    kube_cluster: str  # where the calls go


def encode(said: Introduction) -> bytes:
    """The line. Raises `BadRequest` for what no line can say."""
    line = _Line(
        version=VERSION,
        certificate=base64.b64encode(said.certificate).decode(),
        host=said.host,
        port=said.port,
        kube_cluster=said.kube_cluster,
    )
    text = msgspec.json.encode(line) + b"\n"
    if len(text) > MAX_LINE:
        raise BadRequest("the certificate is too long to be forwarded", hint="tsh login with fewer roles or traits")
    return text


def decode(text: bytes) -> Introduction:
    """Reads a line, with or without its end. Raises `BadRequest`, never anything else."""
    if len(text) > MAX_LINE:
        raise BadRequest("an introduction is too long")
    try:
        line = msgspec.json.decode(text, type=_Line)
        certificate = base64.b64decode(line.certificate, validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise BadRequest(f"an introduction cannot be read: {error}") from None
    host = canonical_address(line.host)
    if line.version != VERSION or not certificate or not host or not 0 <= line.port < 65536:
        raise BadRequest("an introduction says what it cannot")
    if not line.kube_cluster or len(line.kube_cluster) > MAX_NAME:
        raise BadRequest("an introduction names no Kubernetes cluster")
    return Introduction(certificate, host, line.port, line.kube_cluster)
