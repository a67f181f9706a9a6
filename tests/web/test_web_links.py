"""Links of invitations and resets in a browser: what finishes one signs its page in, once (T22, T54)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.web.session_rig import NODES, Browser, lock, proxy_with_sessions
from tests.web.test_web_sessions import b64
from tests.web.web_rig import Answer, RunningWeb

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.testing.auth import CLUSTER, PASSWORD, RunningAuth, present_clock, running_auth
from teleport.web.origin import CSRF_COOKIE
from teleport.web.sessions import COOKIE

TOKEN = "/webapi/users/password/token"


async def before_a_proxy(tmp_path: Path, work: Callable[[RunningAuth, RunningWeb], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(running_auth(tmp_path, clock=present_clock()))
        await work(auth, await stack.enter_async_context(proxy_with_sessions(auth, tmp_path)))


async def invited(auth: RunningAuth, name: str = "ann") -> str:
    """The token of a new user's link."""
    link = await auth.call(await auth.admin(), routes.ADD_USER, m.AddUserRequest(name=name, roles=["access"]))
    return str(link.token)


async def finish(
    auth: RunningAuth, window: Browser, token: str, *, code: str = "", sign_in: bool = True, **headers: str
) -> Answer:
    shown = await window.ask("GET", f"{TOKEN}/{token}")
    right = auth.code(shown.json["totp_secret"]) if shown.status == 200 else ""
    body = {"token": token, "password": b64(PASSWORD), "second_factor_token": code or right, "sign_in": sign_in}
    return await window.ask("PUT", TOKEN, json=body, **headers)


@pytest.mark.parametrize("kind", ["invite", "reset"])
async def test_who_finishes_a_link_is_signed_in_as_by_a_login(tmp_path: Path, kind: str) -> None:
    async def work(auth: RunningAuth, web: RunningWeb) -> None:
        if kind == "invite":
            token = await invited(auth)
        else:
            await auth.person("ann")
            token = (await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="ann"))).token
        window = Browser(web)
        answer = await finish(auth, window, token)
        assert answer.status == 200, answer.text
        assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/"} <= set(answer.headers["Set-Cookie"].split("; "))
        window.token = answer.json["token"]
        status = await window.ask("GET", "/webapi/user/status")
        assert (status.json["user"], status.json["factor"]) == ("ann", "password+otp")
        assert (await window.ask("GET", NODES)).status == 200
        (login,) = (event for event in await auth.events("user.login") if event["success"])
        assert (login["user"], login["message"]) == ("ann", "by a link that sets the password")
        assert login["mfa_device"]["mfa_device_name"] == "otp"
        assert login["addr"].startswith("127.0.0.1:")
        (begun,) = await auth.events("web_session.create")
        assert (begun["user"], begun["user_agent"]) == ("ann", "Mozilla/5.0 (test)")
        (made,) = await auth.events("cert.create", wait_for=1, where=lambda event: event.get("user") == "ann")
        assert made["code"]
        again = await finish(auth, Browser(web), token)
        assert (again.status, "Set-Cookie" in again.headers) == (404, False)

    await before_a_proxy(tmp_path, work)


async def test_a_wrong_code_or_another_sites_page_gets_no_session(tmp_path: Path) -> None:
    """T54: whoever is led to somebody else's link by a foreign page is not signed in as that user; the link stays."""

    async def work(auth: RunningAuth, web: RunningWeb) -> None:
        token = await invited(auth)
        window = Browser(web)
        program = Browser(web, {})
        for refused in (
            await finish(auth, window, token, code="000000"),
            await finish(auth, window, token, Origin="https://evil.example"),
            await finish(auth, window, token, Sec_Fetch_Site="cross-site"),
            await finish(auth, window, token, X_CSRF_Token="another"),
            await finish(auth, window, token, Cookie=f"{CSRF_COOKIE}=another"),
            await finish(auth, program, token, Origin=""),
        ):
            assert refused.status == 403, refused.text
            assert "Set-Cookie" not in refused.headers
        assert not await auth.events("web_session.create", wait_for=0)
        done = await finish(auth, window, token, sign_in=False)
        assert (done.status, done.json, COOKIE in window.cookies) == (200, {"message": "ok"}, False)

    await before_a_proxy(tmp_path, work)


@pytest.mark.parametrize("target", [{"user": "ann"}, {"role": "access"}])
async def test_who_is_locked_sets_a_password_and_is_not_signed_in(tmp_path: Path, target: dict[str, str]) -> None:
    async def work(auth: RunningAuth, web: RunningWeb) -> None:
        token = await invited(auth)
        await lock(auth, **target)
        window = Browser(web)
        answer = await finish(auth, window, token)
        assert (answer.status, answer.json, COOKIE in window.cookies) == (200, {"message": "ok"}, False)
        assert not await auth.events("web_session.create", wait_for=0)
        assert not await auth.events("user.login", wait_for=0)

    await before_a_proxy(tmp_path, work)


async def test_a_former_session_of_the_browser_ends(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb) -> None:
        window = Browser(web)
        for name in ("ann", "bob"):
            token = await invited(auth, name)
            former = window.cookies.get(COOKIE, "")
            answer = await finish(auth, window, token)
            assert (answer.status, answer.json["user"]) == (200, name)
        old = Browser(web, {**window.cookies, COOKIE: former})
        assert (await old.ask("POST", "/webapi/sessions/renew")).status == 401
        assert [event["user"] for event in await auth.events("web_session.end")] == ["ann"]

    await before_a_proxy(tmp_path, work)


async def test_no_session_is_made_of_what_is_no_key_or_proof(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb) -> None:
        token = await invited(auth)
        proxy = await auth.host(SystemRole.PROXY)
        info = await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=token))
        line = generate_p256().public.line("")
        for sealed, proof, key in (("s", "short", line), ("s" * 5000, "p" * 43, line), ("s", "p" * 43, "no key")):
            asked = m.NewWebSession(public_key=key, sealed_key=sealed, proof=proof)
            code = auth.code(info.totp_secret)
            finish = m.FinishUserTokenRequest(token=token, password=PASSWORD, otp_token=code, session=asked)
            with pytest.raises((AccessDenied, BadRequest)):
                await auth.call(proxy, routes.FINISH_USER_TOKEN, finish)
        assert (await Browser(web).ask("GET", f"{TOKEN}/{token}")).json["cluster"] == CLUSTER, "the link stays"

    await before_a_proxy(tmp_path, work)
