"""Logins that tsh begins and a person answers in a browser: for one key, once, in time, with the code of that tsh."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.store import records
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth

KEY = generate_p256().public
TSH, BROWSER = "192.0.2.7:1", "198.51.100.9:2"


class Lab:
    """A proxy and a user of a cluster."""

    def __init__(self, auth: RunningAuth, proxy: Credentials, secret: str) -> None:
        self.auth, self.proxy, self.secret = auth, proxy, secret

    async def begin(self) -> m.BrowserLogin:
        request = m.BeginBrowserLoginRequest(public_key=KEY.line(), ttl=3600, client_addr=TSH)
        made: m.BrowserLogin = await self.auth.call(self.proxy, routes.BEGIN_BROWSER_LOGIN, request)
        return made

    async def finish(self, made: m.BrowserLogin, code: str = "", **change: Any) -> None:
        self.auth.clock.advance(30)  # type: ignore[attr-defined]
        fields = {
            "id": made.id, "code": code or made.code, "user": "ann", "password": PASSWORD,
            "otp_token": self.auth.code(self.secret), "client_addr": BROWSER, "user_agent": "a browser",
        }  # fmt: skip
        request = m.FinishBrowserLoginRequest(**{**fields, **change})
        await self.auth.call(self.proxy, routes.FINISH_BROWSER_LOGIN, request)

    async def collect(self, made: m.BrowserLogin) -> m.UserCerts | None:
        request = m.BrowserLoginRequest(id=made.id)
        found: m.CollectedLogin = await self.auth.call(self.proxy, routes.COLLECT_BROWSER_LOGIN, request)
        return found.certs


async def lab(auth: RunningAuth) -> Lab:
    secret = await auth.person("ann")
    return Lab(auth, await auth.host(SystemRole.PROXY), secret)


async def test_a_login_is_begun_answered_and_collected_once(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        own = await lab(auth)
        made = await own.begin()
        shown = await auth.call(own.proxy, routes.BROWSER_LOGIN, m.BrowserLoginRequest(id=made.id))
        assert (shown.client_addr, shown.code) == (TSH, ""), "the page is not told the code"
        assert await own.collect(made) is None
        await own.finish(made, f" {made.code[:4].lower()}-{made.code[4:]} ")
        certs = await own.collect(made)
        assert certs is not None
        assert certificate_key(load_certificate(ssl.PEM_cert_to_DER_cert(certs.tls_cert))) == KEY
        for work in (own.collect(made), own.finish(made)):
            with pytest.raises(NotFound):
                await work
        (event,) = await auth.events("user.login")
        assert (event["addr"], event["user_agent"]) == (TSH, "a browser"), "it is a login of that tsh"
        assert event["message"] == f"answered in a browser at {BROWSER}"
        assert made.code not in str(await auth.events())


async def test_wrong_codes_passwords_and_late_answers_give_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        own = await lab(auth)
        made = await own.begin()
        for change in ({"password": "not the password"}, {"otp_token": "000000"}, {"user": "nobody"}):
            with pytest.raises(AccessDenied):
                await own.finish(made, **change)
        assert await own.collect(made) is None
        for _ in range(5):
            with pytest.raises(BadRequest, match="not the code"):
                await own.finish(made, "WRONGCOD")
        for _ in range(2):
            with pytest.raises(NotFound):
                await own.finish(made)
        late = await own.begin()
        auth.clock.advance(301)  # type: ignore[attr-defined]
        with pytest.raises(NotFound):
            await own.finish(late)
        with pytest.raises(NotFound):
            await own.collect(late)
        with pytest.raises(AccessDenied, match="public key"):
            await auth.call(
                own.proxy, routes.BEGIN_BROWSER_LOGIN, m.BeginBrowserLoginRequest(public_key="x", ttl=0, client_addr="")
            )


async def test_of_two_answers_at_the_same_moment_one_counts(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock(), sqlite=True) as auth:
        await auth.set_second_factor("off")
        own = await lab(auth)
        made = await own.begin()
        both = await asyncio.gather(*(own.finish(made) for _ in range(2)), return_exceptions=True)
        assert [one for one in both if one is None] == [None], both
        assert await own.collect(made) is not None


async def test_a_stranger_who_begins_keeps_little_in_the_storage(tmp_path: Path) -> None:
    """T19: anybody may begin, so what is kept is no larger than it has to be."""
    async with running_auth(tmp_path) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        long = m.BeginBrowserLoginRequest(public_key=KEY.line("c" * 50_000), ttl=3600, client_addr=TSH)
        await auth.call(proxy, routes.BEGIN_BROWSER_LOGIN, long)
        (item,) = await auth.backend.range(records.BROWSER_LOGINS)
        assert len(item.value) < 2048
        with pytest.raises(BadRequest):
            await auth.call(
                proxy, routes.BEGIN_BROWSER_LOGIN, msgspec.structs.replace(long, route_to_cluster="c" * 5000)
            )
