"""Terminals of browsers, with everything real: auth, proxies with their SSH service, and a host with its launcher."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import UUID

import aiohttp
from tests.web.session_rig import Browser, Person
from tests.web.web_rig import RunningWeb, running_web

from teleport.backend.interface import PutOp
from teleport.daemon.proxy_side import Directory
from teleport.daemon.view import AnyUsers
from teleport.daemon.web_side import Shells, WebWays
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.needs import NodeConfig
from teleport.node.service import NodeService
from teleport.pki import sshsig
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.proxy.ssh_router import RouterConfig, SshRouter
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.server import HostKey
from teleport.ssh.surface import KeepAlive
from teleport.store.cache import Cache
from teleport.store.records import NODES
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.memory import Events, MemoryRecordings
from teleport.testing.running import listener, served
from teleport.testing.views import filled_view
from teleport.wire import vouch
from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import Kind

ME = getpass.getuser()
HOST = "node1"
CREDIT = 512 * 1024
_nonces = itertools.count(1)


@dataclass(frozen=True)
class _Labels:
    labels: dict[str, str] = field(default_factory=dict)

    def current(self) -> dict[str, str]:
        return self.labels


@dataclass(frozen=True)
class _Host:
    """A host's key and certificate, as auth made it."""

    host_id: str
    key: PrivateKey
    line: str
    tls: str

    @property
    def certificate(self) -> bytes:
        return parse_certificate_line(self.line).blob

    def sign(self, message: bytes) -> bytes:
        return sshsig.sign(self.key, message)

    @property
    def host_key(self) -> HostKey:
        return HostKey(self.key.openssh_pem().reveal(), self.line)


async def _host(auth: RunningAuth, role: SystemRole, name: str) -> _Host:
    key, host_id = generate_p256(), str(uuid.uuid4())
    held = await auth.service.local_host(host_id, name, role, (), key.public.line(), key.public.spki_pem().decode())
    return _Host(host_id, key, held.ssh_cert, held.tls_cert)


@dataclass
class Place:
    """What runs."""

    auth: RunningAuth
    node: NodeService
    host_id: str
    webs: list[RunningWeb]
    events: Events
    recordings: MemoryRecordings
    ann: Person

    @property
    def web(self) -> RunningWeb:
        return self.webs[0]


