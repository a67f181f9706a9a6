"""Passkeys for tsh and behind links: certificates without a name and a password, and a user who has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.auth.test_auth_passkeys import Door, door, passkey

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest
from teleport.pki.keys import generate_p256
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.testing.auth import PASSWORD
from teleport.testing.authenticator import Authenticator

KEY = generate_p256().public
TSH, BROWSER = "192.0.2.7:1", "198.51.100.9:2"


async def log_in(here: Door, answer: m.FactorResponse | None, **more: Any) -> m.UserCerts:
    fields = {"user": "", "password": "", "otp_token": "", "factor": answer, "passwordless": True, **more}
    request = m.LoginRequest(public_key=KEY.line(), ttl=3600, client_addr=TSH, user_agent="tsh/1", **fields)
    certs: m.UserCerts = await here.auth.call(here.proxy, routes.LOGIN, request)
    here.tried += 1
    return certs


async def test_tsh_gets_certificates_for_a_passkey(tmp_path: Path) -> None:
    """Whoever is named besides: the passkey says who it is."""
    async with door(tmp_path) as here:
        await here.auth.person("bob")
        for named in ("", "bob", "nobody"):
            certs = await log_in(here, await here.answer(), user=named)
            assert certs.username == "ann"
            assert certificate_key(load_certificate(certs.tls_cert.encode())) == KEY
        event = await here.last()
        assert (event["user"], event["method"], event["addr"]) == ("ann", "passwordless", TSH)
        assert await here.auth.events("cert.create", where=lambda event: event.get("factor") == "passkey")


async def test_what_no_passkey_proved_gets_no_certificates(tmp_path: Path) -> None:
    """One sentence for all of it; without `passwordless` a passkey alone is no login."""
    async with door(tmp_path) as here:
        used = await here.answer()
        await log_in(here, used)
        unchecked = here.key.copied()
        unchecked.verified = False
        good = await here.answer()
        for what, answer, more in (
            ("used before", used, {}),
            ("its owner was not checked", await here.answer(unchecked), {}),
            ("somebody else's", await here.answer(_stranger(here)), {}),
            ("none", None, {}),
            ("a password beside it", None, {"user": "ann", "password": PASSWORD}),
            ("not as a passkey", good, {"user": "ann", "passwordless": False}),
        ):
            with pytest.raises(AccessDenied, match="the user name, the password or the code is wrong"):
                assert await log_in(here, answer, **more) is None, what


def _stranger(here: Door) -> Authenticator:
    """A key with the same credential under another secret."""
    other = passkey()
    for made, held in here.key.keys.items():
        asked = m.WebauthnCreation(
            challenge="AAAA", rp_id=held.rp_id, rp_name="", user_id=held.user_handle, user_name="", algorithms=[-7],
            exclude=[],
        )  # fmt: skip
        other.create(asked)
        other.keys = {made: next(iter(other.keys.values()))}
    return other


async def test_a_passkey_answers_in_a_browser_for_a_tsh(tmp_path: Path) -> None:
    """With the code that tsh shows, as a password does; a wrong code is refused before anything is proved."""
    async with door(tmp_path) as here:
        begin = m.BeginBrowserLoginRequest(public_key=KEY.line(), ttl=3600, client_addr=TSH)
        made = await here.auth.call(here.proxy, routes.BEGIN_BROWSER_LOGIN, begin)
        answer = await here.answer()

        def finish(code: str) -> m.FinishBrowserLoginRequest:
            return m.FinishBrowserLoginRequest(
                id=made.id, code=code, user="", password="", factor=answer, passwordless=True, client_addr=BROWSER
            )

        with pytest.raises(BadRequest, match="not the code that tsh shows"):
            await here.auth.call(here.proxy, routes.FINISH_BROWSER_LOGIN, finish("BBBBBBBB"))
        await here.auth.call(here.proxy, routes.FINISH_BROWSER_LOGIN, finish(made.code))
        found = await here.auth.call(here.proxy, routes.COLLECT_BROWSER_LOGIN, m.BrowserLoginRequest(id=made.id))
        assert found.certs.username == "ann"
        here.tried = 1
        event = await here.last()
        assert (event["method"], event["addr"], event["message"]) == (
            "passwordless", TSH, f"answered in a browser at {BROWSER}",
        )  # fmt: skip


async def test_a_link_is_followed_with_a_passkey_alone(tmp_path: Path) -> None:
    """No password is set, and none is right from then on; the passkey logs in."""
    async with door(tmp_path) as here:
        link, new = await _link(here, passwordless=True)
        key = passkey()
        assert new.webauthn is not None
        proof = m.NewFactorProof(id=new.id, webauthn=key.create(new.webauthn))
        session = m.NewWebSession(public_key=KEY.line(), sealed_key="sealed", proof="p" * 43, user_agent="a browser")
        finish = m.FinishUserTokenRequest(token=link.token, password="", proof=proof, session=session)
        done = await here.auth.call(here.proxy, routes.FINISH_USER_TOKEN, finish)
        assert (done.session.user, done.session.factor) == ("bob", "passkey")
        assert (await here.record("bob")).password_hash == ""
        assert not await here.auth.events("user.password_change", wait_for=0, where=lambda one: one["user"] == "bob")
        assert (await log_in(here, await here.answer(key))).username == "bob"
        for typed in ("", PASSWORD):
            with pytest.raises(AccessDenied):
                await log_in(here, None, user="bob", password=typed, passwordless=False)
        bob = await here.auth.user("bob", ["access"])
        await here.auth.set_second_factor("optional")  # where the last device of others may go
        asked = await here.auth.call(bob, routes.FACTOR_CHALLENGE, m.Empty())
        remove = m.RemoveFactorRequest(name="passkey", factor=key.answer(asked))
        with pytest.raises(BadRequest, match="last passkey of an account without a password"):
            await here.auth.call(bob, routes.REMOVE_FACTOR, remove)
        change = m.ChangePasswordRequest(old="", new=PASSWORD)
        with pytest.raises(AccessDenied, match="the old password is wrong"):
            await here.auth.call(bob, routes.CHANGE_PASSWORD, change)


async def test_without_a_passkey_a_link_sets_a_password(tmp_path: Path) -> None:
    """A security key that was not asked to be a passkey is none, and a password beside a passkey has to be a good one;
    what is refused leaves the link as it was."""
    async with door(tmp_path) as here:
        link, new = await _link(here, passwordless=False)
        assert new.webauthn is not None
        proof = m.NewFactorProof(id=new.id, webauthn=passkey().create(new.webauthn))
        info = await here.auth.call(here.proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        for sent in ({"proof": proof}, {"otp_token": here.auth.code(info.totp_secret)}, {}):
            finish = m.FinishUserTokenRequest(token=link.token, password="", **sent)
            with pytest.raises(BadRequest, match="the password has 0 characters"):
                await here.auth.call(here.proxy, routes.FINISH_USER_TOKEN, finish)
        asked = m.UserTokenChallengeRequest(token=link.token, passwordless=True)
        new = await here.auth.call(here.proxy, routes.USER_TOKEN_CHALLENGE, asked)
        proof = m.NewFactorProof(id=new.id, webauthn=passkey().create(new.webauthn))
        weak = m.FinishUserTokenRequest(token=link.token, password="short", proof=proof)
        with pytest.raises(BadRequest, match="the password has 5 characters"):
            await here.auth.call(here.proxy, routes.FINISH_USER_TOKEN, weak)
        alone = m.FinishUserTokenRequest(token=link.token, password="", proof=proof)
        await here.auth.call(here.proxy, routes.FINISH_USER_TOKEN, alone)


async def _link(here: Door, *, passwordless: bool) -> tuple[m.UserToken, m.NewFactor]:
    admin = await here.auth.admin()
    link = await here.auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="bob", roles=["access"]))
    asked = m.UserTokenChallengeRequest(token=link.token, passwordless=passwordless)
    return link, await here.auth.call(here.proxy, routes.USER_TOKEN_CHALLENGE, asked)
