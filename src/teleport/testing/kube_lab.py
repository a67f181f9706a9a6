"""A Kubernetes listener with real TLS, real certificates and the real decision, before a stand-in API server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from teleport.authz.decision import AccessDenial, ClusterDefaults, Policy
from teleport.authz.kube import ActAs, KubeAccessPermit, KubeAccessRequest, evaluate_kube_access
from teleport.authz.kube_resources import KubeCall
from teleport.authz.locks import Locked, find_lock
from teleport.authz.session_mfa import once_open
from teleport.clock import Clock, SystemClock
from teleport.errors import AccessDenied
from teleport.identity import SystemRole, UserIdentity
from teleport.kube.credentials import KubeCluster, from_kubeconfig
from teleport.kube.live import LiveSessions
from teleport.kube.needs import Sessions
from teleport.kube.service import KubeConfig, KubeServer
from teleport.kube.upstream import Upstream
from teleport.pki.keys import generate_p256
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import UserTLSRequest, issue_user_tls, pem_of
from teleport.pki.x509subject import UserSubject
from teleport.pki.x509verify import identity_from_tls, last_moment, trusted_tls_authority
from teleport.resources.lock import Lock
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role
from teleport.resources.values import HostPort
from teleport.testing.kube_api import KubeApi
from teleport.testing.lab_rules import LabControl
from teleport.testing.loopback import listening
from teleport.testing.memory import Events, MemoryRecordings
from teleport.testing.web_lab import LabCluster
from teleport.transport.places import Control
from teleport.transport.tls import mutual_server_context

ROLES = """
kind: role
version: v5
metadata: {name: dev}
spec: {allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers, testers]}}
---
kind: role
version: v5
metadata: {name: no-ports}
spec:
  options: {port_forwarding: no}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}
---
kind: role
version: v5
metadata: {name: in-company}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    require_session_join:
    - {name: eyes, filter: 'contains(user.spec.roles, "auditor")', kinds: [k8s], modes: [peer], count: 1}
---
kind: role
version: v5
metadata: {name: dev-pods}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [developers]
    kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get, list, watch, exec]}]
