"""The web service of a proxy over TLS, in front of a real auth service or of what a test puts there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tests.transport.transport_peers import server_context, tls_pair, trusting

from teleport.api import messages as m
from teleport.api import routes
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey
from teleport.testing.auth import CLUSTER, PASSWORD, RunningAuth
from teleport.testing.clock import FakeClock
from teleport.transport.tls import unproved_client_context
from teleport.web.messages import SSHAddresses
from teleport.web.service import WebConfig, WebService
from teleport.web.session import Caller, Ways
from teleport.web.terminal_reach import ShellWays

NAME = "localhost"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str
    json: Any = None


@dataclass
class RunningWeb:
    """A web service and a browser-like client of it."""

    address: tuple[str, int]
    session: aiohttp.ClientSession
    trust: ssl.SSLContext
    clock: FakeClock
    here: WebService | None  # None: in another process

    @property
    def service(self) -> WebService:
        assert self.here is not None, "it runs in another process"
        return self.here

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.address[1]}"

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        data: bytes | io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. Time passes between requests, so that attempts are not limited."""
        self.clock.advance(1)
        async with self.session.request(
            method, self.url + path, json=json, data=data, headers=headers, allow_redirects=False
        ) as response:
            text = await response.text()
            parsed = await response.json() if response.content_type == "application/json" else None
            return Answer(response.status, response.headers, text, parsed)


@asynccontextmanager
async def running_web(
    folder: Path,
    auth: Caller,
    auth_servers: tuple[tuple[str, int], ...],
    *,
    max_tunnels: int = 100,
    host: str = "",
    vouch: Callable[[str, int], bytes] = lambda host, port: b"",
    clock: FakeClock | None = None,
    ways: Ways | None = None,
    shells: ShellWays | None = None,
) -> AsyncIterator[RunningWeb]:
    """Serves on a loopback port of `host` until the block ends."""
    pair = tls_pair(folder / "web", NAME)
    clock = clock or FakeClock()
    config = WebConfig(CLUSTER, SSHAddresses(listen_addr="127.0.0.1:3023", public_addr="p:443"), auth_servers)
    service = WebService(config, auth, clock, max_tunnels=max_tunnels, vouch=vouch, ways=ways, shells=shells)
    listener = socket.create_server((host or "127.0.0.1", 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    started = asyncio.Event()
    serving = asyncio.create_task(service.run(listener, server_context(pair), started.set), name="web under test")
    trust = trusting(pair)
    connector = aiohttp.TCPConnector(ssl=trust, resolver=_Loopback(listener.getsockname()[0]))
    try:
        async with asyncio.timeout(10):
            await started.wait()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield RunningWeb(listener.getsockname()[:2], session, trust, clock, service)
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        listener.close()


@asynccontextmanager
async def remote_web(address: tuple[str, int]) -> AsyncIterator[RunningWeb]:
    """The web service of a daemon elsewhere: nobody looks at its certificate."""
    connector = aiohttp.TCPConnector(ssl=(trust := unproved_client_context()), resolver=_Loopback(address[0]))
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield RunningWeb(address, session, trust, FakeClock(), None)


class _Loopback(aiohttp.abc.AbstractResolver):
    """Every name is the one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host=self._address, port=port, family=found, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def web_before(
    auth: RunningAuth, folder: Path, *, max_tunnels: int = 100, host: str = ""
) -> AsyncIterator[RunningWeb]:
    """The web service of a proxy of that cluster."""
    client = auth.async_client(await auth.host(SystemRole.PROXY, name="proxy"))
    async with client, running_web(folder, client, (auth.address,), max_tunnels=max_tunnels, host=host) as web:
        yield web


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def login_body(key: PrivateKey, user: str, code: str, *, password: str = PASSWORD) -> dict[str, object]:
    """What tsh sends to /webapi/ssh/certs."""
    return {
        "user": user,
        "password": password,
        "otp_token": code,
        "pub_key": b64(key.public.line()),
        "ttl": 3600 * 10**9,
    }


async def invite(auth: RunningAuth, name: str) -> m.UserToken:
    """A new user's link."""
    request = m.AddUserRequest(name=name, roles=["access"], traits={"logins": ["root"]})
    link = await auth.call(await auth.admin(), routes.ADD_USER, request)
    assert isinstance(link, m.UserToken)
    return link
