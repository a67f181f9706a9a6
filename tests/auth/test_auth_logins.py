"""Logging in, invitations and resets over the API: one answer to every failure, codes and links that work once."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound, TeleportError
from teleport.identity import SystemRole, UserIdentity
from teleport.pki.keys import generate_p256
from teleport.pki.x509verify import identity_from_tls
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth

NEW_PASSWORD = "another good one!"


async def login(
    auth: RunningAuth, proxy: Credentials, user: str, password: str, code: str, *, ttl: float = 0
) -> m.UserCerts:
    request = m.LoginRequest(
        user=user,
        password=password,
        otp_token=code,
        public_key=generate_p256().public.line(),
        ttl=ttl,
        client_addr="192.0.2.7",
    )
    reply = await auth.call(proxy, routes.LOGIN, request)
    assert isinstance(reply, m.UserCerts)
    return reply


async def refusal(auth: RunningAuth, proxy: Credentials, user: str, password: str, code: str) -> tuple[str, str, str]:
    with pytest.raises(TeleportError) as caught:
        await login(auth, proxy, user, password, code)
    return caught.value.code, caught.value.message, caught.value.hint


async def test_every_failed_login_reads_the_same_and_the_log_knows_why(tmp_path: Path) -> None:
    """Wrong password, unknown user, no password yet, wrong code, used code, lock: one text and status (T22)."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann")
        await auth.user("new", ["access"])
        locked = await auth.person("locked")
        used = auth.code(secret)  # finishing the invitation took it
        wrong = auth.code(secret, periods=500)
        answers = {
            "used code": await refusal(auth, proxy, "ann", PASSWORD, used),
            "wrong code": await refusal(auth, proxy, "ann", PASSWORD, wrong),
            "no code": await refusal(auth, proxy, "ann", PASSWORD, ""),
            "unknown user": await refusal(auth, proxy, "nobody", PASSWORD, used),
            "impossible name": await refusal(auth, proxy, "../users/ann", PASSWORD, used),
            "no password yet": await refusal(auth, proxy, "new", PASSWORD, used),
        }
        clock.advance(30)
        answers["wrong password"] = await refusal(auth, proxy, "ann", "not the password", auth.code(secret))
        for _ in range(5):
            await refusal(auth, proxy, "locked", "wrong password", auth.code(locked))
        answers["locked"] = await refusal(auth, proxy, "locked", PASSWORD, auth.code(locked))
        assert len(set(answers.values())) == 1, answers
        assert answers["locked"][0] == "access_denied"

        failed = await auth.events("user.login", wait_for=13)
        assert {event["code"] for event in failed} == {"T1000W"}
        reasons = " | ".join(sorted({event["error"] for event in failed}))
        for word in ("no such user", "no password yet", "wrong password", "wrong code", "locked"):
            assert word in reasons
        assert PASSWORD not in str(await auth.events())


async def test_a_login_gives_certificates_for_the_roles_of_the_user(tmp_path: Path) -> None:
    """What was proved is what the certificate says; the event names the person's address."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann", ["access", "auditor"], logins=["root", "ubuntu"])
        clock.advance(30)
        certs = await login(auth, proxy, "ann", PASSWORD, auth.code(secret), ttl=3600)
        der = ssl.PEM_cert_to_DER_cert(certs.tls_cert)
        identity = identity_from_tls(der, await auth.service.state.trusted_tls(), clock.now())
        assert isinstance(identity, UserIdentity)
        assert (identity.name, identity.roles) == ("ann", ("access", "auditor"))
        assert {"root", "ubuntu"} <= set(identity.logins)
        assert (identity.expires - clock.now()).total_seconds() == 3600
        assert [signer.domain_name for signer in certs.host_signers] == ["example.com"]
        (event,) = await auth.events("user.login")
        assert (event["user"], event["success"], event["code"], event["addr"]) == ("ann", True, "T1000I", "192.0.2.7")


async def test_five_failures_lock_for_twenty_minutes(tmp_path: Path) -> None:
    """The right password does not help while the lock lasts; afterwards it does, and a success forgets failures."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann")

        async def right() -> None:
            clock.advance(30)
            await login(auth, proxy, "ann", PASSWORD, auth.code(secret))

        for _ in range(4):
            await refusal(auth, proxy, "ann", "wrong password", "")
        await right()
        for _ in range(5):
            await refusal(auth, proxy, "ann", "wrong password", "")
        (locked,) = await auth.events("user.locked")
        assert (locked["code"], locked["attempts"]) == ("T9035W", 5)
        shown = await auth.call(await auth.admin(), routes.GET["user"], m.GetRequest(name="ann"))
        assert b'"is_locked":true' in bytes(shown.item)
        for _ in range(10):
            with pytest.raises(AccessDenied):
                await right()
        clock.advance(20 * 60 - 10 * 30 - 29)
        with pytest.raises(AccessDenied):
            await login(auth, proxy, "ann", PASSWORD, auth.code(secret))
        clock.advance(60)
        await right()


