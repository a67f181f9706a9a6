"""The web API over TLS in front of a real auth service: `protocols.md` 2, threats T19, T22, T54."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.web.web_rig import Answer, RunningWeb, b64, invite, login_body, running_web, web_before

from teleport import __version__
from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import rfc3339
from teleport.errors import AccessDenied, ConnectionProblem
from teleport.pki.keys import generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.testing.auth import CLUSTER, PASSWORD, RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator
from teleport.testing.clock import FakeClock
from teleport.web.pages import CSRF_COOKIE
from teleport.web.service import MAX_BODY

CERTS = "/webapi/ssh/certs"
TOKEN = "/webapi/users/password/token"
ONE_ANSWER = {
    "error": {
        "message": "the user name, the password or the code is wrong",
        "hint": (
            "after several failures a user is locked for 20 minutes; an administrator can end that: tctl users unlock"
        ),
    }
}


@asynccontextmanager
async def both(tmp_path: Path) -> AsyncIterator[tuple[RunningAuth, RunningWeb]]:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web:
        yield auth, web


class Calls:
    """Stands in for auth where it must not be asked, or must fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.names: list[str] = []

    async def call(self, route: Any, request: Any) -> Any:
        self.names.append(route.name)
        if self.error is not None:
            raise self.error
        raise AssertionError("auth is not to be asked")


# what clients ask first


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_ping_and_find_say_where_everything_is(tmp_path: Path, prefix: str) -> None:
    async with running_web(tmp_path, Calls(), ()) as web:
        major = int(__version__.split(".")[0])
        common = {
            "server_version": __version__,
            "min_client_version": f"{max(major - 1, 0)}.0.0",
            "cluster_name": CLUSTER,
            "proxy": {"kube": {"enabled": False}, "ssh": {"listen_addr": "127.0.0.1:3023", "public_addr": "p:443"}},
        }
        found = await web.ask("GET", f"{prefix}/webapi/find")
        assert (found.status, found.json) == (200, common), "without empty strings, without auth"
        for path in ("/webapi/ping", "/webapi/ping/local"):
            answer = await web.ask("GET", prefix + path)
            sign_in = {"type": "local", "second_factor": "otp", "has_motd": False, "allow_passwordless": False}
            assert answer.json == {**common, "auth": sign_in}


async def test_the_authority_is_public(tmp_path: Path) -> None:
    async with both(tmp_path) as (auth, web):
        answer = await web.ask("GET", "/webapi/ca")
        now = answer.json.pop("now")
        assert answer.json == {"cluster": CLUSTER, "tls_certs": auth.tls_cas}
        assert now == rfc3339(auth.clock.now()), "the time at auth, which joiners compare with their own"


# logging in


async def test_password_and_code_give_certificates_for_the_offered_key(tmp_path: Path) -> None:
    key = generate_p256()
    async with both(tmp_path) as (auth, web):
        secret = await auth.person("alice")
        answer = await web.ask("POST", CERTS, json=login_body(key, "alice", auth.code(secret, periods=1)))
        assert answer.status == 200, answer.text
        assert answer.json["username"] == "alice"
        certificate = parse_certificate_line(base64.b64decode(answer.json["cert"]).decode())
        assert certificate.body.public_key == key.public
        assert "root" in certificate.body.principals
        assert base64.b64decode(answer.json["tls_cert"]).startswith(b"-----BEGIN CERTIFICATE-----")
        signer = answer.json["host_signers"][0]
        assert signer["domain_name"] == CLUSTER
        assert [base64.b64decode(cert).decode() for cert in signer["tls_certs"]] == auth.tls_cas
        found = await auth.events("user.login")
        assert found[-1]["success"] is True
        assert found[-1]["addr"].startswith("127.0.0.1:")


