"""Certificates marked with a second factor, and leases: what they say, who gets them, what a wrong code does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.auth.test_auth_api import document, server

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors.lockout import MAX_FAILURES
from teleport.auth.factors.session import ASKED, ASKED_BURST
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.identity import MFA_API, SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import load_certificate
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import lease_name
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.resources.values import Duration
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

ADDRESS = "192.0.2.7"


@dataclass
class Careful:
    """Somebody whose role asks for a second factor and gives leases; logged in."""

    auth: RunningAuth
    name: str
    who: Credentials
    key: PrivateKey
    line: str
    secret: str = field(repr=False)

    def code(self) -> str:
        """A code that was not used yet; time goes on."""
        clock = self.auth.clock
        assert isinstance(clock, FakeClock)
        clock.advance(30)
        return self.auth.code(self.secret)


def otp(code: str) -> m.FactorResponse:
    return m.FactorResponse(totp_code=code)


def careful_role(name: str = "careful", **options: object) -> Role:
    given = {"require_session_mfa": True, "mfa_lease_ttl": Duration.of(minutes=20), **options}
    return Role(
        metadata=Metadata(name=name),
        spec=RoleSpec(
            options=Options(**given),  # type: ignore[arg-type]
            allow=Conditions(logins=("root", "web"), node_labels={"*": ("*",)}),
        ),
    )


async def careful(auth: RunningAuth, name: str, role: Role | None = None) -> Careful:
    role = role or careful_role()
    store = m.StoreRequest(item=document(role), force=True)
    await auth.call(await auth.admin(), routes.STORE["role"], store)
    secret = await auth.person(name, roles=[role.name])
    clock = auth.clock
    assert isinstance(clock, FakeClock)
    clock.advance(30)
    key = generate_p256()
    certs = await auth.call(
        await auth.host(SystemRole.PROXY),
        routes.LOGIN,
        m.LoginRequest(
            user=name, password=PASSWORD, otp_token=auth.code(secret), public_key=key.public.line(), ttl=3600,
            client_addr=ADDRESS,
        ),
    )  # fmt: skip
    return Careful(auth, name, auth.keep(key, certs.tls_cert), key, certs.cert, secret)


async def registered(auth: RunningAuth, hostname: str = "web-1") -> str:
    node = await auth.host(SystemRole.NODE, name=hostname)
    await auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=document(server("node", node.host_id, hostname))))
    return node.host_id


async def test_a_certificate_for_one_session_says_less_than_the_login_and_lives_a_minute(tmp_path: Path) -> None:
    """T06: same key, user and roles; one login, one target, the end of the login kept; never a second longer."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await careful(auth, "lea")
        node = await registered(auth)
        request = m.SessionCertRequest(host="web-1", login="root", factor=otp(lea.code()))
        certs = await auth.call(lea.who, routes.SESSION_CERT, request)
        login, given = parse_certificate_line(lea.line).body, parse_certificate_line(certs.cert).body
        assert given.public_key == login.public_key
        assert (given.key_id, given.principals) == ("lea", ("root",))
        assert login.principals == ("root", "web")
        assert certs.expires == auth.clock.now() + timedelta(minutes=1)
        marks = {name: bytes(value)[4:].decode() for name, value in given.extensions.items()}
        assert marks["teleport-mfa-target"] == node
        assert marks["mfa-verified"]
        assert marks["client-ip"] == "127.0.0.1"
        assert int(marks["teleport-login-expires"]) == login.valid_before
        assert int(marks["teleport-login-serial"]) == login.serial
        before, after = (decode_user(load_certificate(pem).subject) for pem in (_pem(lea.who), certs.tls_cert.encode()))
        assert (after.roles, after.traits, after.route_to_cluster) == (
            before.roles, before.traits, before.route_to_cluster,
        )  # fmt: skip
        assert (after.mfa_target, after.logins) == (node, ("root",))
        assert after.login_serial == str(login.serial)
        (told,) = await auth.events("session.mfa")
        assert (told["code"], told["purpose"], told["server_id"], told["login"]) == ("T9140I", "session", node, "root")
        assert told["mfa_device"]["mfa_device_uuid"] == marks["mfa-verified"]


def _pem(who: Credentials) -> bytes:
    assert who.cert is not None
    return who.cert.read_bytes()


