"""Browsers before proxies that serve their sessions: real auth, real views of the cluster, real lines that vouch."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path

from tests.web.web_rig import Answer, RunningWeb, running_web

from teleport.api import messages as m
from teleport.api import routes
from teleport.daemon.web_side import Shells, WebWays
from teleport.identity import SystemRole
from teleport.pki import sshsig
from teleport.pki.keys import generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.store.cache import Cache
from teleport.testing.auth import CLUSTER, PASSWORD, RunningAuth
from teleport.testing.clock import FakeClock
from teleport.testing.views import filled_view
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER
from teleport.web.session import WebSession
from teleport.web.sessions import COOKIE
from teleport.wire import vouch

LOGIN = "/webapi/sessions/web"
NODES = f"/webapi/sites/{CLUSTER}/nodes"
CSRF = "a-token-of-the-page"
_nonces = itertools.count(1)


@asynccontextmanager
async def proxy_with_sessions(auth: RunningAuth, folder: Path) -> AsyncIterator[RunningWeb]:
    """A proxy of that cluster; several may run at once."""
    assert isinstance(auth.clock, FakeClock)
    key = generate_p256()
    host_id = str(uuid.uuid4())
    held = await auth.service.local_host(
        host_id, "proxy", SystemRole.PROXY, (), key.public.line(), key.public.spki_pem().decode()
    )
    certificate = parse_certificate_line(held.ssh_cert).blob

    def vouching(host: str, port: int) -> bytes:
        said = vouch.Vouch(
            client_host=host,
            client_port=port,
            session_id=uuid.uuid4(),
            target=vouch.auth_target(auth.cluster),
            time=auth.clock.now(),
            nonce=next(_nonces).to_bytes(16, "big"),
        )
        return vouch.encode(said, certificate, lambda message: sshsig.sign(key, message))

    cache = Cache("proxy", auth.clock, jitter=lambda: 0.0)
    async with (
        filled_view(auth, cache, SystemRole.PROXY, "proxy-view") as view,
        auth.async_client(auth.keep(key, held.tls_cert, host_id)) as client,
        running_web(
            folder / host_id,
            client,
            (auth.address,),
            vouch=vouching,
            clock=auth.clock,
            ways=WebWays(view, [auth.address], vouching),
            shells=Shells(view, lambda transport: transport.abort()),
        ) as web,
    ):
        yield web


@dataclass
class Browser:
    """What a browser keeps and sends: cookies, the page's token, the bearer."""

    web: RunningWeb
    cookies: dict[str, str] = field(default_factory=lambda: {CSRF_COOKIE: CSRF})
    token: str = ""

    def at(self, web: RunningWeb) -> Browser:
        """The same browser, led to another proxy by a balancer."""
        return Browser(web, self.cookies, self.token)

    @property
    def origin(self) -> str:
        return self.web.url

    def headers(self, **more: str) -> dict[str, str]:
        found = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Origin": self.origin,
            CSRF_HEADER: self.cookies.get(CSRF_COOKIE, ""),
            "User-Agent": "Mozilla/5.0 (test)",
        }
        if self.token:
            found["Authorization"] = f"Bearer {self.token}"
        return {name: value for name, value in {**found, **more}.items() if value}

    async def ask(self, method: str, path: str, *, json: object = None, **headers: str) -> Answer:
        """One request. `headers` of no value are left out; names have `_` for `-`."""
        sent = self.headers(**{name.replace("_", "-"): value for name, value in headers.items()})
        answer = await self.web.ask(method, path, json=json, headers=sent)
        for morsel in SimpleCookie(answer.headers.get("Set-Cookie", "")).values():
            if morsel.value:
                self.cookies[morsel.key] = morsel.value
            else:
                self.cookies.pop(morsel.key, None)
        return answer

    async def log_in(self, user: str, code: str, *, password: str = PASSWORD) -> Answer:
        body = {"user": user, "pass": password, "second_factor_token": code}
        answer = await self.ask("POST", LOGIN, json=body)
        if answer.status == 200:
            self.token = answer.json["token"]
        return answer

    @property
    def session(self) -> WebSession:
        """What the proxy has in memory of it."""
        assert self.web.service.sessions is not None
        return self.web.service.sessions._sessions[self.cookies[COOKIE].partition(".")[0]]


@dataclass
class Person:
    """Somebody with a second factor."""

    auth: RunningAuth
    name: str
    secret: str

    @classmethod
    async def made(cls, auth: RunningAuth, name: str, roles: tuple[str, ...] = ("access",)) -> Person:
        return cls(auth, name, await auth.person(name, roles))

    def code(self) -> str:
        """A fresh code: time moves on, since a code is good once."""
        assert isinstance(self.auth.clock, FakeClock)
        self.auth.clock.advance(30)
        return self.auth.code(self.secret)

    async def browser(self, web: RunningWeb) -> Browser:
        """Logged in."""
        window = Browser(web)
        answer = await window.log_in(self.name, self.code())
        assert answer.status == 200, answer.text
        return window


async def until(holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Waits for a condition."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.01)


async def lock(auth: RunningAuth, **target: str) -> None:
    document = {
        "kind": "lock", "version": "v2", "metadata": {"name": str(uuid.uuid4())}, "spec": {"target": target},
    }  # fmt: skip
    request = m.StoreRequest(item=m.Document(json.dumps(document).encode()))
    await auth.call(await auth.admin(), routes.STORE["lock"], request)
