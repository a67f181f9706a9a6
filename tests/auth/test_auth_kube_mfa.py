"""Certificates for calls to one Kubernetes cluster, given for a second factor: what they say, who gets them, and when
the ones of a whole login are not given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.auth.test_auth_api import document
from tests.auth.test_auth_kube_certificates import at_kubernetes
from tests.auth.test_auth_kube_pages import leading, store
from tests.auth.test_auth_session_mfa import Careful, careful, otp, registered
from tests.auth.test_auth_session_trackers import tell, told

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.identity import SystemRole
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.joining import JoinMode, JoinPolicy
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.store.records import PROXIES
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

DEV: Mapping[str, tuple[str, ...]] = {"env": ("dev",)}


def kube_role(name: str = "careful", *, mfa: bool = True, pin: bool = False, **allow: object) -> Role:
    given: dict[str, object] = {"kubernetes_labels": DEV, "kubernetes_groups": ("developers",), **allow}
    return Role(
        metadata=Metadata(name=name),
        spec=RoleSpec(
            options=Options(require_session_mfa=mfa, pin_source_ip=pin),
            allow=Conditions(**given),  # type: ignore[arg-type]
        ),
    )


async def here(auth: RunningAuth, name: str = "lea", role: Role | None = None) -> Careful:
    """Somebody whose role asks for a second factor; clusters `dev` and `prod` are led to by services, `own` by a
    proxy."""
    await store(auth, leading(1, {"dev": {"env": "dev"}, "prod": {"env": "prod"}}))
    await store(auth, leading(2, {"own": {"env": "dev"}}, kind="proxy"), prefix=PROXIES)
    return await careful(auth, name, role or kube_role(logins=("root",), node_labels={"*": ("*",)}))


async def proved(lea: Careful, cluster: str = "dev", **more: object) -> m.UserCerts:
    request = m.SessionCertRequest(kube_cluster=cluster, factor=otp(lea.code()), **more)  # type: ignore[arg-type]
    made: m.UserCerts = await lea.auth.call(lea.who, routes.SESSION_CERT, request)
    return made


async def test_it_says_what_the_login_says_and_is_good_for_one_cluster_and_a_minute(tmp_path: Path) -> None:
    """T06: same key, user, roles and traits; no login, no SSH certificate; the login's end and number are in it."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        for cluster in ("dev", "own"):
            certs = await proved(lea, cluster)
            shown = load_certificate(certs.tls_cert.encode())
            assert lea.who.cert is not None
            login = load_certificate(lea.who.cert.read_bytes())
            before, after = decode_user(login.subject), decode_user(shown.subject)
            assert (certs.cert, certs.logins) == ("", [])
            assert certificate_key(shown) == lea.key.public
            assert (after.name, after.roles, after.traits) == (before.name, before.roles, before.traits)
            assert (after.usage, after.kube_cluster, after.logins) == (("usage:kube",), cluster, ())
            assert (after.mfa_target, after.route_to_cluster) == (f"kube:{cluster}", auth.cluster)
            assert after.source_ip == before.source_ip
            assert (after.login_serial, int(after.login_expires)) == (
                str(login.serial_number), int(login.not_valid_after_utc.timestamp()),
            )  # fmt: skip
            assert certs.expires == auth.clock.now() + timedelta(minutes=1)
            assert shown.not_valid_after_utc == certs.expires
            found = await at_kubernetes(auth, certs.tls_cert)
            all_told = await auth.events("session.mfa", wait_for=1 + ("dev", "own").index(cluster))
            (told,) = [one for one in all_told if one["kubernetes_cluster"] == cluster]
            assert (told["purpose"], told["server_id"]) == ("session", "")
            assert told["mfa_device"]["mfa_device_uuid"] == found.mfa_device == after.mfa_device != ""
        created = await auth.events("cert.create", wait_for=2, where=lambda one: bool(one["mfa_target"]))
        assert {one["mfa_target"] for one in created} == {"kube:dev", "kube:own"}
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(30)
        joining = m.SessionCertRequest(kube_cluster="dev", joins=True, factor=otp(lea.code()))
        await auth.call(lea.who, routes.SESSION_CERT, joining)
        purposes = [one["purpose"] for one in await auth.events("session.mfa", wait_for=3)]
        assert sorted(purposes) == ["join", "session", "session"]


