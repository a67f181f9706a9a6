"""Hardware keys for one session: marked certificates, and the link at which a browser approves a lease."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.auth.test_auth_factors import Ann
from tests.auth.test_auth_session_mfa import ADDRESS, Careful, careful, otp, registered

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import SystemRole
from teleport.testing.auth import Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator


async def _lea(auth: RunningAuth) -> tuple[Careful, Credentials, Authenticator]:
    """Somebody with an app and a key; and the proxy."""
    await auth.set_second_factor("on")
    lea = await careful(auth, "lea")
    proxy = await auth.host(SystemRole.PROXY)
    return lea, proxy, await Ann(auth, proxy, lea.who, lea.secret).add_key()


async def _link(auth: RunningAuth, lea: Careful, proxy: Credentials) -> str:
    """The secret of a fresh link."""
    asked = m.LeaseChallengeRequest(certificate=lea.line, client_addr=ADDRESS)
    found = await auth.call(proxy, routes.LEASE_CHALLENGE, asked)
    assert found.totp
    return str(urlsplit(found.link).path.removeprefix("/web/lease/"))


async def _leases(auth: RunningAuth) -> list[Any]:
    listed = await auth.call(await auth.admin(), routes.LIST["mfa_lease"], m.ListRequest())
    return [msgspec.json.decode(item)["spec"] for item in listed.items]


async def test_a_link_shows_who_asks_from_where_and_approves_once(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, proxy, key = await _lea(auth)
        token = await _link(auth, lea, proxy)
        shown = await auth.call(proxy, routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=token))
        assert (shown.user, shown.client_addr) == ("lea", ADDRESS)
        assert shown.key_fingerprint == lea.key.public.fingerprint()
        answer = m.ApproveLeaseRequest(token=token, factor=key.answer(shown.challenge))
        lease = await auth.call(proxy, routes.APPROVE_LEASE, answer)
        (found,) = await _leases(auth)
        assert (found["user"], found["client_address"], found["key"]) == ("lea", ADDRESS, shown.key_fingerprint)
        assert lease.expires == shown.until
        for route, request in (
            (routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=token)),
            (routes.APPROVE_LEASE, answer),
        ):
            with pytest.raises(NotFound, match="this link was used"):
                await auth.call(proxy, route, request)
        (told,) = await auth.events("mfa_lease.created")
        assert told["mfa_device"]["mfa_device_type"] == "webauthn"


async def test_a_link_is_for_its_own_question_and_its_own_time(tmp_path: Path) -> None:
    """Neither a code nor what a key signed for something else approves it, and nobody but a proxy asks."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, proxy, key = await _lea(auth)
        await registered(auth, "web-1")
        token = await _link(auth, lea, proxy)
        with pytest.raises(BadRequest, match="approved with a hardware key"):
            await auth.call(proxy, routes.APPROVE_LEASE, m.ApproveLeaseRequest(token=token, factor=otp(lea.code())))
        session = await auth.call(
            lea.who, routes.SESSION_CHALLENGE, m.SessionChallengeRequest(host="web-1", login="root")
        )
        with pytest.raises(BadRequest, match="approved with a hardware key"):
            await auth.call(proxy, routes.APPROVE_LEASE, m.ApproveLeaseRequest(token=token, factor=key.answer(session)))
        shown = await auth.call(proxy, routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=token))
        good = m.ApproveLeaseRequest(token=token, factor=key.answer(shown.challenge))
        for who in (lea.who, await auth.host(SystemRole.NODE), await auth.admin()):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.APPROVE_LEASE, good)
        auth.clock.advance(301)  # type: ignore[attr-defined]
        with pytest.raises(NotFound, match="this link was used, has expired"):
            await auth.call(proxy, routes.APPROVE_LEASE, good)
        assert await _leases(auth) == []


async def test_a_link_approves_nothing_for_somebody_who_is_gone(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, proxy, key = await _lea(auth)
        token = await _link(auth, lea, proxy)
        shown = await auth.call(proxy, routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=token))
        await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="lea"))
        with pytest.raises(AccessDenied):
            await auth.call(
                proxy, routes.APPROVE_LEASE, m.ApproveLeaseRequest(token=token, factor=key.answer(shown.challenge))
            )
        assert await _leases(auth) == []


async def test_what_a_key_signed_for_one_session_is_good_for_that_session_only(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, _, key = await _lea(auth)
        await registered(auth, "web-1")
        await registered(auth, "web-2")
        for host, login in (("web-2", "root"), ("web-1", "web"), ("", "")):
            asked = m.SessionChallengeRequest(host="web-1", login="root")
            signed = key.answer(await auth.call(lea.who, routes.SESSION_CHALLENGE, asked))
            with pytest.raises(AccessDenied, match="the second factor is wrong"):
                await auth.call(
                    lea.who, routes.SESSION_CERT, m.SessionCertRequest(host=host, login=login, factor=signed)
                )
        asked = m.SessionChallengeRequest(host="web-1", login="root")
        signed = key.answer(await auth.call(lea.who, routes.SESSION_CHALLENGE, asked))
        request = m.SessionCertRequest(host="web-1", login="root", factor=signed)
        assert (await auth.call(lea.who, routes.SESSION_CERT, request)).logins == ["root"]
        with pytest.raises(AccessDenied):
            await auth.call(lea.who, routes.SESSION_CERT, request)


async def test_a_device_that_is_removed_takes_its_leases_with_it(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, proxy, key = await _lea(auth)
        token = await _link(auth, lea, proxy)
        shown = await auth.call(proxy, routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=token))
        await auth.call(
            proxy, routes.APPROVE_LEASE, m.ApproveLeaseRequest(token=token, factor=key.answer(shown.challenge))
        )
        coded = m.LeaseRequest(certificate=lea.line, client_addr="192.0.2.8", factor=otp(lea.code()))
        await auth.call(proxy, routes.MFA_LEASE, coded)
        remove = m.RemoveFactorRequest(name="yubikey", factor=otp(lea.code()))
        await auth.call(lea.who, routes.REMOVE_FACTOR, remove)
        assert [one["client_address"] for one in await _leases(auth)] == ["192.0.2.8"]