@asynccontextmanager
async def place(folder: Path, end: LauncherEnd, *, proxies: int = 1) -> AsyncIterator[Place]:
    """Auth, somebody called ann, a host and some proxies."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(running_auth(folder, clock=present_clock()))
        events, recordings = Events(), MemoryRecordings()
        host = await _host(auth, SystemRole.NODE, HOST)
        view = await stack.enter_async_context(
            filled_view(auth, Cache("node", auth.clock, jitter=lambda: 0.0), SystemRole.NODE, HOST)
        )
        sock = listener()
        stack.callback(sock.close)
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        config = NodeConfig(auth.cluster, UUID(host.host_id), HOST, address)
        node = NodeService(
            replace(config, probe=KeepAlive(0.2, 2)),
            certificates=AnyUsers(view),
            rules=view,
            present=view.present,
            labels=_Labels(),
            launcher=Launcher(end),
            recordings=recordings,
            emitter=events,
            clock=auth.clock,
            host_keys=[host.host_key],
        )
        for prefix in ("locks/", "users/", "roles/"):
            view.cache.subscribe(prefix, lambda _: node.reconsider())
        await stack.enter_async_context(served(lambda started: node.run([sock], started), "node"))
        shown = Server(
            kind="node",
            metadata=Metadata(name=host.host_id),
            spec=ServerSpec(addr=address, hostname=HOST, started=auth.clock.now()),
        )
        await auth.service.state.commit([PutOp(NODES + host.host_id, to_json(shown))], events=[])
        ann = Person(auth, "ann", await auth.person("ann", logins=(ME,)))
        webs = [await stack.enter_async_context(_proxy(auth, folder, events)) for _ in range(proxies)]
        yield Place(auth, node, host.host_id, webs, events, recordings, ann)


@asynccontextmanager
async def _proxy(auth: RunningAuth, folder: Path, events: Events) -> AsyncIterator[RunningWeb]:
    assert isinstance(auth.clock, FakeClock)
    host = await _host(auth, SystemRole.PROXY, "proxy")

    def vouching(address: str, port: int) -> bytes:
        said = vouch.Vouch(
            client_host=address,
            client_port=port,
            session_id=uuid.uuid4(),
            target=vouch.auth_target(auth.cluster),
            time=auth.clock.now(),
            nonce=next(_nonces).to_bytes(16, "big"),
        )
        return vouch.encode(said, host.certificate, host.sign)

    cache = Cache("proxy", auth.clock, jitter=lambda: 0.0)
    sock = listener()
    try:
        async with filled_view(auth, cache, SystemRole.PROXY, "proxy-view") as view:
            router = SshRouter(
                RouterConfig(auth.cluster, UUID(host.host_id), "proxy"),
                certificates=view,
                directory=Directory(view),
                identity=host,
                host_keys=[host.host_key],
                emitter=events,
                clock=auth.clock,
            )
            async with (
                auth.async_client(auth.keep(host.key, host.tls, host.host_id)) as client,
                served(lambda started: router.run([sock], started), "proxy"),
                running_web(
                    folder / host.host_id,
                    client,
                    (auth.address,),
                    vouch=vouching,
                    clock=auth.clock,
                    ways=WebWays(view, [auth.address], vouching),
                    shells=Shells(view, router.accepted),
                ) as web,
            ):
                yield web
    finally:
        sock.close()


class Page:
    """A terminal page: what it was told, and what it shows. It grants as it goes, unless it is `greedy` no more."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.shown = bytearray()
        self.told: list[tuple[Kind, Any]] = []
        self.granting = True
        self.granted = 0  # bytes that it may send
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(), name="a page")
        self.closed = False

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        window: Browser,
        *,
        host: str = HOST,
        login: str = ME,
        site: str = "-current-",
        credit: int = CREDIT,
        token: str | None = None,
        resume: str = "",
        headers: dict[str, str] | None = None,
        hello: bool = True,
        **params: object,
    ) -> AsyncIterator[Self]:
        """A socket, with its first message sent."""
        asked = json.dumps({"server_id": host, "login": login, "term": {"w": 80, "h": 24}, **params})
        path = f"{window.web.url}/webapi/sites/{site}/connect?params={quote(asked)}"
        sent = window.headers() | {"Authorization": ""} | (headers or {})
        async with window.web.session.ws_connect(
            path, headers={name: value for name, value in sent.items() if value}, max_msg_size=0
        ) as socket:
            page = cls(socket)
            try:
                if hello:
                    said = {"token": window.token if token is None else token, "credit": credit, "resume": resume}
                    await page.say(Kind.HELLO, said)
                yield page
            finally:
                page._reading.cancel()
                await asyncio.gather(page._reading, return_exceptions=True)

    async def say(self, kind: Kind, payload: object) -> None:
        await self.socket.send_bytes(wt.encode(kind, json.dumps(payload).encode()))

    async def type(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        await self.socket.send_bytes(wt.encode(Kind.RAW, data))

    def deaf(self) -> None:
        """It reads nothing from its connection any more."""
        self._reading.cancel()
        self._transport.pause_reading()

    def cut(self) -> None:
        """The network is gone, without a word."""
        self._transport.abort()

    @property
    def _transport(self) -> asyncio.Transport:
        connection = self.socket._response.connection
        assert connection is not None
        assert isinstance(connection.transport, asyncio.Transport)
        return connection.transport

    async def _read(self) -> None:
        async for message in self.socket:
            assert message.type is aiohttp.WSMsgType.BINARY
            kind, payload = wt.decode(message.data)
            if kind is Kind.RAW:
                self.shown += payload
                if self.granting:
                    await self.say(Kind.CREDIT, {"bytes": len(payload)})
            else:
                assert kind is not None
                found = json.loads(payload)
                self.told.append((kind, found))
                if kind in (Kind.STARTED, Kind.CREDIT):
                    self.granted += found["credit"] if kind is Kind.STARTED else found["bytes"]
            self._news.set()
        self.closed = True
        self._news.set()

    async def _until(self, holds: Any, what: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    if self._reading.done():
                        self._reading.result()
                        break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        assert holds(), f"not in time: {what}; told {self.told}, closed {self.socket.close_code}, shown {self.shown!r}"

    async def hears(self, kind: Kind, count: int = 1, seconds: float = 30.0) -> Any:
        """The payload of that message, once it has come so often."""

        def found() -> list[Any]:
            return [payload for one, payload in self.told if one is kind]

        await self._until(lambda: len(found()) >= count, f"a message {kind}", seconds)
        return found()[count - 1]

    async def sees(self, text: str | bytes, seconds: float = 30.0) -> None:
        data = text.encode() if isinstance(text, str) else text
        await self._until(lambda: data in self.shown, f"{text!r}", seconds)

    async def shows(self, size: int, seconds: float = 30.0) -> None:
        """Once so many bytes were shown, and no more."""
        await self._until(lambda: len(self.shown) >= size, f"{size} bytes", seconds)
        assert len(self.shown) == size

    async def ends(self, seconds: float = 10.0) -> int:
        """The close code."""
        await self._until(lambda: self.closed, "the end", seconds)
        return self.socket.close_code or 0