---
kind: role
version: v5
metadata: {name: prod-only}
spec: {allow: {kubernetes_labels: {env: prod}, kubernetes_groups: [developers]}}
"""


@dataclass
class Lab:
    """Everything of one test. It is the service's rules, too."""

    folder: Path
    api: KubeApi
    found: KubeCluster  # the way to it
    events: Events = field(default_factory=Events)
    recordings: MemoryRecordings = field(default_factory=MemoryRecordings)
    mode: str = "proxy"  # of recording
    locks: list[Lock] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)  # users
    trusting: bool = True  # the authority by which certificates were proved
    defaults: ClusterDefaults = field(default_factory=ClusterDefaults)
    ahead: timedelta = timedelta(0)  # by which it is later for those who decide
    port: int = 0
    server: KubeServer | None = None
    running: asyncio.Task[None] | None = None
    clusters: dict[str, Upstream] = field(default_factory=dict)
    live: LiveSessions = field(init=False)  # that others may join

    def __post_init__(self) -> None:
        self.cluster = LabCluster(self.folder)
        self.live = LiveSessions(self._in_background)
        self.roles: dict[str, Role] = {
            role.name: role for role in parse_resources(ROLES, "roles.yaml") if isinstance(role, Role)
        }

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self.server is not None
        self.server.in_background(work)

    async def stop(self) -> None:
        """Ends the service."""
        assert self.running is not None
        self.running.cancel()
        await asyncio.wait([self.running])

    def now(self) -> datetime:
        """The time by which is decided."""
        return datetime.now(UTC) + self.ahead

    # kube.needs.Rules

    def verify_user_tls(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        user_pem = self.cluster.user.active.tls[0].certificate
        anchor = trusted_tls_authority(AuthorityKind.USER, self.cluster.cluster, user_pem)
        now = self.now()
        at = min(now, last_moment(certificate)) if opened else now
        identity = identity_from_tls(certificate, [anchor], at, usage="usage:kube")
        assert isinstance(identity, UserIdentity)
        if not self.trusting:
            raise AccessDenied("The certificate was not signed by an authority that is trusted here.", hint="tsh login")
        if identity.name in self.gone:
            raise AccessDenied("The user of this certificate does not exist any more.", hint="tsh login")
        return once_open(identity) if opened else identity

    def permit_kube(
        self,
        identity: UserIdentity,
        cluster: KubeCluster | None,
        name: str,
        client_address: str,
        act_as: ActAs,
        call: KubeCall | None = None,
    ) -> KubeAccessPermit | AccessDenial:
        request = KubeAccessRequest(
            identity=identity if identity.name not in self.gone else replace(identity, roles=()),
            cluster=self.cluster.cluster,
            now=self.now(),
            kube_cluster=name,
            exists=cluster is not None,
            labels=cluster.labels if cluster else {},
            client_address=client_address,
            locks=self.locks,
            act_as=act_as,
            call=call,
        )
        return evaluate_kube_access(request, Policy(roles=self.roles, cluster=self.defaults))

    def session_locked(self, sid: str) -> bool:
        return find_lock(self.locks, Locked(session=sid), datetime.now(UTC)) is not None

    # clients

    def pair(self, user: str = "alice", *, roles: tuple[str, ...] = ("dev",), **subject: Any) -> tuple[Path, Path]:
        """Files of a user's certificate and key; `ttl` is its lifetime, `by` another cluster's authority."""
        ttl: timedelta = subject.pop("ttl", timedelta(hours=1))
        by: LabCluster = subject.pop("by", self.cluster)
        key = generate_p256()
        ca, signer = by.user.tls_signer()
        said = UserSubject(user, by.cluster, roles, route_to_cluster=by.cluster, **subject)
        made = issue_user_tls(UserTLSRequest(key.public, said, ttl), ca, signer, datetime.now(UTC))
        cert_file, key_file = (self.folder / f"{uuid4()}.{end}" for end in ("crt", "key"))
        cert_file.write_bytes(pem_of(made))
        key_file.write_bytes(key.pkcs8_pem().reveal())
        return cert_file, key_file

    def context(self, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        """For a client that shows this pair."""
        context = ssl.create_default_context(cadata=self.cluster.ca_pems[0])
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    @asynccontextmanager
    async def connected(self, pair: tuple[Path, Path] | None = None) -> AsyncIterator[Wire]:
        """A connection of Alice, or of whoever has that pair."""
        context = self.context(pair or self.pair())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def odd_server(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """`serve` stands in for the API server of the cluster `odd`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.api.authority.issue("localhost").write(self.folder, "odd"))
        odd = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        address = HostPort(*odd.sockets[0].getsockname()[:2])
        self.clusters["odd"] = Upstream(replace(self.found, name="odd", address=address))
        async with odd:
            yield


@dataclass
class Wire:
    """A client that writes HTTP by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, line: str, *headers: str, body: bytes = b"") -> Answer:
        """One request, and the whole answer to it."""
        await self.send(line, *headers, body=body)
        return await self.answer(bodiless=line.startswith("HEAD "))

    async def send(self, line: str, *headers: str, body: bytes = b"") -> None:
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: kube", *headers, "", ""])
        self.writer.write(head.encode("latin-1") + body)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers."""
        async with asyncio.timeout(10):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        return int(first.split(" ")[1]), {
            name.lower(): value for name, _, value in (one.partition(": ") for one in lines)
        }

    async def chunk(self) -> bytes:
        """The next part of an answer that comes in parts; empty: the last."""
        async with asyncio.timeout(10):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, *, bodiless: bool = False) -> Answer:
        status, headers = await self.head()
        body = b""
        if bodiless:
            return Answer(status, headers, body)
        if "content-length" in headers:
            async with asyncio.timeout(10):
                body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while part := await self.chunk():
                body += part
        return Answer(status, headers, body)

    async def ended(self) -> bytes:
        """What was left when the connection ended."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except (ConnectionError, ssl.SSLError):
                return b""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@asynccontextmanager
async def kube_lab(folder: Path, **config: Any) -> AsyncIterator[Lab]:
    """The service, running. `config` is of `KubeConfig`; `labels` are those of the one Kubernetes cluster, `more` names
    further ones with what is different about them, `clock` is the service's, `control` counts its streams."""
    labels, more = config.pop("labels", {}), config.pop("more", {})
    clock: Clock = config.pop("clock", SystemClock())
    control: Control = config.pop("control", None) or LabControl()
    api = KubeApi(folder)
    async with api.serving():
        found = from_kubeconfig(api.kubeconfig().encode(), folder)[0]
        lab = Lab(folder, api, found)
        clusters = [
            replace(found, labels=labels),
            *(replace(found, name=name, **changes) for name, changes in more.items()),
        ]
        lab.clusters.update((cluster.name, Upstream(cluster)) for cluster in clusters)
        cert_file, key_file = lab.cluster.host_pair(SystemRole.PROXY, "proxy")
        context = mutual_server_context(
            cert_file, key_file, [pem_of(lab.cluster.user.active.tls[0].certificate).decode()]
        )
        context.verify_mode = ssl.CERT_REQUIRED
        host_id = uuid4()
        server = KubeServer(
            KubeConfig(lab.cluster.cluster, host_id, "proxy", **config),
            lab.clusters,
            rules=lab,
            context=lambda: context,
            emitter=lab.events,
            clock=clock,
            sessions=Sessions(
                lab.recordings,
                lambda: lab.mode,
                lab.events,
                clock,
                lab.cluster.cluster,
                host_id,
                "proxy",
                uuid4,
                lab.live,
            ),
            control=control,
        )
        lab.server = server
        started = asyncio.Event()
        with listening() as listener:
            lab.port = listener.getsockname()[1]
            lab.running = asyncio.create_task(server.run([listener], started.set), name="kube")
            await started.wait()
            try:
                yield lab
            finally:
                await lab.stop()