async def test_it_begets_nothing(tmp_path: Path) -> None:
    """T06: the auth API refuses it whatever is asked: no longer certificate, no other cluster, no list."""
    async with running_auth(tmp_path, clock=_a_minute_ago()) as auth:
        lea = await here(auth)
        marked = auth.keep(lea.key, (await proved(lea)).tls_cert)
        for route, request in (
            (routes.RENEW_USER, m.RenewUserRequest()),
            (routes.RENEW_USER, m.RenewUserRequest(kube_cluster="dev")),
            (routes.SESSION_CHALLENGE, m.SessionChallengeRequest(kube_cluster="own")),
            (routes.SESSION_CERT, m.SessionCertRequest(kube_cluster="dev", factor=otp("000000"))),
            (routes.FIND_KUBE_CLUSTERS, m.FindKubeClustersRequest()),
            (routes.WHO_AM_I, m.Empty()),
        ):
            with pytest.raises(AccessDenied, match="limited to another use"):
                await auth.call(marked, route, request)


def _a_minute_ago() -> FakeClock:
    """Of which the present is near enough for the TLS of the certificate, which goes by the true time."""
    return FakeClock(datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=75))


async def test_one_for_joining_is_for_ssh_alone(tmp_path: Path) -> None:
    """It holds no login of a host, and is marked for the same cluster; the certificate for calls is not with it."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        certs = await proved(lea, joins=True)
        assert (certs.tls_cert, certs.logins) == ("", [])
        body = parse_certificate_line(certs.cert).body
        marks = {name: bytes(value)[4:].decode() for name, value in body.extensions.items()}
        assert marks["teleport-mfa-target"] == "kube:dev"
        assert body.public_key == lea.key.public
        assert all(name.startswith("-teleport-nologin-") for name in body.principals)
        assert body.valid_before == int((auth.clock.now() + timedelta(minutes=1)).timestamp())


async def test_nobody_who_would_be_refused_anyway_is_asked(tmp_path: Path) -> None:
    """The same sentence for a cluster of other labels and for none; no code is looked at, none is used up, and no
    failure is counted."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        code = lea.code()
        said = set()
        for name in ("prod", "none"):
            for route, request in (
                (routes.SESSION_CHALLENGE, m.SessionChallengeRequest(kube_cluster=name)),
                (routes.SESSION_CERT, m.SessionCertRequest(kube_cluster=name, factor=otp(code))),
            ):
                with pytest.raises(AccessDenied) as refused:
                    await auth.call(lea.who, route, request)
                said.add(str(refused.value).replace(f"'{name}'", "NAME"))
        assert said == {"Your roles allow no Kubernetes cluster with the name NAME."}
        assert await auth.events("session.mfa", wait_for=0) == []
        request = m.SessionCertRequest(kube_cluster="dev", factor=otp(code))
        await auth.call(lea.who, routes.SESSION_CERT, request)
        hosts = await auth.host(SystemRole.PROXY)
        with pytest.raises(AccessDenied):
            await auth.call(hosts, routes.SESSION_CHALLENGE, m.SessionChallengeRequest(kube_cluster="dev"))


async def test_it_is_clear_what_a_factor_is_for(tmp_path: Path) -> None:
    """A host and a Kubernetes cluster at once is neither, and what no certificate should carry is no name."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        await registered(auth)
        for said in (
            {"host": "web-1", "login": "root", "kube_cluster": "dev"},
            {"login": "root", "kube_cluster": "dev"},
            {"joins": True},
            {"host": "web-1", "login": "root", "joins": True},
            {"kube_cluster": "a\nb"},
            {"kube_cluster": "x" * 254},
        ):
            with pytest.raises(BadRequest):
                await auth.call(lea.who, routes.SESSION_CHALLENGE, m.SessionChallengeRequest(**said))


async def test_a_code_is_good_once_whatever_it_was_for(tmp_path: Path) -> None:
    """T36: for one cluster, and then for neither it, another one, a host nor the API."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        await registered(auth)
        factor = otp(lea.code())
        await auth.call(lea.who, routes.SESSION_CERT, m.SessionCertRequest(kube_cluster="dev", factor=factor))
        for again in (
            m.SessionCertRequest(kube_cluster="dev", factor=factor),
            m.SessionCertRequest(kube_cluster="own", factor=factor),
            m.SessionCertRequest(host="web-1", login="root", factor=factor),
            m.SessionCertRequest(factor=factor),
        ):
            with pytest.raises(AccessDenied, match="wrong, was used before"):
                await auth.call(lea.who, routes.SESSION_CERT, again)


