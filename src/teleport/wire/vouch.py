"""The line with which a proxy vouches for the client behind a connection to a node or to auth (design decision 17).

At a node the peer of a connection is the proxy, and so it is at auth for whoever comes by the proxy's websocket. The
proxy therefore sends one line, before the SSH version or before TLS (`transport.first_bytes`): who the client is, which
session it belongs to, which node it is meant for (or auth), when, and once. The line is signed by the proxy's SSH host
key and carries its certificate. `docs/proxy-to-node.md` is the description for other implementations.

    TELEPORT-VOUCH-1 <base64 of the JSON claim> <base64 of the signature> CR LF

Rules it keeps: a line is believed only from a certificate of role Proxy of the own cluster, meant for whoever reads it,
at most `VALID` old, once; a line that is not believed ends the connection (it never falls back to the peer's address);
nothing is parsed beyond `MAX_LINE` bytes.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import msgspec

from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import HostIdentity, SystemRole

RECORDED_AS = "TELEPORT_RECORDED_AS"  # the variable by which a proxy that records says under which session id
PREFIX = b"TELEPORT-VOUCH-1 "
MAX_LINE = 8192  # bytes, including the line's end
VALID = timedelta(seconds=30)  # before and after the node's own time: hosts' clocks differ
DOMAIN = b"teleport vouch v1\x00"  # what else this key signs can never be read as a vouch
_NONCE_BYTES = 16
_AUTH_SERVICES = UUID("5c6b3a0e-6a1b-4c0e-9d0d-6f1f0f6e7a54")  # name space of `auth_target`


def auth_target(cluster: str) -> UUID:
    """Whom a line for the auth service of `cluster` is meant for: one id for all its auth servers, no node's.

    A proxy often reaches them behind one address, so it cannot name the very one.
    """
    return uuid5(_AUTH_SERVICES, cluster)


class _Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    addr: str
    port: int
    session: str
    target: str
    time_ms: int
    nonce: str
    certificate: str
    cluster: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Vouch:
    """What a proxy states about one connection."""

    client_host: str  # an IP address in its canonical form
    client_port: int
    session_id: UUID  # of the proxy's connection; leases and audit events name it
    target: UUID  # the node it is meant for, or `auth_target`
    time: datetime
    nonce: bytes
    cluster: str = ""  # whose proxy said where the client is; that counts for this other cluster's users only
    trace: str = ""  # `traceparent`, where spans of the connection are kept; believed for nothing else


@dataclass(frozen=True, slots=True)
class SignedVouch:
    """A parsed line: well-formed, and not believed yet."""

    vouch: Vouch
    certificate: bytes
    signed: bytes
    signature: bytes


def encode(vouch: Vouch, certificate: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The line for `vouch`. `certificate` is the proxy's SSH host certificate; `sign` signs with its key.

    Raises `BadRequest` when the line would be longer than `MAX_LINE`.
    """
    if len(vouch.nonce) != _NONCE_BYTES:
        raise BadRequest(f"a vouch needs a nonce of {_NONCE_BYTES} bytes")
    claim = msgspec.json.encode(
        _Claim(
            addr=vouch.client_host,
            port=vouch.client_port,
            session=str(vouch.session_id),
            target=str(vouch.target),
            time_ms=int(vouch.time.timestamp() * 1000),
            nonce=base64.b64encode(vouch.nonce).decode(),
            certificate=base64.b64encode(certificate).decode(),
            cluster=vouch.cluster,
            trace=vouch.trace,
        )
    )
    line = PREFIX + base64.b64encode(claim) + b" " + base64.b64encode(sign(DOMAIN + claim)) + b"\r\n"
    if len(line) > MAX_LINE:
        raise BadRequest(
            f"the vouch would have {len(line)} bytes, more than {MAX_LINE}: the host certificate is too long"
        )
    return line


