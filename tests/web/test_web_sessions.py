"""Sessions of browsers: beginning, being taken up, ending (threats T22, T34, T54)."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.web.session_rig import CSRF, LOGIN, NODES, Browser, Person, lock, proxy_with_sessions, until
from tests.web.web_rig import Answer, RunningWeb, running_web

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.pki.web_secret import WebSecret, parse_cookie
from teleport.resources.cluster import NetworkingConfig, NetworkingSpec
from teleport.resources.codec import to_json
from teleport.resources.values import Duration
from teleport.store import records
from teleport.testing.auth import PASSWORD, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER, SAFE
from teleport.web.session import Caller, Rep, Req
from teleport.web.sessions import COOKIE

ONE_ANSWER = {
    "error": {
        "message": "the user name, the password or the code is wrong",
        "hint": (
            "after several failures a user is locked for 20 minutes; an administrator can end that: tctl users unlock"
        ),
    }
}
OVER = {"error": {"message": "you are not logged in, or your session has ended", "hint": "log in again"}}
SOON = 2.0  # seconds within which an end is felt


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def with_proxies(tmp_path: Path, work: Callable[..., Awaitable[None]], proxies: int = 1, **options: Any) -> None:
    """Runs `work` with auth, somebody called ann and some proxies."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(running_auth(tmp_path, clock=present_clock(), **options))
        ann = await Person.made(auth, "ann")
        found = [await stack.enter_async_context(proxy_with_sessions(auth, tmp_path)) for _ in range(proxies)]
        await work(auth, ann, *found)


# beginning


