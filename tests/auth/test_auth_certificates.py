"""The inventory of live certificates, and the end of one before its time (threat T09)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.certificates.live import renewed_from
from teleport.auth.sessions.opened import OPEN, OpenSession
from teleport.backend.interface import Write
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.secret import Secret
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.x509verify import load_certificate
from teleport.store.issued import ISSUED, IssuedCert
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


async def _signed(auth: RunningAuth, name: str) -> tuple[Credentials, m.UserCerts]:
    await auth.user(name, ["access"])
    key = generate_p256()
    request = m.SignUserRequest(name=name, public_key=key.public.line(), ttl=3600)
    certs = await auth.call(await auth.admin(), routes.SIGN_USER, request)
    return auth.keep(key, certs.tls_cert), certs


async def _listed(auth: RunningAuth, **request: object) -> list[m.CertInfo]:
    page = await auth.call(
        await auth.admin(), routes.LIST_CERTS, msgspec.convert(request, type=m.ListCertsRequest, strict=True)
    )
    return list(page.items)


async def _revoke(auth: RunningAuth, serial: str) -> m.RevokedCerts:
    reply = await auth.call(await auth.admin(), routes.REVOKE_CERT, m.RevokeCertRequest(serial=serial, message="lost"))
    assert isinstance(reply, m.RevokedCerts)
    return reply


async def test_both_certificates_of_an_issue_have_one_serial_number_and_one_line_in_the_list(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        secret = await auth.person("ann")
        proxy = await auth.host(SystemRole.PROXY, name="gate")
        auth.clock.advance(60)
        key = generate_p256().public
        login = m.LoginRequest(
            user="ann", password="correct horse battery", otp_token=auth.code(secret), public_key=key.line(), ttl=600,
            client_addr="192.0.2.7",
        )  # fmt: skip
        certs = await auth.call(proxy, routes.LOGIN, login)
        ssh, tls = parse_certificate_line(certs.cert).body, load_certificate(certs.tls_cert.encode())
        assert str(ssh.serial) == str(tls.serial_number) == certs.serial
        (found,) = await _listed(auth, type="user", subject="ann")
        assert (found.serial, found.addr, found.factor, found.logins) == (
            certs.serial, "192.0.2.7", "password+otp", ["root"],
        )  # fmt: skip
        assert (found.expires - found.issued, found.by, found.stopped) == (timedelta(seconds=600), "", "")
        assert found.key_fingerprint == key.fingerprint()
        (host,) = await _listed(auth, type="host", subject=proxy.host_id)
        assert (host.system_roles, host.names, host.factor) == (["Proxy"], ["gate"], "auth host")
        assert proxy.cert is not None
        assert host.serial == str(load_certificate(proxy.cert.read_bytes()).serial_number)
        auth.clock.advance(601)
        assert await _listed(auth, type="user", subject="ann") == [], "what has ended is not listed"


async def test_a_join_is_in_the_inventory_as_well(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        made = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
        key = generate_p256().public
        host_id = "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40"
        join = m.JoinRequest(
            token=made.token, host_id=host_id, node_name="web1", role="Node", public_ssh_key=key.line(),
            public_tls_key=key.spki_pem().decode(),
        )  # fmt: skip
        held = await auth.call(await auth.admin(), routes.JOIN, join)
        (found,) = await _listed(auth, type="host", subject=host_id)
        assert (found.serial, found.factor, found.names) == (held.serial, "token", ["web1"])


async def test_the_last_use_is_written_now_and_then_and_not_for_each_call(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        who, certs = await _signed(auth, "ann")
        uses = auth.service.state.uses

        async def last_use() -> object:
            (found,) = [one for one in await _listed(auth, subject="ann") if one.serial == certs.serial]
            return found.last_use

        await uses.write()
        assert await last_use() is None
        for _ in range(20):
            await auth.call(who, routes.WHO_AM_I, m.Empty())
        assert await last_use() is None, "a call costs no write"
        first = auth.clock.now()
        await uses.write()
        assert await last_use() == first
        auth.clock.advance(300)
        await auth.call(who, routes.WHO_AM_I, m.Empty())
        await uses.write()
        assert await last_use() == first, "within ten minutes it is not written again"
        auth.clock.advance(301)
        await auth.call(who, routes.WHO_AM_I, m.Empty())
        await uses.write()
        assert await last_use() == auth.clock.now()
        uses.note_serial("user", "1", auth.clock.now())
        await uses.write()
        assert await auth.backend.get("cert-use/user/1") is None, "what is not in the inventory is not remembered"


async def test_a_revoked_certificate_and_what_it_was_renewed_to_are_refused_by_the_api(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        stolen, certs = await _signed(auth, "ann")
        other, _ = await _signed(auth, "ann")
        renewed = await auth.call(stolen, routes.RENEW_USER, m.Empty())
        again = await auth.call(stolen, routes.RENEW_USER, m.Empty())
        assert stolen.key is not None
        key = PrivateKey.load(Secret(stolen.key.read_bytes()))
        children = [auth.keep(key, one.tls_cert) for one in (renewed, again)]
        grandchild = await auth.call(children[0], routes.RENEW_USER, m.Empty())
        children.append(auth.keep(key, grandchild.tls_cert))
        done = await _revoke(auth, certs.serial)
        assert done.serials[0] == certs.serial
        assert set(done.serials) == {certs.serial, renewed.serial, again.serial, grandchild.serial}
        for who in (stolen, *children):
            for route in (routes.WHO_AM_I, routes.RENEW_USER):
                with pytest.raises(AccessDenied, match=r"Access is locked\.|no longer|locked"):
                    await auth.call(who, route, m.Empty())
        await auth.call(other, routes.WHO_AM_I, m.Empty())
        stopped = {one.serial: one.stopped for one in await _listed(auth, subject="ann")}
        assert {serial for serial, why in stopped.items() if why.endswith(": lost")} == set(done.serials)
        (event,) = await auth.events("cert.revoked")
        assert (event["code"], event["subject"], event["serial"], event["message"]) == (
            "T9120I", "ann", certs.serial, "lost",
        )  # fmt: skip
        assert sorted(event["serials"]) == sorted(done.serials)
        await auth.events("api.denied", wait_for=1, where=lambda one: f"on serial: {certs.serial}" in one["error"])
        for lock in done.locks:
            await auth.call(await auth.admin(), routes.REMOVE["lock"], m.ExpelRequest(name=lock))
        await auth.call(stolen, routes.WHO_AM_I, m.Empty())


async def test_a_renewal_that_races_with_the_end_leaves_nothing_alive(tmp_path: Path) -> None:
    """Whatever a renewal under way came to, it is among what ended, or it failed."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        for _ in range(4):
            who, certs = await _signed(auth, "ann")
            renewals = [auth.call(who, routes.RENEW_USER, m.Empty()) for _ in range(3)]
            ended, *got = await asyncio.gather(_revoke(auth, certs.serial), *renewals, return_exceptions=True)
            assert isinstance(ended, m.RevokedCerts), ended
            new = {one.serial for one in got if isinstance(one, m.UserCerts)}
            assert all(isinstance(one, m.UserCerts | TeleportError) for one in got), got
            assert new <= set(ended.serials)