async def test_every_failed_login_reads_the_same(tmp_path: Path) -> None:
    """T22: unknown, wrong password, wrong code, no code, a used code, locked, and no password set yet."""
    key = generate_p256()
    async with both(tmp_path) as (auth, web):
        secret = await auth.person("alice")
        await auth.person("bob")
        await invite(auth, "carol")
        good = auth.code(secret, periods=1)
        assert (await web.ask("POST", CERTS, json=login_body(key, "alice", good))).status == 200
        tries = {
            "a used code": login_body(key, "alice", good),
            "an unknown user": login_body(key, "nobody", "123456"),
            "a name that cannot be": login_body(key, "../../etc\n", "123456"),
            "a wrong password": login_body(key, "alice", auth.code(secret), password="wrong horse battery"),
            "a wrong code": login_body(key, "alice", "000000"),
            "no code": login_body(key, "alice", ""),
            "an empty password": login_body(key, "alice", "000000", password=""),
            "no password yet": login_body(key, "carol", "000000"),
        }
        for _ in range(5):
            await web.ask("POST", CERTS, json=login_body(key, "bob", "000000"))
        tries["locked"] = login_body(key, "bob", "000000")
        answers = {name: await web.ask("POST", CERTS, json=body) for name, body in tries.items()}
    read = {name: (answer.status, answer.json) for name, answer in answers.items()}
    assert read == dict.fromkeys(tries, (403, ONE_ANSWER))


async def test_attempts_are_limited_by_address_before_auth_is_asked(tmp_path: Path) -> None:
    calls = Calls(ConnectionProblem("auth is away"))
    key = generate_p256()
    async with running_web(tmp_path, calls, ()) as web:

        async def attempt() -> int:
            body = login_body(key, "alice", "000000")
            async with web.session.post(web.url + CERTS, json=body) as response:
                return response.status

        assert [await attempt() for _ in range(12)] == [502] * 10 + [429] * 2
        assert len(calls.names) == 10
        async with web.session.get(f"{web.url}{TOKEN}/{'0' * 32}") as response:
            assert response.status == 429, "links are guessed at the same cost"
        async with web.session.get(f"{web.url}/webapi/ping") as response:
            assert response.status == 200
        web.clock.advance(0.1)
        assert [await attempt() for _ in range(2)] == [502, 429]


async def test_who_fails_waits_and_who_shares_the_address_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T23: growing, bounded, by user and address; a success clears it; known and unknown users are treated alike."""
    monkeypatch.setattr("teleport.web.attempts.is_own", lambda address: False)
    key = generate_p256()
    calls = Calls(AccessDenied("the user name, the password or the code is wrong"))
    async with running_web(tmp_path, calls, ()) as web:

        async def attempt(user: str) -> tuple[int, str]:
            answer = await web.ask("POST", CERTS, json=login_body(key, user, "000000"))
            return answer.status, answer.text

        assert [(await attempt("alice"))[0] for _ in range(8)] == [403] * 7 + [429]  # a second passes before each
        status, said = await attempt("alice")
        assert (status, "try again in" in said) == (403, False)
        waits = []
        for _ in range(12):
            while (await attempt("alice"))[0] == 429:
                pass
            before = web.clock.monotonic()
            while (await attempt("alice"))[0] == 429:
                pass
            waits.append(web.clock.monotonic() - before)
        assert waits[-1] == max(waits)
        assert 30 < waits[-1] <= 62, waits
        assert (await attempt("bob"))[0] == 403, "somebody else behind the same address"
        web.clock.advance(3600)
        assert [(await attempt("alice"))[0] for _ in range(5)] == [403] * 5


async def test_many_names_from_one_address_wait_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teleport.web.attempts.is_own", lambda address: False)
    key = generate_p256()
    async with running_web(tmp_path, Calls(AccessDenied("wrong")), ()) as web:
        answers = []
        for number in range(100):
            answer = await web.ask("POST", CERTS, json=login_body(key, f"user{number}", "000000"))
            answers.append(answer.status)
        assert answers[:30] == [403] * 30
        assert 429 in answers
        web.clock.advance(10)
        assert (await web.ask("POST", CERTS, json=login_body(key, "somebody", "000000"))).status == 403


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/webapi/login/browser/mine/certs"), ("GET", "/webapi/login/browser/mine")]
)
async def test_a_login_that_a_stranger_began_does_not_shorten_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Anybody can begin one and ask for it: that proves nothing, so what failed from there still counts."""
    monkeypatch.setattr("teleport.web.attempts.is_own", lambda address: False)
    key = generate_p256()

    class Begun(Calls):
        async def call(self, route: Any, request: Any) -> Any:
            match route.name:
                case "collect_browser_login":
                    return m.CollectedLogin()
                case "browser_login":
                    return m.BrowserLogin(id="mine", code="", client_addr="", expires=web.clock.now())
            return await super().call(route, request)

    async with running_web(tmp_path, Begun(AccessDenied("wrong")), ()) as web:
        answers = []
        for number in range(60):
            answers.append((await web.ask("POST", CERTS, json=login_body(key, f"user{number}", "000000"))).status)
            await web.ask(method, path)
        assert 429 in answers