async def test_a_login_gives_a_cookie_that_scripts_cannot_read_and_a_token_beside_it(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = Browser(web)
        answer = await window.log_in("ann", ann.code())
        assert answer.status == 200, answer.text
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert set(re.split("; ", cookie)[1:]) >= {"HttpOnly", "Path=/", "SameSite=Strict", "Secure"}
        assert "Domain" not in cookie
        assert (answer.json["type"], answer.json["user"], answer.json["cluster"]) == ("bearer", "ann", auth.cluster)
        assert answer.json["expires_in"] == 600
        assert answer.json["sessionExpires"]
        status = await window.ask("GET", "/webapi/user/status")
        assert (status.status, status.json["user"], status.json["factor"]) == (200, "ann", "password+otp")
        (event,) = await auth.events("web_session.create")
        assert (event["code"], event["user"], event["user_agent"]) == ("T9350I", "ann", "Mozilla/5.0 (test)")
        assert event["addr"].startswith("127.0.0.1:")
        secret = cookie.partition("=")[2].partition(";")[0].partition(".")[2]
        assert secret not in str(await auth.events(wait_for=0)), "no secret is on record"
        context = await window.ask("GET", f"/webapi/sites/{auth.cluster}/context")
        assert (context.json["user"], context.json["roles"], context.json["acl"]["user"]) == ("ann", ["access"], [])
        sites = await window.ask("GET", "/webapi/sites")
        assert sites.json == {"sites": [{"name": auth.cluster, "status": "online"}]}

    await with_proxies(tmp_path, work)


async def test_every_failed_login_reads_the_same(tmp_path: Path) -> None:
    """T22; that it costs the same is kept by tests/security/test_security_one_answer.py: the check is the same one."""

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        await auth.user("new", ["access"])
        tries = {
            "unknown": ("nobody", PASSWORD, "123456"),
            "wrong password": ("ann", "not the password", ann.code()),
            "wrong code": ("ann", PASSWORD, "000000"),
            "no code": ("ann", PASSWORD, ""),
            "no password yet": ("new", PASSWORD, "123456"),
            "no name": ("", "", ""),
        }
        for what, (user, password, code) in tries.items():
            window = Browser(web)
            answer = await window.log_in(user, code, password=password)
            assert (answer.status, answer.json) == (403, ONE_ANSWER), what
            assert COOKIE not in window.cookies

    await with_proxies(tmp_path, work)


async def test_a_session_that_somebody_planted_is_not_logged_in(tmp_path: Path) -> None:
    """Session fixation: whatever cookie is there before a login, after it there is another; the former is over."""

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        attacker = await (await Person.made(auth, "mal")).browser(web)
        victim = Browser(web, {CSRF_COOKIE: CSRF, COOKIE: attacker.cookies[COOKIE]})
        assert (await victim.log_in("ann", ann.code())).status == 200
        assert victim.cookies[COOKIE] != attacker.cookies[COOKIE]
        assert (await victim.ask("GET", "/webapi/user/status")).json["user"] == "ann"
        assert (await attacker.ask("GET", "/webapi/user/status")).status == 401, "the planted session has ended"
        invented = Browser(web, {CSRF_COOKIE: CSRF, COOKIE: WebSecret(b"x" * 32).cookie("chosen-by-somebody")})
        assert (await invented.log_in("ann", ann.code())).status == 200
        assert not invented.cookies[COOKIE].startswith("chosen-by-somebody")

    await with_proxies(tmp_path, work)


# whose request it is


def mutating(web: RunningWeb) -> list[tuple[str, str]]:
    """Method and path of every route that could change something, with something in the place of names."""
    found = []
    for route in web.service.build_app().router.routes():
        resource = route.resource
        if route.method not in SAFE and resource is not None:
            found.append((route.method, re.sub(r"\{\w+\}", "x", resource.canonical)))
    return sorted(set(found))


async def test_no_route_that_changes_something_is_reached_from_another_page(tmp_path: Path) -> None:
    """T54: from another origin, without the page's token, and with the cookies that a browser would send along."""

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        table = mutating(web)
        assert len(table) > 30
        assert ("POST", "/webapi/sessions/web") in table
        window = await ann.browser(web)
        for method, path in table:
            path = path.replace("/sites/x/", f"/sites/{auth.cluster}/")
            for what, sent in {
                "from elsewhere": {"Origin": "https://evil.example.com", CSRF_HEADER: "", "Authorization": ""},
                "from nowhere": {"Origin": "null", CSRF_HEADER: "", "Authorization": ""},
                "without the token": {CSRF_HEADER: "", "Authorization": ""},
                "with a wrong one": {CSRF_HEADER: "guessed", "Authorization": ""},
            }.items():
                answer = await window.ask(method, path, json={}, **sent)
                assert answer.status in (401, 403), (method, path, what, answer.text)
        assert (await window.ask("GET", "/webapi/user/status")).status == 200, "the session goes on"

    await with_proxies(tmp_path, work)


async def test_a_page_that_lost_its_cookies_is_told_to_sign_in_and_given_what_that_takes(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        renew = "/webapi/sessions/renew"
        for left in ({}, {COOKIE: window.cookies[COOKIE]}):
            there = Browser(web, dict(left))
            answer = await there.ask("POST", renew)
            assert answer.status == 401, answer.text
            assert "load the page again" in answer.text
            assert len(there.cookies[CSRF_COOKIE]) == 32, "the page may repeat it from now on"
        assert (await there.ask("POST", renew)).status == 200, "its session is still there"
        other = Browser(web, {COOKIE: window.cookies[COOKIE]})
        for sent in ({"Origin": "https://evil.example.com"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
            answer = await other.ask("POST", renew, **sent)
            assert (answer.status, CSRF_COOKIE in other.cookies) == (403, False), sent
        answer = await other.ask("PUT", "/webapi/users/password/token", json={})
        assert (answer.status, CSRF_COOKIE in other.cookies) == (403, True)

    await with_proxies(tmp_path, work)


SESSION_ROUTES = [
    ("GET", "/webapi/user/status"),
    ("GET", "/webapi/user/sessions"),
    ("DELETE", "/webapi/user/sessions"),
    ("DELETE", "/webapi/user/sessions/x"),
    ("PUT", "/webapi/users/password"),
    ("GET", "/webapi/mfa/devices"),
    ("POST", "/webapi/mfa/devices"),
    ("POST", "/webapi/mfa/devices/challenge"),
    ("POST", "/webapi/mfa/devices/begin"),
    ("POST", "/webapi/mfa/devices/x/remove"),
    ("GET", "/webapi/sites"),
    ("GET", "/webapi/sites/example.com/context"),
    ("GET", NODES),
    ("GET", "/webapi/sites/example.com/namespaces/default/nodes"),
    ("GET", "/webapi/sites/example.com/kube_clusters"),
]


async def test_a_cookie_alone_or_a_token_alone_opens_nothing(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        other = await (await Person.made(auth, "bob")).browser(web)
        late = window.session.bearer()[0]
        for method, path in SESSION_ROUTES:
            for what, sent in {
                "no token": {"Authorization": ""},
                "no cookie": {"Cookie": f"{CSRF_COOKIE}={CSRF}"},
                "somebody else's token": {"Authorization": f"Bearer {other.token}"},
                "a token made up": {"Authorization": "Bearer 99999999999.AAAA"},
                "another secret": {"Cookie": f"{COOKIE}={window.session.id}.{'A' * 43}"},
                "another id": {"Cookie": f"{COOKIE}=x.{window.cookies[COOKIE].partition('.')[2]}"},
                "no such cookie": {"Cookie": f"{COOKIE}=..%00;.é"},
            }.items():
                answer = await window.ask(method, path, **sent)
                assert answer.status == 401, (method, path, what, answer.text)
            for sent in ({"Origin": "https://evil.example.com"}, {"Sec_Fetch_Site": "same-site"}, {"Origin": "null"}):
                answer = await window.ask(method, path, **sent)
                assert answer.status == 403, (method, path, sent, answer.text)
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(601)
        assert (await window.ask("GET", "/webapi/user/status", Authorization=f"Bearer {late}")).status == 401
        renewed = await window.ask("POST", "/webapi/sessions/renew", Authorization="")
        assert renewed.status == 200, "a page that was loaded anew has its own token"
        window.token = renewed.json["token"]
        assert (await window.ask("GET", "/webapi/user/status")).status == 200

    await with_proxies(tmp_path, work)


async def test_a_proxy_without_sessions_has_none_of_the_routes(tmp_path: Path) -> None:
    class Nothing:
        async def call(self, route: Any, request: Any) -> Any:
            raise AssertionError("auth is not to be asked")

    async with running_web(tmp_path, Nothing(), ()) as web:
        assert (await web.ask("POST", LOGIN, json={})).status == 404


# being taken up


async def test_another_proxy_takes_a_session_up_and_one_of_before_ends_everywhere(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        window = await ann.browser(web)
        elsewhere = window.at(second)
        assert (await elsewhere.ask("GET", "/webapi/user/status")).status == 200
        assert elsewhere.session is not window.session
        assert elsewhere.session.key.public == window.session.key.public, "the same key, opened by the cookie"
        assert (await elsewhere.ask("GET", NODES)).status == 200
        here, there = window.session, elsewhere.session
        answer = await window.ask("DELETE", "/webapi/sessions")
        assert answer.status == 200
        assert COOKIE not in window.cookies
        assert here.ended.is_set()
        async with asyncio.timeout(SOON):
            await there.ended.wait()
        for at in (web, second):
            kept = Browser(at, {CSRF_COOKIE: CSRF, COOKIE: here.cookie()}, window.token)
            answer = await kept.ask("GET", "/webapi/user/status")
            assert (answer.status, answer.json) == (401, OVER), "whoever kept the cookie has nothing of it"
        (event,) = await auth.events("web_session.end")
        assert (event["code"], event["user"], event["reason"]) == ("T9351I", "ann", "logout")

    await with_proxies(tmp_path, work, proxies=2)


async def test_what_auth_keeps_takes_nothing_up_and_opens_nothing(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        made, session = window.session.id, window.session
        found = await auth.service.state.record(records.WEB_SESSION_SECRETS + made, records.WebSessionRecord)
        assert found is not None
        stored = msgspec.json.encode(found[0]).decode()
        parsed = parse_cookie(window.cookies[COOKIE])
        assert parsed is not None
        for secret in (window.cookies[COOKIE].partition(".")[2], session.proof, "PRIVATE KEY"):
            assert secret not in stored
        proxy = await auth.host(SystemRole.PROXY)
        for proof in (found[0].proof_hash, "", made, found[0].sealed_key[:43]):
            use = m.UseWebSessionRequest(id=made, proof=proof, client_addr="127.0.0.1:1")
            with pytest.raises(AccessDenied, match="this session has ended"):
                await auth.call(proxy, routes.USE_WEB_SESSION, use)
        public = PublicKey.parse(found[0].public_key).blob
        assert parsed[1].open(found[0].sealed_key, public).public.blob == public
        for secret_bytes in (b"\0" * 32, bytes.fromhex(found[0].proof_hash)):
            with pytest.raises(AccessDenied):
                WebSecret(secret_bytes).open(found[0].sealed_key, public)
        invented = m.BeginWebSessionRequest(
            user="ann", password="", public_key=found[0].public_key, sealed_key="s", proof="p" * 43, client_addr=""
        )
        with pytest.raises(AccessDenied):
            await auth.call(proxy, routes.BEGIN_WEB_SESSION, invented)

    await with_proxies(tmp_path, work)


async def test_many_requests_after_a_restart_take_the_session_up_once(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        window = (await ann.browser(web)).at(second)
        answers = await asyncio.gather(*(window.ask("GET", "/webapi/user/status") for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        renewed = await auth.events("cert.create", where=lambda event: bool(event.get("renewed_from")))
        assert len(renewed) == 1

    await with_proxies(tmp_path, work, proxies=2)


class Held:
    """Auth, whose first answer is lost and whose second one waits."""

    def __init__(self, auth: Caller) -> None:
        self._auth = auth
        self.asked = 0
        self.lost, self.answers = asyncio.Event(), asyncio.Event()

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep:
        self.asked += 1
        if self.asked == 1:
            await self.lost.wait()
            raise ConnectionProblem("the connection was lost", hint="try again")
        await self.answers.wait()
        return await self._auth.call(route, request)


async def test_a_session_is_taken_up_once_also_after_auth_was_away(tmp_path: Path) -> None:
    """T54: if it were there twice, a logout would end one of the two, and not the terminals of the other."""

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        window = (await ann.browser(web)).at(second)
        sessions = second.service.sessions
        assert sessions is not None
        sessions._auth = held = Held(sessions._auth)

        def ask() -> asyncio.Task[Answer]:
            return asyncio.create_task(window.ask("GET", "/webapi/user/status"))

        def waiting(number: int) -> bool:
            return sum(one.waiting for one in sessions._taking_up.values()) == number

        former = [ask(), ask()]
        await until(lambda: waiting(2), "one asks auth, and one waits for it")
        held.lost.set()
        await until(lambda: waiting(1) and held.asked == 2, "one is refused, and the other asks auth")
        later = ask()
        await until(lambda: waiting(2), "somebody comes meanwhile")
        held.answers.set()
        answers = await asyncio.gather(*former, later)
        assert sorted(one.status for one in answers) == [200, 200, 502], [one.text for one in answers]
        assert held.asked == 2
        assert not sessions._taking_up, "nothing is kept of it"

    await with_proxies(tmp_path, work, proxies=2)


async def test_auth_sees_where_the_browser_is_and_who_asks(tmp_path: Path) -> None:
    """Calls are the user's own, from the browser's address: the event of the change says both."""

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        window.session.caller(("192.0.2.77", 4711))
        who = await window.session.caller(("192.0.2.77", 4711)).call(routes.WHO_AM_I, m.Empty())
        assert (who.kind, who.name, who.client_addr) == ("user", "ann", "192.0.2.77:4711")
        with pytest.raises(AccessDenied):
            await window.session.caller(("192.0.2.77", 1)).call(routes.LIST["user"], m.ListRequest())

    await with_proxies(tmp_path, work)


# ending


async def _delete(auth: RunningAuth) -> None:
    await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="ann"))


async def _roles(auth: RunningAuth) -> None:
    await auth.call(await auth.admin(), routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["auditor"]))


async def _reset(auth: RunningAuth) -> None:
    await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="ann"))


async def _revoked(auth: RunningAuth) -> None:
    certs = await auth.call(await auth.admin(), routes.LIST_CERTS, m.ListCertsRequest(subject="ann"))
    for one in certs.items:
        await auth.call(await auth.admin(), routes.REVOKE_CERT, m.RevokeCertRequest(serial=one.serial))


ENDS: dict[str, Callable[[RunningAuth], Awaitable[None]]] = {
    "the user is locked": lambda auth: lock(auth, user="ann"),
    "a role is locked": lambda auth: lock(auth, role="access"),
    "the user is deleted": _delete,
    "a role is taken away": _roles,
    "the password is reset": _reset,
    "the certificates are revoked": _revoked,
}


@pytest.mark.parametrize("what", ENDS)
async def test_what_ends_a_session_ends_it_at_every_proxy_within_moments(tmp_path: Path, what: str) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        window = await ann.browser(web)
        elsewhere = window.at(second)
        assert (await elsewhere.ask("GET", "/webapi/user/status")).status == 200
        sessions = [window.session, elsewhere.session]
        await ENDS[what](auth)
        async with asyncio.timeout(SOON):
            for session in sessions:
                await session.ended.wait()
        for one in (window, elsewhere):
            assert (await one.ask("GET", "/webapi/user/status")).status == 401
            assert (await one.ask("POST", "/webapi/sessions/renew")).status == 401
        with pytest.raises(AccessDenied):
            sessions[0].caller(("127.0.0.1", 1))

    await with_proxies(tmp_path, work, proxies=2)


async def test_somebody_else_s_sessions_go_on(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        other = await (await Person.made(auth, "bob")).browser(web)
        await lock(auth, user="bob")
        await until(lambda: not _here(other), "bob is out", SOON)
        assert (await other.ask("GET", "/webapi/user/status")).status == 401
        assert (await window.ask("GET", "/webapi/user/status")).status == 200

    await with_proxies(tmp_path, work)


def _here(window: Browser) -> bool:
    assert window.web.service.sessions is not None
    return window.cookies[COOKIE].partition(".")[0] in window.web.service.sessions._sessions


async def test_logging_out_elsewhere_and_everywhere(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        first, other, third = await ann.browser(web), await ann.browser(second), await ann.browser(web)
        stranger = await (await Person.made(auth, "bob")).browser(web)
        listed = (await first.ask("GET", "/webapi/user/sessions")).json["sessions"]
        assert [one["current"] for one in listed].count(True) == 1
        assert len(listed) == 3
        assert (await stranger.ask("DELETE", f"/webapi/user/sessions/{first.session.id}")).status == 404
        ending = third.session
        assert (await first.ask("DELETE", f"/webapi/user/sessions/{ending.id}")).status == 200
        async with asyncio.timeout(SOON):
            await ending.ended.wait()
        ending = other.session
        assert (await first.ask("DELETE", "/webapi/user/sessions")).json == {"ended": 1}
        async with asyncio.timeout(SOON):
            await ending.ended.wait()
        assert (await first.ask("GET", "/webapi/user/status")).status == 200
        assert (await first.ask("DELETE", "/webapi/user/sessions?all=true")).json == {"ended": 1}
        assert COOKIE not in first.cookies
        assert (await stranger.ask("GET", "/webapi/user/status")).status == 200

    await with_proxies(tmp_path, work, proxies=2)


async def set_idle(auth: RunningAuth, seconds: int) -> None:
    spec = NetworkingSpec(web_idle_timeout=Duration.of(seconds=seconds))
    key = records.CLUSTER + "cluster-networking-config"
    await auth.service.state.commit([PutOp(key, to_json(NetworkingConfig(spec=spec)))], events=[])


async def test_nobody_s_use_ends_a_session_and_what_runs_by_itself_is_no_use(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        assert isinstance(auth.clock, FakeClock)
        await set_idle(auth, 120)
        window = await ann.browser(web)
        session, sessions = window.session, web.service.sessions
        assert sessions is not None
        for _ in range(20):  # a minute is less than the idle time
            auth.clock.advance(25)
            assert (await window.ask("GET", "/webapi/user/status")).status == 200
            await sessions.sweep()
        window.token = session.bearer()[0]
        for _ in range(5):
            auth.clock.advance(22)
            answer = await window.ask("GET", NODES, X_Background="1")
            assert answer.status == 200, answer.text
            await sessions.sweep()
        auth.clock.advance(15)
        await sessions.sweep()
        async with asyncio.timeout(SOON):
            await session.ended.wait()
        assert (await window.ask("GET", "/webapi/user/status")).status == 401
        (event,) = await auth.events("web_session.end")
        assert event["reason"] == "idle"

    await with_proxies(tmp_path, work)


async def test_an_idle_session_is_not_taken_up_and_use_elsewhere_counts(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb, second: RunningWeb) -> None:
        assert isinstance(auth.clock, FakeClock)
        await set_idle(auth, 120)
        window = await ann.browser(web)
        elsewhere = window.at(second)
        for _ in range(6):
            auth.clock.advance(40)
            assert (await elsewhere.ask("GET", "/webapi/user/status")).status == 200
        assert web.service.sessions is not None
        await web.service.sessions.sweep()  # nobody used it there for four minutes
        assert not window.session.ended.is_set()
        auth.clock.advance(121)
        third = window.at(second)
        assert second.service.sessions is not None
        second.service.sessions._sessions.clear()  # as after a restart
        assert (await third.ask("GET", "/webapi/user/status")).status == 401

    await with_proxies(tmp_path, work, proxies=2)


async def test_a_session_ends_when_a_login_of_tsh_would(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        session = window.session
        assert (session.expires - session.created).total_seconds() == 12 * 3600
        assert (session.identity.expires - auth.clock.now()).total_seconds() == pytest.approx(3600, abs=2)
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(12 * 3600 + 1)
        assert web.service.sessions is not None
        await web.service.sessions.sweep()
        assert session.ended.is_set()
        assert (await window.ask("POST", "/webapi/sessions/renew")).status == 401

    await with_proxies(tmp_path, work)


async def test_certificates_are_made_anew_with_the_same_key_and_no_more_rights(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        assert isinstance(auth.clock, FakeClock)
        window = await ann.browser(web)
        session, before = window.session, window.session.identity
        await auth.call(
            await auth.admin(), routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["access", "editor"])
        )
        auth.clock.advance(45 * 60)
        window.token = (await window.ask("POST", "/webapi/sessions/renew")).json["token"]
        assert session.identity.serial != before.serial
        assert session.identity.expires > before.expires
        assert session.identity.roles == ("access",), "a role that was given since comes with the next login"
        made = await auth.events("cert.create", where=lambda event: event.get("renewed_from") == before.serial)
        assert made[0]["key_fingerprint"] == session.key.public.fingerprint()
        assert made[0]["factor"] == "password+otp"

    await with_proxies(tmp_path, work)


async def test_a_session_that_is_bound_to_an_address_is_good_from_there_alone(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        role = {
            "kind": "role", "version": "v5", "metadata": {"name": "pinned"},
            "spec": {"options": {"pin_source_ip": True}, "allow": {"logins": ["root"], "node_labels": {"*": ["*"]}}},
        }  # fmt: skip
        request = m.StoreRequest(item=m.Document(msgspec.json.encode(role)))
        await auth.call(await auth.admin(), routes.STORE["role"], request)
        window = await (await Person.made(auth, "pia", ("pinned",))).browser(web)
        session = window.session
        assert session.identity.source_ip == "127.0.0.1"
        assert (await window.ask("GET", NODES)).status == 200
        real = session.identity
        session.identity = replace(real, source_ip="192.0.2.77")  # as if the browser had moved
        assert (await window.ask("GET", "/webapi/user/status")).status == 403
        session.identity = real
        with pytest.raises(TeleportError):
            await session.caller(("192.0.2.77", 4711)).call(routes.FIND_NODES, m.FindNodesRequest())
        proxy = await auth.host(SystemRole.PROXY)
        use = m.UseWebSessionRequest(id=session.id, proof=session.proof, client_addr="192.0.2.77:4711")
        with pytest.raises(AccessDenied):
            await auth.call(proxy, routes.USE_WEB_SESSION, use)
        here = msgspec.structs.replace(use, client_addr="127.0.0.1:4711")
        assert (await auth.call(proxy, routes.USE_WEB_SESSION, here)).certs is not None

    await with_proxies(tmp_path, work)


async def test_one_user_s_sessions_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teleport.auth.people.web_sessions.MOST", 3)

    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        windows = [await ann.browser(web) for _ in range(5)]
        answers: list[Answer] = [await window.ask("GET", "/webapi/user/status") for window in windows]
        assert [answer.status for answer in answers] == [401, 401, 200, 200, 200]

    await with_proxies(tmp_path, work)


# what is one's own


async def test_a_password_is_changed_by_whoever_proves_it_and_a_second_factor(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window, other = await ann.browser(web), await ann.browser(web)
        new = "a much better password"

        async def change(old: str, code: str, to: str = new) -> Answer:
            body = {"old_password": b64(old), "new_password": b64(to), "second_factor_token": code}
            return await window.ask("PUT", "/webapi/users/password", json=body)

        assert (await change("not the password", ann.code())).status == 403
        assert (await change(PASSWORD, "000000")).status == 403
        assert (await change(PASSWORD, "")).status == 403
        assert (await change(PASSWORD, ann.code(), to="short")).status == 400
        ending = other.session
        assert (await change(PASSWORD, ann.code())).status == 200
        async with asyncio.timeout(SOON):
            await ending.ended.wait()
        assert (await window.ask("GET", "/webapi/user/status")).status == 200, "this one goes on"
        assert (await Browser(web).log_in("ann", ann.code())).status == 403
        assert (await Browser(web).log_in("ann", ann.code(), password=new)).status == 200
        assert (await auth.events("user.password_change"))[-1]["user"] == "ann"

    await with_proxies(tmp_path, work)


async def test_second_factors_are_listed_added_and_removed(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        window = await ann.browser(web)
        listed = await window.ask("GET", "/webapi/mfa/devices")
        assert [one["name"] for one in listed.json["devices"]] == ["otp"]
        assert ann.secret not in listed.text
        asked = await window.ask("POST", "/webapi/mfa/devices/challenge", json={})
        assert asked.json["totp_challenge"] is True
        begin = {"name": "phone", "type": "totp", "second_factor_token": "000000"}
        assert (await window.ask("POST", "/webapi/mfa/devices/begin", json=begin)).status == 403
        begin["second_factor_token"] = ann.code()
        made = await window.ask("POST", "/webapi/mfa/devices/begin", json=begin)
        assert made.status == 200, made.text
        assert made.json["qr"]
        proof = {"id": made.json["id"], "totp_code": auth.code(made.json["totp_secret"])}
        assert (await window.ask("POST", "/webapi/mfa/devices", json=proof)).status == 200
        removal = {"second_factor_token": ann.code()}
        removed = await window.ask("POST", "/webapi/mfa/devices/otp/remove", json=removal)
        assert removed.status == 200, removed.text
        listed = await window.ask("GET", "/webapi/mfa/devices")
        assert [one["name"] for one in listed.json["devices"]] == ["phone"]

    await with_proxies(tmp_path, work)


async def test_sessions_that_nobody_asks_for_leave_the_memory_and_come_back(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, ann: Person, web: RunningWeb) -> None:
        await set_idle(auth, 0)
        assert isinstance(auth.clock, FakeClock)
        window = await ann.browser(web)
        session, sessions = window.session, web.service.sessions
        assert sessions is not None
        auth.clock.advance(1200)
        with session.socket():
            await sessions.sweep()
            assert _here(window), "a terminal is open"
        auth.clock.advance(1200)
        await sessions.sweep()
        assert not _here(window)
        assert not session.ended.is_set()
        assert (await window.ask("POST", "/webapi/sessions/renew")).status == 200
        await until(lambda: _here(window), "it is taken up")

    await with_proxies(tmp_path, work)