async def test_a_certificate_for_one_session_begets_nothing(tmp_path: Path) -> None:
    """T06: neither renewed nor shown for another session."""
    clock = FakeClock(datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=75))
    async with running_auth(tmp_path, clock=clock) as auth:
        lea = await careful(auth, "lea")
        await registered(auth)
        request = m.SessionCertRequest(host="web-1", login="root", factor=otp(lea.code()))
        certs = await auth.call(lea.who, routes.SESSION_CERT, request)
        marked = auth.keep(lea.key, certs.tls_cert)
        for route, asked in (
            (routes.RENEW_USER, m.Empty()),
            (
                routes.SESSION_CERT,
                m.SessionCertRequest(host="web-1", login="root", factor=otp("000000")),
            ),
        ):
            with pytest.raises(AccessDenied, match="for one session is not renewed"):
                await auth.call(marked, route, asked)


async def test_nobody_who_would_be_refused_anyway_is_asked(tmp_path: Path) -> None:
    """No code is looked at, so none is used up and no failure is counted."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await careful(auth, "lea")
        await registered(auth)
        code = lea.code()
        for host, login, error in (
            ("web-1", "admin", AccessDenied),
            ("web-9", "root", NotFound),
        ):
            request = m.SessionCertRequest(host=host, login=login, factor=otp(code))
            with pytest.raises(error):
                await auth.call(lea.who, routes.SESSION_CERT, request)
        assert await auth.events("session.mfa", wait_for=0) == []
        await auth.call(
            lea.who,
            routes.SESSION_CERT,
            m.SessionCertRequest(host="web-1", login="root", factor=otp(code)),
        )


async def test_who_asks_without_end_is_told_to_wait_and_nobody_else_is(tmp_path: Path) -> None:
    """Each question looks at every host: one login does not keep auth from its work."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea, max_ = await careful(auth, "lea"), await careful(auth, "max")
        await registered(auth)
        request = m.SessionChallengeRequest(host="web-1", login="root")
        for _ in range(int(ASKED_BURST)):
            await auth.call(lea.who, routes.SESSION_CHALLENGE, request)
        with pytest.raises(LimitExceeded, match="too often"):
            await auth.call(lea.who, routes.SESSION_CHALLENGE, request)
        certs = m.SessionCertRequest(host="web-1", login="root", factor=otp("000000"))
        with pytest.raises(LimitExceeded):
            await auth.call(lea.who, routes.SESSION_CERT, certs)
        await auth.call(max_.who, routes.SESSION_CHALLENGE, request)
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(1 / ASKED)
        await auth.call(lea.who, routes.SESSION_CHALLENGE, request)


