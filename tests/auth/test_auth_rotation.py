"""Rotation over the API: what signs and is trusted in each phase, who is waited for, what goes on record."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import ROUTES, Stream
from teleport.errors import AccessDenied, BadRequest, CompareFailed, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, PublicKey, generate_ed25519, generate_p256
from teleport.pki.refusal import CertificateRefused
from teleport.pki.secret import Secret
from teleport.pki.sshcert import HostCertRequest, issue_host_cert
from teleport.pki.sshformat import parse_certificate_line
from teleport.recording.format import RecordingHeader
from teleport.recording.trust import signature_check, signer
from teleport.resources.authority import Authority, AuthorityType, RotationMode, RotationPhase
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import LOST_AFTER, ReachedPhase, Server, ServerSpec
from teleport.store import records
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

FORWARD = ("init", "update_clients", "update_servers", "standby")


async def step(auth: RunningAuth, phase: str, *types: str, force: bool = False, grace: float = 3600) -> m.RotateReply:
    assert isinstance(auth.clock, FakeClock)
    auth.clock.advance(1)  # so that events have an order
    request = m.RotateRequest(types=list(types), phase=phase, grace_period=grace, force=force)
    reply = await auth.call(await auth.admin(), routes.ROTATE, request)
    assert isinstance(reply, m.RotateReply)
    return reply


async def announce(auth: RunningAuth, who: Credentials, *, name: str = "web1", reached: str | None = None) -> None:
    """A heartbeat of a node that has reached what it says: `host=init,user=standby`, or reports nothing."""
    rotation: dict[AuthorityType, ReachedPhase] = {}
    for part in reached.split(",") if reached else ():
        kind, _, phase = part.partition("=")
        authority = await auth.service.state.authority(kind)
        rotation[AuthorityType(kind)] = ReachedPhase(
            phase=RotationPhase(phase), current_id=authority.spec.rotation.current_id
        )
    spec = ServerSpec(addr="192.0.2.1:22", hostname=name, epoch="1", rotation=rotation)
    server = Server(metadata=Metadata(name=who.host_id), spec=spec)
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))


async def signed_by(auth: RunningAuth, kind: str) -> bytes:
    """The key blob of whoever signs a certificate that is made now."""
    public = generate_p256().public
    if kind == "user":
        certs = await auth.call(
            await auth.admin(), routes.SIGN_USER, m.SignUserRequest(name="alice", public_key=public.line(), ttl=3600)
        )
        return parse_certificate_line(certs.cert).signer
    made = await auth.service.local_host(
        str(uuid.uuid4()), "n", SystemRole.NODE, [], public.line(), public.spki_pem().decode()
    )
    return parse_certificate_line(made.ssh_cert).signer


async def keys(auth: RunningAuth, kind: str) -> tuple[list[bytes], list[bytes]]:
    """Key blobs: active, additional."""
    spec = (await auth.service.state.authority(kind)).spec
    active, additional = (
        [PublicKey.parse(pair.public_key).blob for pair in held.ssh]
        for held in (spec.active_keys, spec.additional_trusted_keys)
    )
    return active, additional


async def who_am_i(auth: RunningAuth, who: Credentials) -> str:
    return str((await auth.call(who, routes.WHO_AM_I, m.Empty())).name)


async def test_every_phase_signs_with_the_active_keys_at_once_and_old_certificates_end_with_standby(
    tmp_path: Path,
) -> None:
    """User and host authorities together, each step by the API; certificates from before count until standby, and
    are refused after it with the reason and the way on."""
    async with running_auth(tmp_path) as auth:
        old_user = await auth.user("alice", ["access"])
        old_node, old_proxy = await auth.host(SystemRole.NODE), await auth.host(SystemRole.PROXY)
        old = {kind: (await keys(auth, kind))[0] for kind in ("user", "host")}
        for phase in FORWARD:
            reply = await step(auth, phase, "user", "host")
            assert [one.phase for one in reply.authorities] == [phase, phase]
            await auth.follow_rotation()
            for kind in ("user", "host"):
                active, additional = await keys(auth, kind)
                assert await signed_by(auth, kind) == active[0]
                assert (active == old[kind]) is (phase == "init")
                assert len(additional) == (phase != "standby")
            if phase != "standby":
                assert await who_am_i(auth, old_user) == "alice"
                assert await who_am_i(auth, old_node) == old_node.host_id
        with pytest.raises(AccessDenied, match="user authority that a rotation ended on") as user_refused:
            await who_am_i(auth, old_user)
        assert "tsh login" in user_refused.value.hint
        assert "tctl auth sign --user=alice" in user_refused.value.hint
        with pytest.raises(AccessDenied, match="host authority that a rotation ended on") as host_refused:
            await who_am_i(auth, old_node)
        assert f"tctl nodes rm {old_node.host_id}" in host_refused.value.hint
        with pytest.raises(AccessDenied, match="certificate of this proxy is of a host authority") as proxy_refused:
            await who_am_i(auth, old_proxy)
        assert "tsh login" in proxy_refused.value.hint, "for whoever asked the proxy, which passes it on"
        assert f"tctl rm proxy/{old_proxy.host_id}" in proxy_refused.value.hint
        assert await who_am_i(auth, await auth.user("alice", ["access"])) == "alice"


async def test_a_rollback_ends_what_the_new_keys_signed(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        old_user = await auth.user("alice", ["access"])
        before, _ = await keys(auth, "user")
        for phase in ("init", "update_clients"):
            await step(auth, phase, "user")
        new_user = await auth.user("alice", ["access"])
        await step(auth, "rollback", "user")
        assert await signed_by(auth, "user") == before[0]
        assert [await who_am_i(auth, one) for one in (old_user, new_user)] == ["alice", "alice"]
        await step(auth, "standby", "user")
        assert await keys(auth, "user") == (before, [])
        assert await who_am_i(auth, old_user) == "alice"
        with pytest.raises(AccessDenied, match="a rotation ended"):
            await who_am_i(auth, new_user)


async def test_a_refused_step_names_the_phase_and_changes_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await step(auth, "init", "host")
        before = [await auth.service.state.authority(kind) for kind in AuthorityType]
        for phase, types, said in (
            ("init", ["host"], "in progress already, in the phase init"),
            ("update_servers", ["host"], "cannot go from the phase init to update_servers"),
            ("standby", ["host"], "cannot go from the phase init to standby"),
            ("update_clients", [], "the user authority is in the phase standby"),
            ("rollback", ["user"], "no rotation is in progress"),
            ("later", ["host"], "no phase"),
            ("update_clients", ["hosts"], "authorities are user, host and jwt"),
        ):
            with pytest.raises(BadRequest, match=said):
                await step(auth, phase, *types)
        with pytest.raises(BadRequest, match="up to 90 days"):
            await step(auth, "init", "user", grace=91 * 86400)
        with pytest.raises(BadRequest, match="up to 90 days"):
            await step(auth, "init", "user", grace=-1)
        with pytest.raises(BadRequest) as several:
            await step(auth, "update_clients")
        assert several.value.hint == "only host is being rotated: give --type=host"
        with pytest.raises(BadRequest) as several:
            await step(auth, "init")
        assert several.value.hint == "only host is being rotated: give --type=user --type=jwt"
        assert [await auth.service.state.authority(kind) for kind in AuthorityType] == before


async def test_all_authorities_rotate_together_or_none(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        reply = await step(auth, "init")
        assert {one.kind for one in reply.authorities} == {"user", "host", "jwt"}
        assert len({one.rotation_id for one in reply.authorities}) == 1
        jwt = (await auth.service.state.authority("jwt")).spec
        assert jwt.additional_trusted_keys.jwt
        assert {one.phase for one in (await step(auth, "rollback")).authorities} == {"rollback"}
        await step(auth, "standby", "user", "host")
        assert [one.kind for one in (await step(auth, "standby", "jwt")).authorities] == ["jwt"]
        with pytest.raises(BadRequest, match="nothing to roll back"):
            await step(auth, "rollback")


async def test_without_grace_everything_from_before_is_refused_at_once(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        old = await auth.user("alice", ["access"])
        pins = (await auth.call(old, routes.STATUS, m.Empty())).ca_pins
        (host, user) = (await step(auth, "init", "host", "user", grace=0)).authorities
        assert (host.phase, user.phase) == ("standby", "standby")
        await auth.follow_rotation()
        with pytest.raises(AccessDenied, match="a rotation ended"):
            await who_am_i(auth, old)
        assert await who_am_i(auth, await auth.admin())
        after = (await auth.call(await auth.admin(), routes.STATUS, m.Empty())).ca_pins
        assert len(after) == 1
        assert after != pins


async def test_a_live_service_that_has_not_followed_holds_the_next_phase_up(tmp_path: Path) -> None:
    """Who reports an older phase, another rotation or nothing is named; who is lost is not waited for, nor is anybody
    for a rollback; --force goes on and says whom it left behind."""
    async with running_auth(tmp_path) as auth:
        clock = auth.clock
        assert isinstance(clock, FakeClock)
        web1, web2, gone = [await auth.host(SystemRole.NODE, name=name) for name in ("web1", "web2", "gone")]
        await announce(auth, gone, name="gone")
        clock.advance(LOST_AFTER.total_seconds() * 2)
        await announce(auth, web1, reached="host=standby,user=standby")
        await announce(auth, web2, name="web2")
        await step(auth, "init", "host")
        with pytest.raises(TeleportError) as held:
            await step(auth, "update_clients", "host")
        assert "2 live services have not reached the phase init of the host authority" in held.value.message
        assert f"node web1 ({web1.host_id}): has not begun" in held.value.message
        assert f"node web2 ({web2.host_id}): reports no phase" in held.value.message
        assert "gone" not in held.value.message
        assert "--force" in held.value.hint

        await announce(auth, web1, reached="host=init")
        progress = await auth.call(await auth.admin(), routes.ROTATION_PROGRESS, m.Empty())
        assert [(one.hostname, one.authority, one.reached) for one in progress.waiting] == [("web2", "host", "")]
        await step(auth, "update_clients", "host", force=True)
        await announce(auth, web1, reached="host=update_clients")
        await announce(auth, web2, name="web2", reached="host=update_clients")
        await step(auth, "update_servers", "host")
        await step(auth, "rollback", "host")
        with pytest.raises(TeleportError, match="phase rollback of the host authority"):
            await step(auth, "standby", "host")
        for who, name in ((web1, "web1"), (web2, "web2")):
            await announce(auth, who, name=name, reached="host=rollback")
        await step(auth, "standby", "host")

        events = await auth.events("authority.rotate", wait_for=5)
        assert [(one["phase"], one["previous_phase"], one["forced"], one["left_behind"]) for one in events] == [
            ("init", "standby", False, []),
            ("update_clients", "init", True, [web2.host_id]),
            ("update_servers", "update_clients", False, []),
            ("rollback", "update_servers", False, []),
            ("standby", "rollback", False, []),
        ]
        assert len({one["rotation_id"] for one in events}) == 1
        assert {one["code"] for one in events} == {"T9100I"}
        assert [len(one["ca_pins"]) for one in events] == [2, 2, 2, 2, 1]


async def test_services_of_before_a_start_of_auth_are_waited_for(tmp_path: Path) -> None:
    """Auth was away for an hour, so everybody was silent; who was there when it went is not taken for lost."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock, sqlite=True) as auth:
        node, gone = await auth.host(SystemRole.NODE), await auth.host(SystemRole.NODE)
        await announce(auth, gone, name="gone")
        clock.advance(LOST_AFTER.total_seconds() * 2)
        await announce(auth, node)
        await step(auth, "init", "host")
        host_id = auth.host_id
    clock.advance(1000)
    async with running_auth(tmp_path, clock=clock, sqlite=True, host_id=host_id, epoch=2) as auth:
        assert (await auth.service.state.authority("host")).spec.rotation.phase is RotationPhase.INIT
        with pytest.raises(TeleportError, match="a live service has not reached the phase init") as held:
            await step(auth, "update_clients", "host")
        assert "web1" in held.value.message
        clock.advance(LOST_AFTER.total_seconds())
        await step(auth, "update_clients", "host")


