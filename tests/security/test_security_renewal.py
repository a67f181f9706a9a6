"""Renewing a user's certificate gives nothing that it did not have (threat T06): its life never grows, its
restrictions never drop, and whoever may not act any more renews nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import direct
from teleport.auth.authorities.certify import UserGrant
from teleport.errors import AccessDenied, CompareFailed, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.x509cert import auth_server_name
from teleport.pki.x509subject import UserSubject, decode_user
from teleport.pki.x509verify import certificate_key, load_certificate
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.resources.values import Duration
from teleport.store import records
from teleport.testing.auth import ANONYMOUS, CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.transport.blocking import HTTPOver


async def _granted(
    auth: RunningAuth, grant: UserGrant, key: PrivateKey | None = None
) -> tuple[Credentials, m.UserCerts, PrivateKey]:
    """A caller with the certificates of a grant, as if a login had given them."""
    key = key or generate_p256()
    certs = (await auth.service.state.certifier()).user_certs(grant, key.public.line(""), auth.clock.now())
    return auth.keep(key, certs.tls_cert), certs, key


async def _ann(auth: RunningAuth, roles: Sequence[str] = ("access",)) -> UserGrant:
    await auth.user("ann", roles, traits={"logins": ["root"]})
    return UserGrant(
        user="ann",
        roles=tuple(roles),
        logins=("root",),
        traits={"logins": ("root",)},
        ttl=timedelta(hours=2),
        route_to_cluster=CLUSTER,
        port_forwarding=True,
        agent_forwarding=True,
    )


async def _renew(auth: RunningAuth, who: Credentials) -> m.UserCerts:
    reply = await auth.call(who, routes.RENEW_USER, m.Empty())
    assert isinstance(reply, m.UserCerts)
    return reply


def _subject(certs: m.UserCerts) -> UserSubject:
    return decode_user(load_certificate(certs.tls_cert.encode()).subject)


async def test_a_renewed_certificate_is_for_the_same_key_and_ends_at_the_same_second(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        who, old, key = await _granted(auth, await _ann(auth))
        for _ in range(3):
            auth.clock.advance(60.7)
            new = await _renew(auth, who)
            assert new.expires == old.expires
            tls, tls_before = (load_certificate(certs.tls_cert.encode()) for certs in (new, old))
            assert tls.not_valid_after_utc == tls_before.not_valid_after_utc
            assert certificate_key(tls) == key.public
            ssh, ssh_before = parse_certificate_line(new.cert).body, parse_certificate_line(old.cert).body
            assert (ssh.valid_before, ssh.public_key) == (ssh_before.valid_before, key.public)
            assert ssh.serial != ssh_before.serial
            who = auth.keep(key, new.tls_cert)
        created = await auth.events("cert.create", wait_for=2, where=lambda event: event.get("subject") == "ann")
        assert created[-1]["user"] == "ann"
        assert created[-1]["key_fingerprint"] == key.public.fingerprint()


async def test_every_restriction_of_the_certificate_is_kept(tmp_path: Path) -> None:
    """Whatever a subject can say is compared, so that a restriction that is added later is not forgotten here."""
    async with running_auth(tmp_path) as auth:
        grant = replace(
            await _ann(auth),
            source_ip="127.0.0.1",
            mfa_device="device-1",
            client_ip="192.0.2.7",
            active_requests=("request-1",),
            impersonator="robot",
        )
        who, old, _ = await _granted(auth, grant)
        new = await _renew(auth, who)
        before, after = _subject(old), _subject(new)
        for field in fields(UserSubject):
            assert getattr(after, field.name) == getattr(before, field.name), field.name
        assert {after.source_ip, after.mfa_device, after.impersonator} == {"127.0.0.1", "device-1", "robot"}
        ssh, ssh_before = parse_certificate_line(new.cert).body, parse_certificate_line(old.cert).body
        assert ssh.extensions == ssh_before.extensions
        assert ssh.critical_options == ssh_before.critical_options
        assert ssh.principals == ssh_before.principals


async def test_roles_taken_away_are_gone_and_roles_given_since_wait_for_the_next_login(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, await _ann(auth, ("access", "auditor")))
        admin = await auth.admin()
        await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["access", "editor"]))
        new = await _renew(auth, who)
        assert new.roles == ["access"]
        assert _subject(new).roles == ("access",)
        await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["editor"]))
        with pytest.raises(AccessDenied, match="roles have changed"):
            await _renew(auth, who)


async def test_a_certificate_of_some_of_the_users_roles_stays_one_of_these(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        grant = await _ann(auth, ("access", "editor"))
        who, _, _ = await _granted(auth, replace(grant, roles=("access",)))
        assert (await _renew(auth, who)).roles == ["access"]


async def test_a_role_that_gives_less_now_gives_the_renewed_certificate_less(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        role = Role(
            metadata=Metadata(name="short"),
            spec=RoleSpec(
                options=Options(max_session_ttl=Duration.parse("20m"), port_forwarding=False),
                allow=Conditions(logins=("ubuntu",), node_labels={"*": ("*",)}),
            ),
        )
        await auth.call(
            await auth.admin(), routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(role)), force=True)
        )
        who, old, _ = await _granted(auth, await _ann(auth, ("short",)))
        new = await _renew(auth, who)
        assert new.expires - auth.clock.now() == timedelta(minutes=20)
        assert new.expires < old.expires
        assert new.logins == ["ubuntu"]
        assert "permit-port-forwarding" not in parse_certificate_line(new.cert).body.extensions


@pytest.mark.parametrize("target", [{"user": "ann"}, {"role": "access"}, {"mfa_device": "device-1"}])
async def test_who_is_locked_renews_nothing_and_the_refusal_is_on_record(
    tmp_path: Path, target: dict[str, str]
) -> None:
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, replace(await _ann(auth), mfa_device="device-1"))
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(**target)))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        with pytest.raises(AccessDenied, match="locked"):
            await _renew(auth, who)
        denied = await auth.events("api.denied")
        assert (denied[-1]["route"], denied[-1]["user"]) == ("renew_user", "ann")


async def test_who_was_removed_renews_nothing_also_when_another_got_the_name(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        who, _, _ = await _granted(auth, await _ann(auth))
        admin = await auth.admin()
        await auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        with pytest.raises(AccessDenied, match="does not exist"):
            await _renew(auth, who)
        auth.clock.advance(10)
        await auth.user("ann", ["access"])
        with pytest.raises(AccessDenied, match="does not exist"):
            await _renew(auth, who)


async def test_a_certificate_that_has_ended_or_is_about_to_renews_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        who, _, _ = await _granted(auth, replace(await _ann(auth), ttl=timedelta(minutes=45)))
        auth.clock.advance(44 * 60 + 30)
        with pytest.raises(AccessDenied, match="within a minute"):
            await _renew(auth, who)
        auth.clock.advance(31)
        with pytest.raises(TeleportError, match="expired"):
            await _renew(auth, who)


async def test_a_certificate_pinned_to_another_address_renews_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, replace(await _ann(auth), source_ip="192.0.2.7"))
        with pytest.raises(AccessDenied, match="holds for the address"):
            await _renew(auth, who)


async def test_hosts_administrators_and_nobody_renew_no_user_certificate(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        for role in (SystemRole.NODE, SystemRole.PROXY, SystemRole.ADMIN):
            with pytest.raises(AccessDenied, match="Only users"):
                await _renew(auth, await auth.host(role))
        with pytest.raises((AccessDenied, ConnectionProblem)):
            await _renew(auth, ANONYMOUS)


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "bob"},
        {"username": "bob"},
        {"ttl": 1e9},
        {"roles": ["editor"]},
        {"public_key": generate_p256().public.line()},
        {"route_to_cluster": "other"},
    ],
)
async def test_nothing_can_be_asked_for(tmp_path: Path, wish: dict[str, object]) -> None:
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, await _ann(auth))

        def call() -> tuple[int, object]:
            connect = direct(*auth.address, auth.context(who), auth_server_name(CLUSTER))
            connection = HTTPOver(connect(), "auth")
            connection.request("POST", routes.RENEW_USER.path, body=json.dumps(wish).encode())
            with connection.getresponse() as answer:
                found = answer.status, json.loads(answer.read())["code"]
            connection.close()
            return found

        # another cluster may be asked for, one that there is
        expected = (404, "not_found") if "route_to_cluster" in wish else (400, "bad_request")
        assert await auth.in_thread(call) == expected
        made = [event for event in await auth.events("cert.create", wait_for=3) if event.get("subject") == "ann"]
        assert len(made) == 1, "the one of the test itself"


async def test_a_user_who_is_changed_while_it_is_signed_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate leaves only if the user is still what was decided upon."""
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, await _ann(auth))
        grants = auth.service.authorizer.grants
        asked = grants.renewed

        async def slow(*given: object, **named: object) -> UserGrant:
            await auth.call(await auth.admin(), routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["auditor"]))
            return await asked(*given, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(grants, "renewed", slow)
        with pytest.raises(CompareFailed):
            await _renew(auth, who)


@pytest.mark.parametrize(("left", "named"), [("auditor", ("auditor",)), ("editor", None)])
async def test_a_role_that_was_taken_since_the_caller_was_known_is_not_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, named: tuple[str, ...] | None
) -> None:
    """Who calls is known before the user is read: what changed in between counts."""
    async with running_auth(tmp_path) as auth:
        who, _, _ = await _granted(auth, await _ann(auth, ("access", "auditor")))
        state = auth.service.state
        asked, changed = state.find, False

        async def late(prefix: str, name: str, kind: type[Any]) -> Any:
            nonlocal changed
            if prefix == records.USERS and name == "ann" and not changed:
                changed = True
                wanted = m.UpdateUserRequest(name="ann", roles=[left])
                await auth.call(await auth.admin(), routes.UPDATE_USER, wanted)
            return await asked(prefix, name, kind)

        monkeypatch.setattr(state, "find", late)
        if named is None:
            with pytest.raises(AccessDenied, match="roles"):
                await _renew(auth, who)
        else:
            assert _subject(await _renew(auth, who)).roles == named
        assert changed