async def test_a_revoked_host_certificate_is_refused_also_when_it_renews(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        key = generate_p256().public
        renewal = m.RenewHostRequest(
            node_name="host", public_ssh_key=key.line(), public_tls_key=key.spki_pem().decode()
        )
        renewed = await auth.call(node, routes.RENEW_HOST, renewal)
        (first,) = [one for one in await _listed(auth, type="host", subject=node.host_id) if not one.renewed_from]
        done = await _revoke(auth, first.serial)
        assert done.serials == [first.serial, renewed.serial]
        for route, request in ((routes.RENEW_HOST, renewal), (routes.LIST["role"], m.ListRequest())):
            with pytest.raises(AccessDenied, match="locked"):
                await auth.call(node, route, request)


async def test_a_certificate_that_nobody_knows_is_locked_all_the_same(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        done = await _revoke(auth, "12345678901234567890")
        assert (done.known, done.serials) == (False, ["12345678901234567890"])
        for nonsense in ("", "0x10", "-5", "05", "1" * 200):
            with pytest.raises(BadRequest):
                await _revoke(auth, nonsense)


async def test_the_revoked_key_of_an_administrator_does_not_lift_its_own_end(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        thief = await auth.host(SystemRole.ADMIN, host_id=auth.host_id, name="auth")
        assert thief.cert is not None
        done = await _revoke(auth, str(load_certificate(thief.cert.read_bytes()).serial_number))
        with pytest.raises(AccessDenied):
            await auth.call(thief, routes.REMOVE["lock"], m.ExpelRequest(name=done.locks[0]))


async def test_more_than_a_page_is_listed_in_pages(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        serials = {(await _signed(auth, "ann"))[1].serial for _ in range(4)}
        found, start = set[str](), ""
        for _ in range(10):
            page = await auth.call(await auth.admin(), routes.LIST_CERTS, m.ListCertsRequest(start_key=start, limit=3))
            found |= {one.serial for one in page.items}
            start = page.next_key
            if not start:
                break
        assert serials <= found


def test_a_record_of_an_older_release_is_read() -> None:
    """Fields are only appended."""
    kept = (
        b'{"type":"user","serial":"7","subject":"ann","issued":"2026-01-01T00:00:00Z","expires":"2026-01-01T12:00:00Z"}'
    )
    record = msgspec.json.decode(kept, type=IssuedCert)
    assert (record.key, record.roles) == (f"{ISSUED}user/7", [])


def test_what_came_of_a_certificate_is_found_over_any_number_of_renewals() -> None:
    assert renewed_from(["1"], []) == {"1"}


async def test_the_certificate_of_a_session_ends_with_the_one_that_it_came_of(tmp_path: Path) -> None:
    """It lives for a minute and is forgotten then; the session that it opened is not."""
    async with running_auth(tmp_path) as auth:
        _, certs = await _signed(auth, "ann")
        now = auth.clock.now()
        came = IssuedCert(
            type="user",
            serial="77",
            subject="ann",
            issued=now,
            expires=now,
            roles=["access"],
            renewed_from=certs.serial,
        )
        session = OpenSession(
            sid="s", host_id="h", hostname="web1", user="ann", login="root", started=now, interactive=True,
            cert_serial="77", cert=came,
        )  # fmt: skip
        await auth.backend.put(OPEN + "s", msgspec.json.encode(session))
        done = await _revoke(auth, certs.serial)
        assert done.serials == [certs.serial, "77"]
        locks = await auth.service.state.locks()
        (lock,) = [one for one in locks if one.spec.target.serial == "77"]
        assert lock.in_force(now + timedelta(minutes=30))
        assert await auth.backend.get(f"{ISSUED}user/77") is None, "what has ended does not come back to the list"


async def test_a_renewal_between_the_look_and_the_end_is_ended_too(tmp_path: Path) -> None:
    """It changes nothing of what was looked at, so that only a second look finds it."""
    async with running_auth(tmp_path) as auth:
        who, certs = await _signed(auth, "ann")
        looked, go_on = asyncio.Event(), asyncio.Event()
        commit = auth.backend.commit

        async def slow(writes: Sequence[Write], **more: Any) -> int:
            if not go_on.is_set() and any(write.key.startswith("locks/") for write in writes):
                looked.set()
                await go_on.wait()
            return await commit(writes, **more)

        auth.backend.commit = slow  # type: ignore[method-assign]
        ending = asyncio.create_task(_revoke(auth, certs.serial))
        async with asyncio.timeout(10):
            await looked.wait()
            renewed = await auth.call(who, routes.RENEW_USER, m.Empty())
            go_on.set()
            done = await ending
        assert done.serials == [certs.serial, renewed.serial]
        assert len(done.locks) == 2
        told = [one["serials"] for one in await auth.events("cert.revoked", wait_for=2)]
        assert sorted(told) == sorted([[certs.serial], [renewed.serial]])
