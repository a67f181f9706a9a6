"""What the proxy's SSH service asks of the rest of the system, each as small as its use (the daemon hands them in)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

from teleport.authz.decision import AccessDenial
from teleport.errors import AccessDenied
from teleport.identity import UserIdentity
from teleport.ssh.handlers import Channel
from teleport.ssh.relay import NodeLeg
from teleport.ssh.surface import Peer
from teleport.store.resolve import RegisteredNode

Accept = Callable[[asyncio.Transport], None]
P = TypeVar("P", bound=asyncio.Protocol)


class Directory(Protocol):
    """The nodes that are registered now."""

    def nodes(self) -> Iterable[RegisteredNode]: ...

    def why_hidden(self, identity: UserIdentity, node: RegisteredNode) -> Sequence[str]:
        """Why the user's roles do not let them see this node; empty when they do."""
        ...

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids the user every session, whatever the host; None when nothing does."""
        ...

    def most_recent(self) -> bool:
        """Whether of several nodes that fit the one that started last is meant."""
        ...

    def second_factor_due(
        self, identity: UserIdentity, node: RegisteredNode, key: str, client_address: str
    ) -> AccessDenial | None:
        """The refusal when the user may go to this node with a second factor only, which was not given by whoever
        proved the key with this fingerprint; None when nothing is due."""
        ...


class Tunnels(Protocol):
    """The tunnels that hosts keep to this proxy."""

    def holds(self, host_id: str) -> bool:
        """Whether one leads to the host now."""
        ...

    async def connect(self, host_id: str, make: Callable[[], P]) -> P:
        """Connects a protocol with the node service of a host; waits a while for a tunnel that is made anew.

        Raises `ConnectionProblem`.
        """
        ...


class PodSessions(Protocol):
    """The sessions in pods that this proxy leads into, for who joins them."""

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids somebody to come there at all: to have no login on hosts does not."""
        ...

    async def lead(self, channel: Channel, peer: Peer, ended: Callable[[], None]) -> NodeLeg:
        """The leg that carries a client's connection, which ends there and is decided there."""
        ...


class UserCertificates(Protocol):
    """Verifies user certificates against the authorities that count now."""

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """Raises `CertificateRefused`."""
        ...


class Leases(Protocol):
    """Leases of second factors, for plain ssh."""

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        """How long a lease would be that is of use to whoever proved the key; None when there is nothing to ask for."""
        ...

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        """Whether a code would do, and the link where a hardware key approves, if one would. Raises `TeleportError`."""
        ...

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        """Makes a lease with a code; when it returns, the lease is in view here. Raises `TeleportError`."""
        ...

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        """Waits a while until a lease that a link gave is in view; False when there is none."""
        ...


class NoLeases:
    """Where nobody is asked."""

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        return None

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        raise AccessDenied("no leases are given here")

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        raise AccessDenied("no leases are given here")

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        return False


class ProxyIdentity(Protocol):
    """The proxy's own SSH host key: what it vouches with."""

    @property
    def certificate(self) -> bytes:
        """The host certificate's blob."""
        ...

    def sign(self, message: bytes) -> bytes:
        """An SSH signature blob over `message`."""
        ...
