"""People who join sessions in pods of the Kubernetes lab: real certificates, SSH and decisions, within one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.joining import unknown_session
from teleport.authz.kube import KubeAccessRequest
from teleport.authz.kube_joining import PodJoinPermit, evaluate_pod_join
from teleport.authz.session_mfa import once_open
from teleport.authz.ssh import why_nothing
from teleport.clock import Clock, SystemClock
from teleport.errors import AccessDenied
from teleport.identity import SystemRole, UserIdentity
from teleport.kube.joining import Joins, JoinService
from teleport.kube.live import LiveSession
from teleport.resources.joining import JoinMode
from teleport.ssh.client import SshClient, connect_by
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.surface import Peer, TerminalRequest, TerminalSize
from teleport.testing.kube_lab import Lab
from teleport.testing.lab_certificates import Authorities
from teleport.testing.lab_rules import LabControl
from teleport.transport import memory_pair
from teleport.transport.places import Places

PEER = Peer("127.0.0.1", 40_000)


@dataclass
class Guest:
    """Somebody who asked for a session, and what they see."""

    client: SshClient
    session: RemoteSession | None = None
    shown: bytearray = field(default_factory=bytearray)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def came(self, data: bytes, is_stderr: bool) -> None:
        self.shown += data
        self.more.set()

    async def sees(self, text: bytes) -> None:
        """Returns once this was shown."""
        async with asyncio.timeout(10):
            while text not in self.shown:
                self.more.clear()
                await self.more.wait()

    def types(self, data: bytes) -> None:
        assert self.session is not None
        self.session.write(data)

    async def over(self) -> int | None:
        """The status with which it ended for them."""
        assert self.session is not None
        async with asyncio.timeout(10):
            return (await self.session.wait()).status


class Guests:
    """The joining of one lab. It is the service's rules, too."""

    def __init__(self, lab: Lab, clock: Clock | None = None) -> None:
        self._lab = lab
        self.live = live = lab.live
        self.live.changed = self._changed
        self._news = asyncio.Event()
        self.control = LabControl()
        self.authorities = Authorities(lab.cluster.cluster)
        host = self.authorities.host(SystemRole.PROXY, "proxy")
        counts = Places(self.control, live.in_background)
        clock, background = clock or SystemClock(), live.in_background
        joins = Joins(lab.cluster.cluster, uuid4(), "proxy", live, self, counts, lab.events, clock, background)
        self.service = JoinService(joins, lambda: [host.host_key])

    def _changed(self) -> None:
        self._news.set()

    async def running(self, count: int = 1) -> LiveSession | None:
        """The session that others may join, once there are so many; None with none."""
        async with asyncio.timeout(10):
            while len(list(self.live)) != count:
                self._news.clear()
                await self._news.wait()
        return next(iter(self.live), None)

    # kube.joining.Rules

    def verify_user(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        identity = self.authorities.verify_user(certificate)
        if identity.name in self._lab.gone:
            raise AccessDenied("The user of this certificate does not exist any more.", hint="tsh login")
        if not opened and self._lab.now() >= identity.expires:
            raise AccessDenied("Your certificate has expired.", hint="tsh login")
        return once_open(identity) if opened else identity

    def now(self, identity: UserIdentity) -> UserIdentity:
        return replace(identity, roles=tuple(role for role in identity.roles if role in self._lab.roles))

    def _policy(self) -> Policy:
        return Policy(roles=self._lab.roles, cluster=self._lab.defaults)

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        lab, now = self._lab, self._lab.now()
        return why_nothing(
            self.now(identity),
            self._policy(),
            cluster=lab.cluster.cluster,
            now=now,
            client_address=client_address,
            locks=lab.locks,
        )

    def permit_join(
        self, identity: UserIdentity, client_address: str, session: LiveSession, mode: JoinMode | None
    ) -> PodJoinPermit | AccessDenial:
        cluster = session.place.now()
        if cluster is None:
            return unknown_session()
        request = KubeAccessRequest(
            identity=self.now(identity),
            cluster=self._lab.cluster.cluster,
            now=self._lab.now(),
            kube_cluster=session.place.name,
            labels=cluster.labels,
            client_address=client_address,
            locks=self._lab.locks,
            call=session.place.call,
        )
        return evaluate_pod_join(request, session.about, mode, self._policy())

    # people

    @asynccontextmanager
    async def guest(
        self,
        sid: str,
        user: str = "bob",
        role: str = "watch",
        mode: str = "",
        *,
        command: str | None = None,
        ttl: timedelta = timedelta(hours=1),
        **more: Any,
    ) -> AsyncIterator[Guest]:
        """Somebody who comes and asks for a session, or for something else."""
        made = self.authorities.user(("nobody",), user=user, roles=(role,), ttl=ttl, **more)
        key = ClientKey(made.key.openssh_pem().reveal(), made.certificate.line())
        serve = await self.service.server()

        async def reach(protocol: asyncio.Protocol) -> None:
            memory_pair.connect(lambda: protocol, lambda transport: serve(transport, PEER), peername=("127.0.0.1", 1))

        found = Guest(await connect_by(reach, "the proxy", login="alice", key=key, check=None))
        environment = {"TELEPORT_SESSION": sid} if sid else {}
        environment |= {"TELEPORT_JOIN_MODE": mode} if mode else {}
        try:
            found.session = await found.client.start(
                command=command,
                terminal=TerminalRequest("xterm", TerminalSize(100, 30), b"\0"),
                environment=environment,
                on_output=found.came,
            )
            yield found
        finally:
            found.client.abort()