async def test_of_two_steps_at_once_one_is_taken(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        results = await asyncio.gather(*(step(auth, "init", "host") for _ in range(4)), return_exceptions=True)
        refused = [one for one in results if isinstance(one, BaseException)]
        assert len(refused) == 3
        assert all(isinstance(one, (CompareFailed, BadRequest)) for one in refused)
        assert len(await auth.events("authority.rotate")) == 1


async def test_a_step_on_keys_that_changed_meanwhile_is_not_written(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        rotations, state = auth.service.rotations, auth.service.state
        found = await state.need(f"{records.AUTHORITIES}host/", CLUSTER, Authority)
        planned = await rotations.plan([found], RotationPhase.INIT, RotationMode.MANUAL, timedelta(hours=1))
        await step(auth, "init", "host")
        before = await state.authority("host")
        with pytest.raises(CompareFailed, match="nothing was done"):
            await rotations.take(planned, None)
        assert await state.authority("host") == before


async def test_a_step_out_of_a_phase_that_nobody_looked_at_is_not_taken(tmp_path: Path) -> None:
    """Standby ends the old keys after update_servers, and the new ones after a rollback."""
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        for phase in ("init", "update_clients", "update_servers", "rollback"):
            await step(auth, phase, "jwt")
        before = await state_of(auth, "jwt")
        for seen in ("update_servers", "init"):
            with pytest.raises(CompareFailed, match=f"in the phase rollback by now, not in {seen}; nothing was done"):
                await auth.call(admin, routes.ROTATE, m.RotateRequest(types=["jwt"], phase="standby", seen=seen))
        both = m.RotateRequest(types=["user", "jwt"], phase="standby", seen="rollback")
        with pytest.raises(CompareFailed):
            await auth.call(admin, routes.ROTATE, both)
        with pytest.raises(BadRequest, match="is no phase"):
            await auth.call(admin, routes.ROTATE, m.RotateRequest(types=["jwt"], phase="standby", seen="x"))
        assert await state_of(auth, "jwt") == before
        await auth.call(admin, routes.ROTATE, m.RotateRequest(types=["jwt"], phase="standby", seen="rollback"))
        assert (await state_of(auth, "jwt")).spec.rotation.phase is RotationPhase.STANDBY


async def state_of(auth: RunningAuth, kind: str) -> Authority:
    return await auth.service.state.authority(kind)


async def test_a_rule_decides_for_each_authority(tmp_path: Path) -> None:
    """The verb `rotate` is given by a role; a rule about the host authority keeps that one out."""
    async with running_auth(tmp_path) as auth:
        document = {
            "kind": "role", "version": "v3", "metadata": {"name": "rotators"},
            "spec": {"allow": {"rules": [
                {"resources": ["cert_authority"], "verbs": ["rotate"], "where": 'equals(system.catype(), "user")'}
            ]}},
        }  # fmt: skip
        await auth.call(
            await auth.admin(), routes.STORE["role"], m.StoreRequest(item=m.Document(json.dumps(document).encode()))
        )
        rotator = await auth.user("rob", ["rotators"])
        request = m.RotateRequest(types=["user"], phase="init")
        with pytest.raises(AccessDenied):
            await auth.call(rotator, routes.ROTATE, m.RotateRequest(types=["host", "user"], phase="init"))
        await auth.call(rotator, routes.ROTATE, request)
        (event,) = await auth.events("authority.rotate")
        assert (event["user"], event["authority"]) == ("rob", "user")
        assert await auth.events("api.denied")


async def test_what_a_retired_authority_signed_opens_nothing(tmp_path: Path) -> None:
    """Its certificates get through the handshake, to be told why they are refused: on every route, open ones too."""
    async with running_auth(tmp_path) as auth:
        old = await auth.host(SystemRole.PROXY, name="proxy")
        await step(auth, "init", "host", grace=0)
        await auth.follow_rotation()
        for name, route in ROUTES.items():
            if route.stream is Stream.NONE and not route.path_fields and route.request is m.Empty:
                with pytest.raises(AccessDenied, match="a rotation ended"):
                    await auth.call(old, ROUTES[name], m.Empty())


async def test_recordings_signed_before_a_rotation_verify_after_it_and_none_signed_later(tmp_path: Path) -> None:
    """A node had no way to auth while the host authority was rotated: what it recorded before is taken in."""
    async with running_auth(tmp_path) as auth:
        trust = auth.service._trust
        host = await auth.service.state.authority("host")
        await step(auth, "init", "host", grace=0)
        (former,) = trust.former_host_authorities()
        assert [key.line() for key in former[0].keys] == [
            PublicKey.parse(pair.public_key).line() for pair in host.spec.active_keys.ssh
        ]
        check = signature_check(trust.host_authorities, trust.former_host_authorities)
        for late, believed in ((False, True), (True, False)):
            key, host_id = generate_ed25519(), str(uuid.uuid4())
            made = former[1] + (timedelta(hours=2) if late else -timedelta(hours=1))
            signer_key = PrivateKey.load(Secret(_secret(host).encode()))
            cert = issue_host_cert(
                HostCertRequest(key.public, host_id, SystemRole.NODE, (host_id,), timedelta(days=1)),
                signer_key, CLUSTER, made,
            )  # fmt: skip
            header = RecordingHeader(
                sid=str(uuid.uuid4()),
                cluster=CLUSTER,
                node_id=host_id,
                user="alice",
                login="root",
                started=former[1] - timedelta(minutes=30),
            )
            signature = signer(lambda key=key, cert=cert: (key, cert))(b"the end")  # type: ignore[misc]
            if believed:
                check(signature, b"the end", header)
            else:
                with pytest.raises(CertificateRefused):
                    check(signature, b"the end", header)


def _secret(host: Authority) -> str:
    (pair,) = host.spec.active_keys.ssh
    assert pair.private_key is not None
    return pair.private_key.reveal()
