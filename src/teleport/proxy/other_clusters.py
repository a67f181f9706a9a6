"""What leads users of this cluster to clusters that trust it: who may go where, and what is open meanwhile.

The other cluster's proxies keep tunnels here (`tunnel.clusters`). A user's connection becomes a channel of such a
tunnel, begun with what is wanted and a line that vouches for the client (`tunnel.cluster_messages`); the SSH session in
it is between the user and a host over there, which decides by the roles that it maps.

The other cluster knows nothing of locks and roles here. So whoever is led through is looked at anew when those change,
and is cut off when they may not go there any more.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Protocol, TypeVar
from uuid import uuid4

import msgspec

from teleport.authz.decision import AccessDenial
from teleport.authz.ssh import asking_auth
from teleport.clock import Clock
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import UserIdentity
from teleport.resources.names import canonical_address
from teleport.ssh.handlers import Channel
from teleport.ssh.relay import NodeLeg
from teleport.ssh.surface import Peer
from teleport.store.resolve import Destination
from teleport.tunnel import cluster_messages as cm
from teleport.tunnel import messages as m
from teleport.wire import vouch

log = logging.getLogger(__name__)

CHUNK: Final = 65536  # bytes
AT_ONCE: Final = 50  # connections looked at in one turn of the loop
P = TypeVar("P", bound=asyncio.Protocol)


class Remotes(Protocol):
    """The clusters that trust this one, and what forbids somebody to go there."""

    def names(self) -> Sequence[str]:
        """All of them."""
        ...

    def why_not(self, identity: UserIdentity, cluster: str) -> AccessDenial | None:
        """The refusal of whoever may not go to `cluster`; None for whoever may."""
        ...

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        """What forbids the user every session, wherever; None when nothing does."""
        ...

    def verify_user(self, certificate: bytes) -> UserIdentity:
        """Raises `AccessDenied` for a certificate that does not count, or not any more."""
        ...

    def stands(self, certificate: bytes) -> bool:
        """Whether what was begun with this certificate may go on: its authority counts, or a rotation let it go."""
        ...


class Tunnels(Protocol):
    """The tunnels of other clusters' proxies."""

    def online(self, cluster: str) -> bool: ...

    async def connect(self, cluster: str, dial: Callable[[], bytes], make: Callable[[], P]) -> P: ...