async def test_an_administrator_ends_a_lockout_and_the_password_stays(tmp_path: Path) -> None:
    """The failures are forgotten with it: the next four do not lock again."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        proxy, admin = await auth.host(SystemRole.PROXY), await auth.admin()
        secret = await auth.person("ann")
        unlock = m.UnlockUserRequest(name="ann")
        for _ in range(5):
            await refusal(auth, proxy, "ann", "wrong password", "")
        assert (await auth.call(admin, routes.UNLOCK_USER, unlock)).was_locked
        assert not (await auth.call(admin, routes.UNLOCK_USER, unlock)).was_locked
        for _ in range(4):
            await refusal(auth, proxy, "ann", "wrong password", "")
        clock.advance(30)
        await login(auth, proxy, "ann", PASSWORD, auth.code(secret))
        told = await auth.events("user.unlocked")
        assert sorted((one["name"], one["was_locked"]) for one in told) == [("ann", False), ("ann", True)]
        with pytest.raises(NotFound):
            await auth.call(admin, routes.UNLOCK_USER, m.UnlockUserRequest(name="nobody"))


async def test_a_code_is_good_for_one_of_two_parallel_logins(tmp_path: Path) -> None:
    """Accepting a code is a compare-and-swap (T36): exactly one wins, and afterwards nobody does."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock, sqlite=True) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann")
        for _ in range(3):
            clock.advance(30)
            code = auth.code(secret)
            outcomes = await asyncio.gather(
                *(login(auth, proxy, "ann", PASSWORD, code) for _ in range(2)), return_exceptions=True
            )
            assert sorted(isinstance(one, m.UserCerts) for one in outcomes) == [False, True], outcomes
            with pytest.raises(AccessDenied):
                await login(auth, proxy, "ann", PASSWORD, code)
            clock.advance(30)
            await login(auth, proxy, "ann", PASSWORD, auth.code(secret))


async def test_an_invitation_works_once_and_not_after_its_time(tmp_path: Path) -> None:
    """A link sets one password; used, expired and invented ones read the same."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        admin, proxy = await auth.admin(), await auth.host(SystemRole.PROXY)
        link = await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="ann", roles=["access"], ttl=600))
        info = await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        assert (info.user, info.kind, info.second_factor) == ("ann", "invite", "otp")
        assert info.totp_secret in info.totp_url

        def finish(token: str, password: str, code: str) -> m.FinishUserTokenRequest:
            return m.FinishUserTokenRequest(token=token, password=password, otp_token=code)

        with pytest.raises(BadRequest, match="12 or more"):
            await auth.call(proxy, routes.FINISH_USER_TOKEN, finish(link.token, "short", auth.code(info.totp_secret)))
        with pytest.raises(AccessDenied, match="code is wrong"):
            await auth.call(proxy, routes.FINISH_USER_TOKEN, finish(link.token, PASSWORD, "000000"))
        good = finish(link.token, PASSWORD, auth.code(info.totp_secret))
        outcomes = await asyncio.gather(
            *(auth.call(proxy, routes.FINISH_USER_TOKEN, good) for _ in range(2)), return_exceptions=True
        )
        assert sum(isinstance(one, m.FinishedUserToken) for one in outcomes) == 1, outcomes
        texts = set()
        for token in (link.token, "0" * 32):
            with pytest.raises(NotFound) as caught:
                await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=token))
            texts.add(caught.value.message)
        late = await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="late", roles=["access"], ttl=600))
        clock.advance(601)
        with pytest.raises(NotFound) as caught:
            await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=late.token))
        assert texts == {caught.value.message}
        told = str(await auth.events())
        assert link.token not in told
        assert late.token not in told
        assert info.totp_secret not in told
        assert PASSWORD not in told


async def test_a_link_with_ten_wrong_codes_is_withdrawn(tmp_path: Path) -> None:
    """Guessing the code of a stolen link ends with the link."""
    async with running_auth(tmp_path) as auth:
        proxy = await auth.host(SystemRole.PROXY)
        link = await auth.call(await auth.admin(), routes.ADD_USER, m.AddUserRequest(name="ann", roles=["access"]))
        request = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, otp_token="000000")
        for _ in range(10):
            with pytest.raises(AccessDenied):
                await auth.call(proxy, routes.FINISH_USER_TOKEN, request)
        with pytest.raises(NotFound):
            await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))


async def test_a_reset_ends_the_old_password_and_a_lock_at_once(tmp_path: Path) -> None:
    """From the reset on only the newest link leads back in."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        admin, proxy = await auth.admin(), await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann")
        for _ in range(5):
            await refusal(auth, proxy, "ann", "wrong password", "")
        first = await auth.call(admin, routes.RESET_USER, m.ResetUserRequest(name="ann"))
        clock.advance(1800)  # past the lock
        with pytest.raises(AccessDenied):
            await login(auth, proxy, "ann", PASSWORD, auth.code(secret))
        link = await auth.call(admin, routes.RESET_USER, m.ResetUserRequest(name="ann"))
        with pytest.raises(NotFound):
            await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=first.token))
        info = await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        assert info.kind == "reset"
        assert info.totp_secret != secret
        assert "/web/reset/" in link.url
        await auth.call(
            proxy,
            routes.FINISH_USER_TOKEN,
            m.FinishUserTokenRequest(token=link.token, password=NEW_PASSWORD, otp_token=auth.code(info.totp_secret)),
        )
        clock.advance(30)
        await login(auth, proxy, "ann", NEW_PASSWORD, auth.code(info.totp_secret))
        with pytest.raises(AccessDenied):
            await login(auth, proxy, "ann", PASSWORD, auth.code(secret))