async def test_a_device_that_was_removed_or_locked_proves_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        challenge = await auth.call(lea.who, routes.SESSION_CHALLENGE, m.SessionChallengeRequest(kube_cluster="dev"))
        (device,) = (await auth.call(lea.who, routes.OWN_FACTORS, m.Empty())).devices
        await auth.call(await auth.admin(), routes.STORE["lock"], _lock(device.id))
        locked = m.FactorResponse(challenge_id=challenge.id, totp_code=lea.code())
        with pytest.raises(AccessDenied, match="wrong, was used before"):
            await auth.call(lea.who, routes.SESSION_CERT, m.SessionCertRequest(kube_cluster="dev", factor=locked))
        await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="lea"))
        with pytest.raises(AccessDenied):
            await proved(lea)


async def test_no_certificate_of_the_whole_login_is_given_where_a_factor_is_due(tmp_path: Path) -> None:
    """Neither where a role asks for one, nor where the cluster does; for others everything is as before, and what else
    forbids calls the proxy says."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth)
        for name in ("dev", "own"):
            with pytest.raises(AccessDenied, match="This session needs a second factor"):
                await auth.call(lea.who, routes.RENEW_USER, m.RenewUserRequest(kube_cluster=name))
        for name in ("prod", "none"):
            made = await auth.call(lea.who, routes.RENEW_USER, m.RenewUserRequest(kube_cluster=name))
            assert (await at_kubernetes(auth, made.tls_cert)).mfa_target == ""
        asked = m.RenewUserRequest(kube_cluster="dev", route_to_cluster="leaf.example.com")
        with pytest.raises(NotFound):
            await auth.call(lea.who, routes.RENEW_USER, asked)
        pia = await careful(auth, "pia", kube_role("plain", mfa=False))
        made = await auth.call(pia.who, routes.RENEW_USER, m.RenewUserRequest(kube_cluster="dev"))
        assert (await at_kubernetes(auth, made.tls_cert)).kube_cluster == "dev"


async def test_several_kubernetes_users_do_not_hide_that_a_factor_is_due(tmp_path: Path) -> None:
    """Which of them is meant, each call says; the certificate is asked for before."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth, role=kube_role(kubernetes_users=("robot", "clerk")))
        with pytest.raises(AccessDenied, match="This session needs a second factor"):
            await auth.call(lea.who, routes.RENEW_USER, m.RenewUserRequest(kube_cluster="dev"))
        assert (await at_kubernetes(auth, (await proved(lea)).tls_cert)).mfa_target == "kube:dev"


async def test_who_may_join_in_a_pod_is_told_whether_a_factor_is_due(tmp_path: Path) -> None:
    """By the roles that allow the call by which the session was begun; who may not join is told nothing of it."""
    joins = (JoinPolicy(roles=("access",), kinds=("k8s",), modes=(JoinMode.PEER,)),)
    place = m.PodPlace(
        kube_cluster="dev", labels={"env": "dev"}, namespace="dev", pod="web", verb="create", subresource="exec"
    )
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        lea = await here(auth, role=kube_role(join_sessions=joins))
        pia = await careful(auth, "pia", kube_role("plain", mfa=False, join_sessions=joins))
        eve = await careful(auth, "eve", kube_role("no-joins"))
        await tell(auth, await auth.host(SystemRole.PROXY), told(place=place))
        for who, expected in ((lea, [(["peer"], True)]), (pia, [(["peer"], False)]), (eve, [])):
            found = await auth.call(who.who, routes.RUNNING_SESSIONS, m.Empty())
            assert [(one.modes, one.needs_factor) for one in found.sessions] == expected, who.name


def _lock(device: str) -> m.StoreRequest:
    from teleport.resources.lock import Lock, LockSpec, LockTarget

    return m.StoreRequest(
        item=document(Lock(metadata=Metadata(name="lost"), spec=LockSpec(target=LockTarget(mfa_device=device))))
    )