async def test_this_host_is_never_kept_waiting(tmp_path: Path) -> None:
    key = generate_p256()
    async with running_web(tmp_path, Calls(AccessDenied("wrong")), ()) as web:
        for _ in range(60):
            assert (await web.ask("POST", CERTS, json=login_body(key, "alice", "000000"))).status == 403


# what is sent wrong


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"user": 1}', 400),
        (b'{"user": "a", "password": "b"}', 400),
        (b'{"user": "a", "password": "b", "pub_key": "!"}', 400),
        (b'{"user": "a", "password": "b", "pub_key": "/////w=="}', 400),
        (b'{"user": "\xff", "password": "b", "pub_key": ""}', 400),
        (b"[" * 60_000, 400),
        (b'{"user": "a", "password": "b", "pub_key": "", "ttl": 1e400}', 400),
        (b" " * (MAX_BODY + 1), 413),
    ],
    ids=str,
)
async def test_bodies_that_cannot_be_meant_are_refused(tmp_path: Path, body: bytes, status: int) -> None:
    calls = Calls()
    async with running_web(tmp_path, calls, ()) as web:
        answer = await web.ask("POST", CERTS, data=body)
        assert answer.status == status, answer.text
        assert answer.json["error"]["message"]
        put = await web.ask("PUT", TOKEN, data=body)
        assert put.status == status
    assert not calls.names


