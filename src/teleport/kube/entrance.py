"""Whose calls a connection to the listener carries, by the certificate that TLS proved.

At a proxy people come themselves. At a Kubernetes service nobody does: only proxies of the cluster are let in there,
and each says whose calls it forwards (`kube.introduction`). A host of any other role, and a person, is refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.kube.introduction import MAX_LINE, decode
from teleport.kube.needs import Rules
from teleport.pki.refusal import CertificateRefused
from teleport.ssh.surface import Peer

INTRODUCED: Final = 15.0  # seconds from TLS to the introduction


@dataclass(frozen=True, slots=True)
class Entered:
    """Whose connection it is."""

    certificate: bytes  # DER, of the person
    identity: UserIdentity
    peer: Peer  # where the person is
    kube_cluster: str  # where the calls go; empty: nobody chose
    rules: Rules | None = None  # by which the person is judged, where not by those of everybody


class Unspoken(AccessDenied):
    """Whoever comes is not spoken with: no answer is theirs to read."""


class Entrance(Protocol):
    """Who comes in."""

    async def enter(self, proved: bytes, peer: Peer, reader: asyncio.StreamReader) -> Entered:
        """Raises `AccessDenied`; `Unspoken` when no answer is to be given."""
        ...

    def stays(self, proved: bytes) -> bool | None:
        """Whether who proved this certificate may still be here; None: for what is open, and for nothing new."""
        ...


class People:
    """A proxy's listener: each comes with a certificate of their own."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def enter(self, proved: bytes, peer: Peer, reader: asyncio.StreamReader) -> Entered:
        if not proved:
            raise AccessDenied("No certificate was shown.", hint="tsh kube login")
        identity = self._rules.verify_user_tls(proved)
        return Entered(proved, identity, peer, identity.kube_cluster)

    def stays(self, proved: bytes) -> bool | None:
        return True  # who it is, is asked anew for each call


class OfCluster:
    """Somebody of another cluster of ours, whom a proxy over there leads here: the certificate was proved to it."""

    def __init__(self, rules: Rules, certificate: bytes) -> None:
        """`rules` judge people of that cluster, and no others."""
        self._rules = rules
        self._certificate = certificate

    async def enter(self, proved: bytes, peer: Peer, reader: asyncio.StreamReader) -> Entered:
        identity = self._rules.verify_user_tls(self._certificate)
        return Entered(self._certificate, identity, peer, identity.kube_cluster, self._rules)

    def stays(self, proved: bytes) -> bool | None:
        return True  # the tunnel ends when the proxy may not lead here any more


class Hosts(Protocol):
    """Who belongs to the cluster now."""

    def verify_host_tls(self, certificate: bytes) -> HostIdentity:
        """Raises `CertificateRefused`, or `AccessDenied` for a host that is locked or was expelled."""
        ...


class Proxies:
    """A service's listener: proxies come, for people."""

    def __init__(self, rules: Rules, hosts: Hosts) -> None:
        self._rules = rules
        self._hosts = hosts

    async def enter(self, proved: bytes, peer: Peer, reader: asyncio.StreamReader) -> Entered:
        self._check(proved)
        try:
            async with asyncio.timeout(INTRODUCED):
                said = decode(await _line(reader))
        except (TimeoutError, BadRequest) as error:
            why = error.message if isinstance(error, BadRequest) else "it introduced nobody"
            raise Unspoken(f"A proxy spoke in a way that is not understood: {why}.", hint="update it") from None
        identity = self._rules.verify_user_tls(said.certificate)
        if identity.kube_cluster not in ("", said.kube_cluster):
            raise AccessDenied(
                "The certificate is for another Kubernetes cluster than the one that is asked for.",
                hint="tsh kube login",
            )
        return Entered(said.certificate, identity, Peer(said.host, said.port), said.kube_cluster)

    def _check(self, proved: bytes) -> None:
        """Raises `Unspoken` unless it is a proxy's that may be here."""
        try:
            identity = self._hosts.verify_host_tls(proved)
        except TeleportError as error:
            detail = getattr(error, "detail", "")
            raise Unspoken(f"{error.message} {detail}".strip(), hint="only proxies come here") from None
        if identity.role is not SystemRole.PROXY:
            raise Unspoken(
                f"The host {identity.host_id} shows a certificate of the role {identity.role}, no proxy's.",
                hint="only proxies come here",
            )

    def stays(self, proved: bytes) -> bool | None:
        try:
            return self._hosts.verify_host_tls(proved).role is SystemRole.PROXY
        except CertificateRefused:
            return None
        except TeleportError:
            return False


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Raises `BadRequest`."""
    try:
        line = await reader.readline()
    except ValueError:
        raise BadRequest("an introduction is too long") from None
    if not line.endswith(b"\n") or len(line) > MAX_LINE:
        raise BadRequest("the connection ended before it")
    return line
