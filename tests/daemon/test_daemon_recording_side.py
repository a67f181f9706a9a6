"""Which certificates a recording proxy believes of the hosts behind it."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path

import pytest
from tests.daemon.test_daemon_view import filled

from teleport.api import messages as m
from teleport.api import routes
from teleport.daemon.recording_side import RecordingView
from teleport.daemon.view import View
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import parse_certificate_line
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server
from teleport.testing.auth import RunningAuth, running_auth
from teleport.testing.running import wait_until


async def checks(view: View, node: Server, line: str) -> None:
    check = RecordingView(view).host_check(node)
    assert check is not None
    check(parse_certificate_line(line).blob)


async def registered(auth: RunningAuth, view: View, hostname: str) -> tuple[Server, str]:
    """A host with a plain sshd, and the certificate that it was given."""
    asked = m.RegisterOpensshRequest(
        hostname=hostname, addr="192.0.2.9:22", host_key=generate_ed25519().public.line(""), labels={}
    )
    made = await auth.call(await auth.admin(), routes.REGISTER_OPENSSH, asked)
    await wait_until(lambda: view.node(made.host_id) is not None)
    node = view.node(made.host_id)
    assert node is not None
    [line] = [line for line in made.bundle.splitlines() if line.startswith("host-cert ")]
    return node, line.removeprefix("host-cert ")


async def test_a_plain_host_shows_its_own_certificate_or_one_signed_by_hand(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        node, own = await registered(auth, view, "web")
        await checks(view, node, own)
        by_hand = m.SignHostRequest(principals=["web"], public_key=generate_ed25519().public.line(""), ttl=3600)
        await checks(view, node, (await auth.call(await auth.admin(), routes.SIGN_HOST, by_hand)).ssh_cert)
        other, foreign = await registered(auth, view, "db")
        with pytest.raises(CertificateRefused):
            await checks(view, node, foreign)
        renamed = Server(sub_kind="openssh", metadata=Metadata(name=str(uuid.uuid4())), spec=other.spec)
        with pytest.raises(CertificateRefused, match="another host's"):
            await checks(view, renamed, foreign)


@pytest.mark.parametrize("agentless", [True, False])
async def test_the_name_that_a_proxy_shows_is_not_the_host(tmp_path: Path, agentless: bool) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        node, _ = await registered(auth, view, "web")
        proxy = await auth.host(SystemRole.PROXY, name="elsewhere")
        asked = m.OpensshNameRequest(host_id=node.host_id, public_key=generate_ed25519().public.line(""))
        line = (await auth.call(proxy, routes.OPENSSH_NAME, asked)).ssh_cert
        await wait_until(lambda: view.knows_host(proxy.host_id))
        meant = node if agentless else Server(metadata=node.metadata, spec=node.spec)
        with pytest.raises(CertificateRefused, match="another host's"):
            await checks(view, meant, line)


async def test_a_proxy_called_like_a_host_is_not_the_host(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, filled(auth) as view:
        node, _ = await registered(auth, view, "web")
        key, tls = generate_ed25519().public.line(), generate_p256().public.spki_pem().decode()
        for role in (SystemRole.PROXY, SystemRole.NODE):
            host_id = str(uuid.uuid4())
            given = await auth.service.local_host(host_id, "web", role, ["web"], key, tls)
            await wait_until(partial(view.knows_host, host_id))
            with pytest.raises(CertificateRefused):
                await checks(view, node, given.ssh_cert)