async def test_a_body_without_end_is_cut_at_the_limit(tmp_path: Path) -> None:
    """T19: what is too long is refused while it still comes; the rest is not taken."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 65536
            yield b"x" * 65536

    async with running_web(tmp_path, Calls(), ()) as web:
        try:
            async with web.session.post(web.url + CERTS, data=endless()) as response:
                assert response.status == 413
        except (ConnectionError, OSError):
            pass  # the connection may be gone before the answer is read
    assert sent < 64 << 20


async def test_a_public_key_that_is_none_is_refused_by_auth(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, web):
        body = {"user": "alice", "password": "x", "otp_token": "1", "pub_key": b64("ssh-rsa nonsense")}
        answer = await web.ask("POST", CERTS, json=body)
        assert answer.status in (400, 403)
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/webapi", 404),
        ("GET", "/webapi/sites", 404),
        ("GET", "/web/static/lease.html", 404),
        ("GET", "/web/static/app", 404),
        ("GET", "/web/static/app/index.html", 404),
        ("GET", "/web/app/", 404),
        ("GET", "/web/app/index.html", 404),
        ("GET", "/web/app/nothing.js", 404),
        ("GET", "/web/app/..%2fpage.css", 404),
        ("GET", "/web/app/..%2f..%2fservice.py", 404),
        ("GET", "/web/app/%2fetc%2fpasswd", 404),
        ("GET", "/web/static/..%2fservice.py", 404),
        ("GET", "/web/static/__init__.py", 404),
        ("DELETE", "/webapi/ping", 405),
        ("POST", "/web/cluster/x/nodes", 405),
        ("POST", "/webapi/find", 405),
        ("GET", CERTS, 405),
    ],
)
async def test_what_is_not_served_is_said_in_the_fields_form(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with running_web(tmp_path, Calls(), ()) as web:
        answer = await web.ask(method, path)
        assert answer.status == status
        assert answer.json["error"]["message"]
        assert (status == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConnectionProblem("no auth server answers"), 502, "no auth server answers"),
        (RuntimeError("the secret is hunter2"), 500, "the proxy failed to do this; its log names the reason"),
    ],
)
async def test_failures_inside_say_no_more_than_they_may(
    tmp_path: Path, error: Exception, status: int, text: str
) -> None:
    async with running_web(tmp_path, Calls(error), ()) as web:
        answer = await web.ask("GET", "/webapi/ca")
        assert (answer.status, answer.json["error"]["message"]) == (status, text)


# headers


async def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    asked = [
        ("GET", "/", 302),
        ("GET", "/web", 200),
        ("GET", "/web/cluster/x/nodes", 200),
        ("GET", "/web/invite/x", 200),
        ("GET", "/web/login/x", 200),
        ("GET", "/web/static/lease.js", 200),
        ("GET", "/web/static/page.css", 200),
        ("GET", "/webapi/ping", 200),
        ("GET", "/webapi/ca", 502),
        ("POST", CERTS, 400),
        ("PUT", TOKEN, 400),
        ("GET", "/webapi/auth/tunnel", 400),
        ("GET", "/nothing", 404),
        ("TRACE", "/webapi/ping", 405),
    ]
    async with running_web(tmp_path, Calls(ConnectionProblem("away")), ()) as web:
        for method, path, status in asked:
            answer = await web.ask(method, path)
            assert answer.status == status, (method, path)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "max-age" in answer.headers["Strict-Transport-Security"]
            assert "aiohttp" not in answer.headers["Server"].lower()
        too_large = await web.ask("POST", CERTS, data=b" " * (MAX_BODY + 1))
        assert (too_large.status, too_large.headers["X-Frame-Options"]) == (413, "DENY")


async def test_pages_hold_no_inline_code(tmp_path: Path) -> None:
    """What the policy forbids would silently not work."""
    async with running_web(tmp_path, Calls(), ()) as web:
        for path in ("/web", "/web/invite/x"):
            page = await web.ask("GET", path)
            assert page.headers["Content-Type"].startswith("text/html")
            text = page.text.lower()
            scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
            assert scripts
            assert not any(scripts)
            assert text.count("<script") == len(re.findall(r'<script[^>]* src="/web/(?:static|app)/', text))
            assert "<style" not in text
            assert " style=" not in text
            assert " onclick" not in text
        assert (await web.ask("GET", "/")).headers["Location"] == "/web"


# invitations and resets


async def finish(
    web: RunningWeb, token: str, code: str, *, password: str = PASSWORD, headers: dict[str, str] | None = None
) -> Answer:
    body = {"token": token, "password": b64(password), "second_factor_token": code}
    return await web.ask("PUT", TOKEN, json=body, headers=headers)


async def test_an_invitation_sets_password_and_second_factor_once(tmp_path: Path) -> None:
    key = generate_p256()
    async with both(tmp_path) as (auth, web):
        link = await invite(auth, "alice")
        assert f"/web/invite/{link.token}" in link.url
        shown = (await web.ask("GET", f"{TOKEN}/{link.token}")).json
        assert (shown["user"], shown["kind"], shown["cluster"]) == ("alice", "invite", CLUSTER)
        assert (shown["tokenId"], shown["second_factor"]) == (link.token, "otp")
        assert base64.b64decode(shown["qr"]).startswith(b"\x89PNG\r\n")
        assert shown["totp_secret"] in shown["totp_url"]
        code = auth.code(shown["totp_secret"])
        assert (await finish(web, link.token, "000000")).status == 403
        short = await finish(web, link.token, code, password="short")
        assert short.status == 400
        assert "12" in short.json["error"]["message"]
        done = await finish(web, link.token, code)
        assert (done.status, done.json) == (200, {"message": "ok"})
        again = await finish(web, link.token, code)
        assert again.status == 404
        assert "used" in again.json["error"]["message"]
        assert (await web.ask("GET", f"{TOKEN}/{link.token}")).status == 404
        later = auth.code(shown["totp_secret"], periods=1)
        assert (await web.ask("POST", CERTS, json=login_body(key, "alice", later))).status == 200


async def test_a_reset_ends_the_old_password(tmp_path: Path) -> None:
    key = generate_p256()
    async with both(tmp_path) as (auth, web):
        secret = await auth.person("alice")
        link = await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="alice"))
        assert "/web/reset/" in link.url
        body = login_body(key, "alice", auth.code(secret, periods=1))
        assert (await web.ask("POST", CERTS, json=body)).status == 403
        shown = (await web.ask("GET", f"{TOKEN}/{link.token}")).json
        assert shown["kind"] == "reset"
        assert shown["totp_secret"] != secret
        assert (await finish(web, link.token, auth.code(shown["totp_secret"]), password=PASSWORD * 2)).status == 200
        late = auth.code(shown["totp_secret"], periods=1)
        assert (await web.ask("POST", CERTS, json=login_body(key, "alice", late))).status == 403
        body = login_body(key, "alice", late, password=PASSWORD * 2)
        assert (await web.ask("POST", CERTS, json=body)).status == 200


async def test_a_link_works_until_it_expires(tmp_path: Path) -> None:
    async with both(tmp_path) as (auth, web):
        link = await invite(auth, "alice")
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(3601)
        answer = await web.ask("GET", f"{TOKEN}/{link.token}")
        assert answer.status == 404
        assert "expired" in answer.json["error"]["message"]


async def test_links_that_never_were_read_like_used_ones(tmp_path: Path) -> None:
    async with both(tmp_path) as (_, web):
        for token in ("x", "0" * 32, "%2e%2e", "..%2f..%2fusers", "a" * 5000, "%00", "%ff"):
            answer = await web.ask("GET", f"{TOKEN}/{token}")
            assert answer.status in (400, 404), token
            assert answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Cookie": f"{CSRF_COOKIE}=abc", "X-CSRF-Token": "abc", "Origin": "https://localhost"}, True),
        ({"Cookie": f"{CSRF_COOKIE}=abc", "X-CSRF-Token": "abc"}, True),
        ({"Origin": "https://evil.example.com"}, False),
        ({"Origin": "null"}, False),
        ({"X-CSRF-Token": "abc", "Origin": "https://evil.example.com"}, False),
        ({"Cookie": f"{CSRF_COOKIE}=abc"}, False),
        ({"Cookie": f"{CSRF_COOKIE}=abc", "X-CSRF-Token": "abcd"}, False),
        ({"Cookie": f"{CSRF_COOKIE}="}, False),
        ({"Cookie": f"{CSRF_COOKIE}=", "X-CSRF-Token": ""}, False),
        ({"Cookie": f"{CSRF_COOKIE}=é", "X-CSRF-Token": "abc"}, False),
    ],
    ids=str,
)
async def test_the_password_is_set_by_our_page_or_by_a_program_only(
    tmp_path: Path, headers: dict[str, str], allowed: bool
) -> None:
    """T54: another site can send neither the cookie's value in a header, nor a request without Origin."""
    calls = Calls(ConnectionProblem("asked"))
    async with running_web(tmp_path, calls, ()) as web:
        answer = await finish(web, "t", "1", headers=headers)
        assert answer.status == (502 if allowed else 403), answer.text
        assert bool(calls.names) == allowed
        others = {
            "/webapi/login/browser/x": {"code": "A", "user": "ann", "password": "p"},
            "/webapi/mfa/token/x/registerchallenge": {},
        }
        for path, body in others.items():
            calls.names.clear()
            answer = await web.ask("POST", path, json=body, headers=headers)
            assert answer.status == (502 if allowed else 403), (path, answer.text)
            assert bool(calls.names) == allowed


