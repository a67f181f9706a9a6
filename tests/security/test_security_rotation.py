"""The end of an authority: nothing new by its certificates, at once. What is open stays after a rotation that went
through its phases, and ends within 2 s when the keys were replaced at once (threats T09 and T15)."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from tests.security.test_security_open_connections import _connect, _run, _view
from tests.security.test_security_watch import _watching

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.certificates.renewal import RENEWAL_BURST
from teleport.daemon.view import View
from teleport.errors import AccessDenied, LimitExceeded, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.resources.authority import Authority, AuthoritySpec, AuthorityType, KeySet, RetiredKeys, SSHKeyPair
from teleport.resources.metadata import Metadata
from teleport.testing.auth import Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.ssh_lab import running_lab

PROMISED = 2.0  # seconds
SLACK = 5


async def rotated_view(clock: FakeClock, now: PrivateKey, *retired: tuple[PrivateKey, bool]) -> View:
    spec = AuthoritySpec(
        type=AuthorityType.USER,
        cluster_name="c1",
        active_keys=KeySet(ssh=(SSHKeyPair(public_key=now.public.line()),)),
        retired_keys=tuple(
            RetiredKeys(retired=clock.now(), ssh=(key.public.line(),), at_once=at_once) for key, at_once in retired
        ),
    )
    authority = Authority(sub_kind=AuthorityType.USER, metadata=Metadata(name="c1"), spec=spec)
    return await _view(clock, ("authorities/user/c1", authority))


async def test_who_shows_a_certificate_of_ended_keys_reads_why_and_what_to_run() -> None:
    clock, old, stranger = FakeClock(), generate_ed25519(), generate_ed25519()
    view = await rotated_view(clock, generate_ed25519(), (old, False))
    request = UserCertRequest(generate_p256().public, "alice", ("root",), ("access",), timedelta(hours=1))
    with pytest.raises(CertificateRefused, match="a user authority that a rotation ended on") as refused:
        view.verify_user(issue_user_cert(request, old, "c1", clock.now()).blob)
    assert "tsh login" in refused.value.hint
    assert "tctl auth sign --user=alice" in refused.value.hint
    with pytest.raises(CertificateRefused, match="not signed by a user authority that is trusted here"):
        view.verify_user(issue_user_cert(request, stranger, "c1", clock.now()).blob)


async def test_a_forged_certificate_that_only_names_ended_keys_learns_nothing() -> None:
    """What is said is said to who was certified: the signature counts, not the name of the key."""
    clock, old = FakeClock(), generate_ed25519()
    view = await rotated_view(clock, generate_ed25519(), (old, False))
    request = UserCertRequest(generate_p256().public, "alice", ("root",), ("access",), timedelta(hours=1))
    true = issue_user_cert(request, old, "c1", clock.now()).blob
    forged = true[:-1] + bytes([true[-1] ^ 1])
    with pytest.raises(CertificateRefused) as refused:
        view.verify_user(forged)
    assert "a rotation ended" not in refused.value.message


async def test_only_keys_that_went_through_the_phases_are_let_go() -> None:
    clock, phased, at_once, unknown = FakeClock(), generate_ed25519(), generate_ed25519(), generate_ed25519()
    now = generate_ed25519()
    view = await rotated_view(clock, now, (phased, False), (at_once, True))
    assert view.let_go(phased.public.blob)
    for key in (at_once, unknown, now):
        assert not view.let_go(key.public.blob)
    assert not view.let_go(b"")


async def test_an_open_session_outlives_a_rotation_and_begins_nothing_new(launcher_end: LauncherEnd) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connect(lab)
        lab.authorities.rotated.add(lab.authorities.user_key.public.blob)
        lab.authorities.user_key = generate_ed25519()
        lab.node.reconsider()
        assert lab.node.connections == 1
        with pytest.raises(TeleportError):
            await _run(client)
        await lab.events.wait_for("session.request_denied")
        assert not lab.events.named("client.disconnect")
        await client.close()


async def test_what_stolen_keys_let_in_ends_when_they_are_replaced_at_once(launcher_end: LauncherEnd) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await _connect(lab)
        session = await client.start(command="sleep 600", on_output=lambda data, stderr: None)
        lab.authorities.user_key = generate_ed25519()
        began = time.monotonic()
        lab.node.reconsider()
        async with asyncio.timeout(PROMISED * SLACK):
            await session.wait()
        assert time.monotonic() - began < PROMISED * SLACK
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert "the authority that signed the certificate is not trusted any more" in getattr(event, "reason", "")
        with pytest.raises(TeleportError):
            await _run(client)
        await client.close()


async def _replace(auth: RunningAuth, *, at_once: bool) -> None:
    steps = ["init"] if at_once else ["init", "update_clients", "update_servers", "standby"]
    for phase in steps:
        request = m.RotateRequest(types=["host"], phase=phase, grace_period=0 if at_once else 3600, force=True)
        await auth.call(await auth.admin(), routes.ROTATE, request)
        await auth.follow_rotation()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_watch_ends_with_the_authority_of_the_host_that_watches(tmp_path: Path, at_once: bool) -> None:
    """Also one that asked for no authorities; and nothing else is answered to that certificate any more."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        node = await auth.host(SystemRole.NODE, name="n1")
        async with _watching(auth, node, ["role"]) as watching:
            await _replace(auth, at_once=at_once)
            async with asyncio.timeout(PROMISED * SLACK):
                with pytest.raises(TeleportError, match="auth ended the stream"):
                    await watching
        with pytest.raises(AccessDenied, match="a host authority that a rotation ended"):
            await auth.call(node, routes.WHO_AM_I, m.Empty())


