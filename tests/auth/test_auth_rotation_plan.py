"""`--plan`: which certificates the end of a rotation ends, who would bring their holders along, and why nobody does."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from tests.auth.test_auth_rotation import announce, step

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import LOST_AFTER, Server, ServerSpec
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

Row = tuple[str, str, str]  # rotation, subject or name, why


async def plan(auth: RunningAuth, *types: str, grace: float = 48 * 3600) -> list[m.LeftBehind]:
    request = m.RotationPlanRequest(types=list(types), grace_period=grace)
    found = await auth.call(await auth.admin(), routes.ROTATION_PLAN, request)
    return list(found.left_behind)


async def why(auth: RunningAuth, who: Credentials) -> str:
    """What the plan of the host authority says of a host; empty when it is not listed."""
    found = [one for one in await plan(auth, "host") if one.subject == who.host_id]
    assert len(found) <= 1
    return found[0].why if found else ""


async def renewed(auth: RunningAuth, who: Credentials) -> Credentials:
    ssh, tls = generate_ed25519().public, generate_p256()
    request = m.RenewHostRequest(
        public_ssh_key=ssh.line(), public_tls_key=tls.public.spki_pem().decode(), node_name="host"
    )
    made = await auth.call(who, routes.RENEW_HOST, request)
    return auth.keep(tls, made.tls_cert, who.host_id)


def clock_of(auth: RunningAuth) -> FakeClock:
    assert isinstance(auth.clock, FakeClock)
    return auth.clock


async def test_hosts_are_listed_unless_they_follow(tmp_path: Path) -> None:
    """Before a rotation: who is off, silent or of a version that does not follow. During it: who lags. Never: who
    follows, who was expelled, who renewed to the keys that stay."""
    async with running_auth(tmp_path) as auth:
        follows, silent, old, off, expelled = [
            await auth.host(SystemRole.NODE, name=name) for name in ("follows", "silent", "old", "off", "expelled")
        ]
        await announce(auth, expelled, name="expelled")
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=expelled.host_id))
        await announce(auth, silent, name="silent", reached="host=standby")
        clock_of(auth).advance(LOST_AFTER.total_seconds() * 2)
        await announce(auth, follows, name="follows", reached="host=standby")
        await announce(auth, old, name="old")
        assert await why(auth, follows) == ""
        assert await why(auth, silent) == "silent for 5m"
        assert "does not follow rotations" in await why(auth, old)
        assert await why(auth, off) == "not announced: it is off"
        assert await why(auth, expelled) == ""
        (row,) = [one for one in await plan(auth, "host") if one.subject == off.host_id]
        assert (row.authority, row.type, row.name, row.role) == ("host", "host", "off", "node")
        assert f"tctl nodes rm {off.host_id}" in row.remedy

        await step(auth, "init", "host")
        assert await why(auth, follows) == "it has not reached init: it reports standby"
        await announce(auth, follows, name="follows", reached="host=init")
        assert await why(auth, follows) == ""
        await step(auth, "update_clients", "host", force=True)
        assert await why(auth, follows) == "it has not reached update_clients: it reports init"
        new = await renewed(auth, follows)
        assert await why(auth, new) == "", "it has a certificate of the keys that stay"
        assert await why(auth, off) == "not announced: it is off"

        await step(auth, "rollback", "host")
        assert await why(auth, off) == "", "its certificate is of the keys that stay now"
        assert await why(auth, new) == "it has not reached rollback: it reports init"


async def test_what_nobody_renews_is_listed_for_what_it_is(tmp_path: Path) -> None:
    """Files of tctl auth sign, plain sshds, and logins; a login that was renewed since, or that ends before, is not."""
    async with running_auth(tmp_path) as auth:
        await auth.user("alice", ["access"], ttl=90 * 3600)
        await auth.user("shorty", ["access"], ttl=3600)
        sign = m.SignHostRequest(principals=["sshd.example.org"], public_key=generate_ed25519().public.line())
        await auth.call(await auth.admin(), routes.SIGN_HOST, sign)
        found = {(one.authority, one.subject if one.type == "user" else one.name): one for one in await plan(auth)}
        assert set(found) == {("user", "alice"), ("host", "alice"), ("host", "sshd.example.org")} | {
            key for key in found if key[1] == "auth"
        }
        assert found["user", "alice"].why == "a file of tctl auth sign, which nothing renews"
        assert found["user", "alice"].remedy == "tctl auth sign --user=alice --out=FILE"
        assert "trusts hosts of the old keys only" in found["host", "alice"].why
        assert found["host", "sshd.example.org"].why == "signed for a plain sshd"
        assert "--host=sshd.example.org" in found["host", "sshd.example.org"].remedy

        await step(auth, "init", "user", "host")
        await auth.user("after", ["access"], ttl=90 * 3600)
        files = [one.subject for one in await plan(auth, "host") if one.type == "user"]
        assert sorted(files) == ["alice", "shorty"], "a file of after init has the new host keys, too"
        await step(auth, "update_clients", "user", "host")
        await auth.user("late", ["access"], ttl=90 * 3600)
        users = [one.subject for one in await plan(auth, "user")]
        assert sorted(users) == ["after", "alice", "shorty"], "one of the new keys stays"


async def test_a_host_registered_by_hand_trusts_what_somebody_wrote_there(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        sshd = Server(metadata=Metadata(name=str(uuid.uuid4())), spec=ServerSpec(addr="192.0.2.1:22", hostname="sshd"))
        await auth.call(await auth.admin(), routes.STORE["node"], m.StoreRequest(item=m.Document(to_json(sshd))))
        (row,) = await plan(auth, "user")
        assert (row.subject, row.name, row.role, row.serial) == (sshd.host_id, "sshd", "sshd", "")
        assert "tctl auth export --type=user" in row.remedy
        await step(auth, "init", "user", "host")
        await step(auth, "update_clients", "user", "host")  # nobody waits for it


async def test_a_login_that_tsh_renewed_is_brought_along(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        secret = await auth.person("bob")
        clock_of(auth).advance(60)
        key = generate_p256()
        login = m.LoginRequest(
            user="bob", password=PASSWORD, otp_token=auth.code(secret), public_key=key.public.line(), ttl=12 * 3600,
            client_addr="192.0.2.7",
        )  # fmt: skip
        certs = await auth.call(await auth.host(SystemRole.PROXY, name="proxy"), routes.LOGIN, login)
        bob = auth.keep(key, certs.tls_cert)
        await step(auth, "init", "user")
        (row,) = await plan(auth, "user")
        assert (row.subject, row.why) == ("bob", "a login that was not used since; tsh renews it when it is")
        await step(auth, "update_clients", "user")
        await auth.call(bob, routes.RENEW_USER, m.Empty())
        assert await plan(auth, "user") == []


async def test_a_plan_is_for_those_who_may_rotate_and_changes_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        with pytest.raises(AccessDenied):
            await auth.call(node, routes.ROTATION_PLAN, m.RotationPlanRequest())
        with pytest.raises(BadRequest, match="up to 90 days"):
            await plan(auth, grace=-1)
        revision = (await auth.service.state.authority("host")).spec.rotation
        await plan(auth)
        assert (await auth.service.state.authority("host")).spec.rotation == revision