def parse(line: bytes) -> SignedVouch:
    """Reads a line (with or without its end). Raises `BadRequest`, never anything else."""
    if len(line) > MAX_LINE:
        raise BadRequest(f"a vouch has at most {MAX_LINE} bytes")
    if not line.startswith(PREFIX):
        raise BadRequest("this is not a vouch of a version known here")
    words = line.removesuffix(b"\n").removesuffix(b"\r")[len(PREFIX) :].split(b" ")
    if len(words) != 2:
        raise BadRequest("a vouch has a claim and a signature")
    try:
        signed = _unbase64(words[0])
        claim = msgspec.json.decode(signed, type=_Claim)
        host = str(ipaddress.ip_address(claim.addr))
        vouch = Vouch(
            client_host=host,
            client_port=claim.port,
            session_id=UUID(claim.session),
            target=UUID(claim.target),
            time=datetime.fromtimestamp(claim.time_ms / 1000, UTC),
            nonce=_unbase64(claim.nonce.encode("ascii")),
            cluster=claim.cluster,
            trace=claim.trace,
        )
        parsed = SignedVouch(vouch, _unbase64(claim.certificate.encode("ascii")), signed, _unbase64(words[1]))
    except (msgspec.MsgspecError, ValueError, OverflowError, OSError) as error:
        raise BadRequest(f"the vouch cannot be read: {error}") from error
    if host != claim.addr or not 0 <= claim.port <= 65535 or len(vouch.nonce) != _NONCE_BYTES:
        raise BadRequest("the vouch has an address, port or nonce that cannot be meant")
    return parsed


def _unbase64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


class Seen:
    """The nonces of vouches that were used and are still valid: each counts once."""

    def __init__(self, capacity: int = 100_000) -> None:
        self._until: dict[bytes, datetime] = {}
        self._capacity = capacity

    def use(self, nonce: bytes, now: datetime) -> None:
        """Remembers `nonce`. Raises `AccessDenied` when it was used, `LimitExceeded` when no room is left."""
        # Insertion order is not quite order of expiry, but every entry lives equally long from its use.
        while self._until and next(iter(self._until.values())) < now:
            del self._until[next(iter(self._until))]
        if nonce in self._until:
            raise AccessDenied("the vouch was used before")
        if len(self._until) >= self._capacity:
            raise LimitExceeded("more connections through proxies in a minute than can be told apart")
        self._until[nonce] = now + 2 * VALID

    def __len__(self) -> int:
        return len(self._until)


class ClocksDiffer(AccessDenied):
    """A true vouch, made at another time than it is here."""

    def __init__(self, made: datetime, now: datetime) -> None:
        super().__init__(
            f"the vouch is of {made:%Y-%m-%d %H:%M:%S}, here it is {now:%Y-%m-%d %H:%M:%S} UTC",
            hint="set the clocks of the proxy and of this node (timedatectl set-ntp true)",
        )
        self.told = (
            f"The clocks of the proxy ({made:%Y-%m-%d %H:%M:%S} UTC) and of this host ({now:%Y-%m-%d %H:%M:%S} UTC) "
            "differ too much: nobody is let in. Ask an administrator to set them (timedatectl set-ntp true)."
        )
        """What the client may read: it is in a session with that proxy."""


def check(
    signed: SignedVouch,
    *,
    cluster: str,
    target: UUID,
    now: datetime,
    verify_certificate: Callable[[bytes], HostIdentity],
    verify_signature: Callable[[bytes, bytes, bytes], None],
    seen: Seen,
) -> Vouch:
    """Believes a line or raises `AccessDenied` (`ClocksDiffer` among it) or `LimitExceeded`.

    `verify_certificate` gives the identity of a host certificate signed by an authority of this cluster, or raises;
    `verify_signature(certificate, message, signature)` checks a signature by the certificate's key, or raises.
    """
    identity = verify_certificate(signed.certificate)
    if identity.role is not SystemRole.PROXY or identity.cluster != cluster:
        raise AccessDenied(f"{identity.role} {identity.host_id} of {identity.cluster} may not vouch for clients")
    verify_signature(signed.certificate, DOMAIN + signed.signed, signed.signature)
    vouch = signed.vouch
    if vouch.target != target:
        raise AccessDenied("the vouch is meant for another node")
    if abs(now - vouch.time) > VALID:
        raise ClocksDiffer(vouch.time, now)
    seen.use(vouch.nonce, now)
    return vouch