async def test_a_watch_shows_no_authorities_that_were_not_asked_for(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        client = auth.async_client(await auth.host(SystemRole.NODE, name="n1"))
        lines = client.watch(m.WatchRequest(kinds=["role"]))
        try:
            first = await anext(lines)
            assert first.put
            assert {item.key.split("/")[0] for item in first.put} == {"roles"}
        finally:
            await lines.aclose()
            await client.close()


async def _renew_host(auth: RunningAuth, who: Credentials) -> object:
    key = generate_p256()
    request = m.RenewHostRequest(
        public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode(), node_name="n1"
    )
    return await auth.call(who, routes.RENEW_HOST, request)


async def test_an_identity_that_renews_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node, other = [await auth.host(SystemRole.NODE, name=name) for name in ("n1", "n2")]
        for _ in range(int(RENEWAL_BURST)):
            await _renew_host(auth, node)
        with pytest.raises(LimitExceeded) as refused:
            await _renew_host(auth, node)
        assert 0 < refused.value.retry_after < 60
        assert await _renew_host(auth, other), "one identity does not use up what is another's"
        assert isinstance(auth.clock, FakeClock)
        auth.clock.advance(refused.value.retry_after)
        assert await _renew_host(auth, node)


async def test_a_host_that_is_not_here_is_expelled_by_its_uuid(tmp_path: Path) -> None:
    """As one that a rotation left behind: it was stopped, and could not join again under its UUID otherwise."""
    async with running_auth(tmp_path) as auth:
        admin, node = await auth.admin(), await auth.host(SystemRole.NODE, name="n1")
        with pytest.raises(NotFound):
            await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=node.host_id, keep_identity=True))
        person = await auth.user("alice", ["access"])
        with pytest.raises(AccessDenied):
            await auth.call(person, routes.REMOVE["node"], m.ExpelRequest(name=node.host_id))
        assert await auth.call(node, routes.WHO_AM_I, m.Empty())
        await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=node.host_id))
        with pytest.raises(AccessDenied, match="does not belong to the cluster any more"):
            await auth.call(node, routes.WHO_AM_I, m.Empty())
        told = (await auth.events("node.delete"))[0]
        assert (told["name"], told["hostname"]) == (node.host_id, "n1")
        for unknown in (node.host_id, str(uuid.uuid4()), "n1"):
            with pytest.raises(NotFound):
                await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=unknown))