@pytest.mark.parametrize("purpose", ["session", "api", "lease"])
async def test_wrong_codes_count_as_failed_logins_and_a_code_is_good_once(tmp_path: Path, purpose: str) -> None:
    """T22, T36: five wrong ones lock the user as at a login, and then the right one is refused with the same words."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await careful(auth, "lea")
        await registered(auth)
        proxy = await auth.host(SystemRole.PROXY)

        async def prove(code: str) -> None:
            if purpose == "lease":
                request = m.LeaseRequest(certificate=lea.line, client_addr=ADDRESS, factor=otp(code))
                await auth.call(proxy, routes.MFA_LEASE, request)
            else:
                host = "web-1" if purpose == "session" else ""
                asked = m.SessionCertRequest(host=host, login="root" if host else "", factor=otp(code))
                await auth.call(lea.who, routes.SESSION_CERT, asked)

        code = lea.code()
        await prove(code)
        said = set()
        for attempt in [code, *["000000"] * (MAX_FAILURES - 1)]:
            with pytest.raises(AccessDenied) as refused:
                await prove(attempt)
            said.add(str(refused.value))
        with pytest.raises(AccessDenied) as refused:
            await prove(lea.code())
        assert {*said, str(refused.value)} == {"the second factor is wrong, was used before, or came too late"}
        told = await auth.events("session.mfa", wait_for=MAX_FAILURES + 2)
        assert sorted(event["code"] for event in told) == ["T9140I", *["T9140W"] * (MAX_FAILURES + 1)]
        assert {event["purpose"] for event in told} == {purpose}
        assert len(await auth.events("user.locked")) == 1
        login = m.LoginRequest(
            user="lea", password=PASSWORD, otp_token=lea.code(), public_key=lea.key.public.line(), ttl=60,
            client_addr=ADDRESS,
        )  # fmt: skip
        with pytest.raises(AccessDenied):
            await auth.call(proxy, routes.LOGIN, login)


async def test_a_lease_is_for_one_key_and_one_address_and_ends_with_the_certificate(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        long = careful_role(mfa_lease_ttl=Duration.of(hours=20))
        lea, max_ = (
            await careful(auth, "lea"),
            await careful(auth, "max", msgspec.structs.replace(long, metadata=Metadata(name="long"))),
        )
        proxy = await auth.host(SystemRole.PROXY)
        request = m.LeaseRequest(certificate=lea.line, client_addr=ADDRESS, factor=otp(lea.code()))
        lease = await auth.call(proxy, routes.MFA_LEASE, request)
        assert lease.expires == auth.clock.now() + timedelta(minutes=20)
        assert lease.name == lease_name("lea", lea.key.public.fingerprint(), ADDRESS)
        ends = await auth.call(
            proxy, routes.MFA_LEASE,
            m.LeaseRequest(certificate=max_.line, client_addr="2001:db8::1", factor=otp(max_.code())),
        )  # fmt: skip
        assert ends.expires.timestamp() == parse_certificate_line(max_.line).body.valid_before
        listed = await auth.call(await auth.admin(), routes.LIST["mfa_lease"], m.ListRequest())
        found = [msgspec.json.decode(item)["spec"] for item in listed.items]
        assert {(one["user"], one["key"], one["client_address"]) for one in found} == {
            ("lea", lea.key.public.fingerprint(), ADDRESS),
            ("max", max_.key.public.fingerprint(), "2001:db8::1"),
        }


async def test_only_a_proxy_makes_leases_and_only_of_certificates_that_count(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await careful(auth, "lea")
        plain = await careful(auth, "pia", careful_role("plain", mfa_lease_ttl=Duration(0)))
        proxy = await auth.host(SystemRole.PROXY)
        good = m.LeaseRequest(certificate=lea.line, client_addr=ADDRESS, factor=otp(lea.code()))
        for who in (lea.who, await auth.host(SystemRole.NODE), await auth.admin()):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.MFA_LEASE, good)
        with pytest.raises(AccessDenied, match="no role of yours gives a lease"):
            await auth.call(
                proxy, routes.MFA_LEASE,
                m.LeaseRequest(certificate=plain.line, client_addr=ADDRESS, factor=otp(plain.code())),
            )  # fmt: skip
        for changed, error in (
            ({"certificate": "x"}, BadRequest),
            ({"certificate": lea.line[:-8] + "AAAAAAA="}, TeleportError),
            ({"client_addr": "web-1"}, BadRequest),
        ):
            with pytest.raises(error):
                await auth.call(proxy, routes.MFA_LEASE, msgspec.structs.replace(good, **changed))
        assert (await auth.call(await auth.admin(), routes.LIST["mfa_lease"], m.ListRequest())).items == []


async def test_a_removed_user_and_a_reset_password_leave_no_lease(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        admin, proxy = await auth.admin(), await auth.host(SystemRole.PROXY)
        for way in ("remove", "reset"):
            lea = await careful(auth, f"lea-{way}")
            request = m.LeaseRequest(certificate=lea.line, client_addr=ADDRESS, factor=otp(lea.code()))
            await auth.call(proxy, routes.MFA_LEASE, request)
            if way == "remove":
                await auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name=lea.name))
            else:
                await auth.call(admin, routes.RESET_USER, m.ResetUserRequest(name=lea.name))
            assert (await auth.call(admin, routes.LIST["mfa_lease"], m.ListRequest())).items == []


async def test_the_mark_for_calls_gives_no_login(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await careful(auth, "lea")
        certs = await auth.call(lea.who, routes.SESSION_CERT, m.SessionCertRequest(factor=otp(lea.code())))
        subject = decode_user(load_certificate(certs.tls_cert.encode()).subject)
        assert subject.mfa_target == MFA_API
        assert certs.logins == []
        assert all(name.startswith("-teleport-nologin-") for name in parse_certificate_line(certs.cert).body.principals)