async def test_the_page_gets_a_cookie_that_only_this_site_sends(tmp_path: Path) -> None:
    async with running_web(tmp_path, Calls(), ()) as web:
        first = (await web.ask("GET", "/web/invite/x")).headers["Set-Cookie"]
        second = (await web.ask("GET", "/web/invite/x")).headers["Set-Cookie"]
        name, _, value = first.split(";")[0].partition("=")
        assert name == "__Host-grv_csrf"
        assert len(value) >= 32
        assert first != second
        attributes = {part.strip().lower() for part in first.split(";")[1:]}
        assert {"secure", "samesite=strict", "path=/"} <= attributes
        assert not any(attribute.startswith("domain") for attribute in attributes)
        kept = (await web.ask("GET", "/web/invite/x", headers={"Cookie": f"{name}={value}"})).headers["Set-Cookie"]
        assert f"{name}={value}" in kept, "two tabs keep one value"


async def test_an_ipv6_client_is_named_in_brackets(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path, host="::1") as web:
        await web.ask("POST", CERTS, json=login_body(generate_p256(), "nobody", "000000"))
        found = await auth.events("user.login")
        assert "[::1]:" in json.dumps(found[-1])


# second factors


async def test_a_hardware_key_logs_in_over_the_web(tmp_path: Path) -> None:
    """Challenges are for anybody; certificates for whoever has the key and the password."""
    async with running_auth(tmp_path, clock=present_clock()) as auth, web_before(auth, tmp_path) as web:
        await auth.set_second_factor("on")
        secret = await auth.person("ann")
        ann = await auth.user("ann", [])
        auth.clock.advance(30)  # type: ignore[attr-defined]
        begin = m.BeginFactorRequest(name="k", type="webauthn", factor=m.FactorResponse(totp_code=auth.code(secret)))
        new = await auth.call(ann, routes.BEGIN_FACTOR, begin)
        key = Authenticator(origin=web.url)
        await auth.call(ann, routes.FINISH_FACTOR, m.NewFactorProof(id=new.id, webauthn=key.create(new.webauthn)))

        async def asked(user: str) -> dict[str, Any]:
            answer = await web.ask("POST", "/webapi/mfa/login/begin", json={"user": user, "pass": "x"})
            assert answer.status == 200, answer.text
            found: dict[str, Any] = answer.json
            return found

        async def login(user: str, password: str = PASSWORD, path: str = "/webapi/mfa/login/finish") -> Answer:
            made = await asked(user)
            options = made["webauthn_challenge"]["publicKey"]
            signed = key.sign(
                m.WebauthnChallenge(
                    challenge=options["challenge"],
                    rp_id=options["rpId"],
                    credentials=[one["id"] for one in options["allowCredentials"] if one["id"] in key.keys],
                )
            )
            response = {
                "clientDataJSON": signed.client_data,
                "authenticatorData": signed.authenticator_data,
                "signature": signed.signature,
                "userHandle": signed.user_handle or None,
            }
            body = {
                **login_body(generate_p256(), user, "", password=password),
                "challenge_id": made["challenge_id"],
                "webauthn_challenge_response": {"id": signed.credential_id, "type": "public-key", "response": response},
            }
            return await web.ask("POST", path, json=body, headers={"User-Agent": "a browser"})

        for path in ("/webapi/mfa/login/finish", "/webapi/ssh/certs"):
            answer = await login("ann", path=path)
            assert answer.status == 200, answer.text
        refusals = {(answer.status, answer.text) for answer in (await login("nobody"), await login("ann", "wrong one"))}
        assert len(refusals) == 1, refusals
        real, invented = await asked("ann"), await asked("nobody")
        assert real.keys() == invented.keys()
        shapes = [made["webauthn_challenge"]["publicKey"] for made in (real, invented)]
        assert shapes[0].keys() == shapes[1].keys()
        assert [len(shape["allowCredentials"]) for shape in shapes] == [1, 1]
        (event,) = [one for one in await auth.events("user.login", wait_for=4) if one["success"]][:1]
        assert (event["user_agent"], event["mfa_device"]["mfa_device_name"]) == ("a browser", "k")
        await auth.set_second_factor("otp")
        assert "webauthn_challenge" not in await asked("ann")