class ProxyIdentity(Protocol):
    """What this proxy vouches with."""

    @property
    def certificate(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Traveller:
    """Somebody who goes to another cluster."""

    identity: UserIdentity
    certificate: bytes
    peer: Peer
    cluster: str
    asks_auth: bool = False  # and no host


class NotThere(NotFound):
    """There is no such cluster for the user; `detail` is for the audit log."""

    def __init__(self, cluster: str, here: str, near: str = "", detail: str = "") -> None:
        super().__init__(
            f"The cluster {cluster} is not known here, this one is {here}.{near}",
            hint=f"tsh clusters lists what is known; name a host of this cluster: LOGIN@HOST.{here}",
        )
        self.detail = detail


class NoSession(AccessDenied):
    """The user may have no session at all: they read the public sentence, the audit log the reasons."""

    def __init__(self, denial: AccessDenial) -> None:
        super().__init__(denial.public, hint=denial.hint)
        self.detail = f"{denial.code}: {'; '.join(denial.reasons)}"


class OtherClusters:
    """The way to clusters that trust this one."""

    def __init__(self, cluster: str, remotes: Remotes, tunnels: Tunnels, identity: ProxyIdentity, clock: Clock) -> None:
        self._cluster = cluster
        self._remotes = remotes
        self._tunnels = tunnels
        self._identity = identity
        self._clock = clock
        self._open: dict[_Leg | _Stream, Traveller] = {}

    # whom is meant

    def meant(self, destination: Destination, identity: UserIdentity) -> Destination | None:
        """The host of another cluster that somebody means; None for one of this cluster's. Raises `NotFound` for a
        cluster that is none, or none for them, with the nearest names.

        A cluster that was said counts; else one that the name ends with, the longest; else the certificate's.
        """
        names = self._remotes.names()
        cluster = destination.cluster or self._ending(destination.host, names) or identity.route_to_cluster
        if cluster in ("", self._cluster):
            return None
        if cluster not in names:
            raise NotThere(cluster, self._cluster, self._nearest(identity, cluster))
        return Destination(destination.host, destination.port, cluster)

    def _ending(self, host: str, names: Sequence[str]) -> str:
        """The cluster that a host's name ends with; an address ends with none."""
        if canonical_address(host):
            return ""
        name = host.strip().rstrip(".").lower()
        fitting = [cluster for cluster in (self._cluster, *names) if name.endswith(f".{cluster.lower()}")]
        return max(fitting, key=len, default="")

    def _nearest(self, identity: UserIdentity, cluster: str) -> str:
        known = [self._cluster, *(name for name, _ in self.listed(identity))]
        near = difflib.get_close_matches(cluster, known, n=3, cutoff=0.5)
        return f" Did you mean {' or '.join(near)}?" if near else ""

    def check_session(self, identity: UserIdentity, client_address: str) -> None:
        """Raises `AccessDenied` for somebody who may have no session at all: locked, or pinned to another address."""
        refused = self._remotes.why_no_session(identity, client_address)
        if refused is not None:
            raise NoSession(refused)

    def listed(self, identity: UserIdentity) -> list[tuple[str, bool]]:
        """The clusters that the user may go to, and whether each is connected."""
        return [
            (name, self._tunnels.online(name))
            for name in sorted(self._remotes.names())
            if self._remotes.why_not(identity, name) is None
        ]

    # going there

    async def lead(self, who: Traveller, channel: Channel, to: Destination, ended: Callable[[], None]) -> NodeLeg:
        """Connects a user's channel with a host over there. Raises `TeleportError` with a sentence for the user."""
        self._check(who)
        dial = cm.ClusterDial(
            cluster=who.cluster,
            certificate=cm.encoded_certificate(who.certificate),
            host=to.host[: cm.MAX_HOST + 1],
            port=to.port,
        )
        return await self._connect(who, dial, lambda: _Leg(channel, ended, self._left))

    async def to_auth(self, who: Traveller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the auth service over there. Raises `TeleportError`."""
        self._check(who)
        dial = cm.ClusterDial(
            cluster=who.cluster, certificate=cm.encoded_certificate(who.certificate), conn_type=cm.AUTH
        )
        reader = asyncio.StreamReader(limit=CHUNK)
        made = await self._connect(who, dial, lambda: _Stream(reader, self._left))
        assert made.transport is not None
        return reader, asyncio.StreamWriter(made.transport, made, reader, asyncio.get_running_loop())

    async def _connect(self, who: Traveller, dial: cm.ClusterDial, make: Callable[[], L]) -> L:
        made = await self._tunnels.connect(who.cluster, lambda: self._signed(who, dial), make)
        self._open[made] = who
        try:
            self._check(who)  # what changed meanwhile
        except TeleportError:
            made.cut()
            raise
        return made

    def _signed(self, who: Traveller, dial: cm.ClusterDial) -> bytes:
        said = vouch.Vouch(
            client_host=who.peer.host,
            client_port=who.peer.port,
            session_id=uuid4(),
            target=cm.dial_target(dial),
            time=self._clock.now(),
            nonce=uuid4().bytes,
        )
        line = vouch.encode(said, self._identity.certificate, self._identity.sign)
        return m.encode(msgspec.structs.replace(dial, vouch=line.decode("ascii")))

    def _check(self, who: Traveller) -> None:
        """Raises `TeleportError` when they may not go there."""
        self._check_identity(who, self._remotes.verify_user(who.certificate))

    def _check_again(self, who: Traveller) -> None:
        """The same for somebody who is there. That time goes by ends nothing: whether a session outlives its
        certificate is for the other cluster to say."""
        if not self._remotes.stands(who.certificate):
            raise AccessDenied("The authority of this certificate does not count any more.", hint="tsh login")
        later = self._clock.now() + timedelta(minutes=1)
        self._check_identity(who, replace(who.identity, expires=max(who.identity.expires, later)))

    def _check_identity(self, who: Traveller, identity: UserIdentity) -> None:
        self.check_session(asking_auth(identity) if who.asks_auth else identity, who.peer.host)
        if who.cluster not in self._remotes.names():
            raise NotThere(who.cluster, self._cluster, self._nearest(identity, who.cluster))
        refused = self._remotes.why_not(identity, who.cluster)
        if refused is not None:
            near, detail = self._nearest(identity, who.cluster), f"{refused.code}: {'; '.join(refused.reasons)}"
            raise NotThere(who.cluster, self._cluster, near, detail)

    # who may stay

    def _left(self, made: _Leg | _Stream) -> None:
        self._open.pop(made, None)

    @property
    def open(self) -> int:
        """How many connections lead elsewhere."""
        return len(self._open)

    async def reconsider(self) -> None:
        """Looks at everybody anew; to be called when locks, roles, users, authorities or clusters changed."""
        for number, (made, who) in enumerate(list(self._open.items())):
            try:
                self._check_again(who)
            except TeleportError as error:
                log.warning("connection to %s of %s ended: %s", who.cluster, who.identity.name, error.message)
                made.cut()
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)


class _Leg(NodeLeg):
    """A user's channel, on its way to a host of another cluster."""

    def __init__(self, channel: Channel, ended: Callable[[], None], left: Callable[[_Leg], None]) -> None:
        super().__init__(channel, b"", ended)
        self._left = left

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._left(self)

    def cut(self) -> None:
        """Ends it now, for both sides."""
        if self._transport is not None:
            self._transport.abort()


class _Stream(asyncio.StreamReaderProtocol):
    """A connection to the auth service of another cluster."""

    def __init__(self, reader: asyncio.StreamReader, left: Callable[[_Stream], None]) -> None:
        super().__init__(reader)
        self.transport: asyncio.Transport | None = None
        self._left = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._left(self)

    def cut(self) -> None:
        """Ends it now."""
        if self.transport is not None:
            self.transport.abort()


L = TypeVar("L", _Leg, _Stream)
