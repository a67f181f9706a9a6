"""How tctl finds auth: through a proxy with a login or an identity file, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli.tctl.command import tctl
from teleport.client import keystore, profile
from teleport.client.home import Home
from teleport.client.webapi import Signer
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.commands import Ran, run_command
from teleport.transport.tls import web_server_context
from teleport.web.tunnel import relay_to_auth


@asynccontextmanager
async def proxy(auth: RunningAuth, certificate: Credentials | None = None) -> AsyncIterator[int]:
    """The web port of a proxy that relays to auth, with the certificate of a proxy unless told otherwise."""
    shown = certificate or await auth.host(SystemRole.PROXY, name="front")
    assert shown.cert is not None
    assert shown.key is not None

    async def tunnel(request: web.Request) -> web.StreamResponse:
        return await relay_to_auth(request, [auth.address])

    app = web.Application()
    app.router.add_get("/webapi/auth/tunnel", tunnel)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=web_server_context(shown.cert, shown.key))
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def logged_in(auth: RunningAuth, home: Path, port: int, *, user: str, roles: list[str]) -> None:
    """What `tsh login` leaves."""
    admin = await auth.admin()
    await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=user, roles=roles))
    key = generate_p256()
    request = m.SignUserRequest(name=user, public_key=key.public.line(""), ttl=12 * 3600)
    certs = await auth.call(admin, routes.SIGN_USER, request)
    kept = Home(home)
    files = keystore.KeyFiles("127.0.0.1", user)
    keystore.write_keys(
        kept,
        files,
        key_pem=key.pkcs8_pem(),
        public_line=key.public.line(""),
        ssh=certs.cert,
        tls=certs.tls_cert,
        cluster=CLUSTER,
    )
    signers = [Signer(one.domain_name, tuple(one.checking_keys), tuple(one.tls_certs)) for one in certs.host_signers]
    keystore.write_authorities(kept, files, signers)
    profile.save(
        kept,
        profile.Profile(
            name="127.0.0.1",
            web_proxy_addr=f"127.0.0.1:{port}",
            ssh_proxy_addr="127.0.0.1:3023",
            user=user,
            cluster=CLUSTER,
            root_cluster=CLUSTER,
            proxy_trust="cluster",
        ),
    )


async def run(*arguments: str, home: Path) -> Ran:
    environment = {"TELEPORT_CONFIG_FILE": "", "TELEPORT_HOME": str(home)}
    return await asyncio.to_thread(lambda: run_command(tctl, "tctl", *arguments, environment=environment))


async def test_a_login_reaches_auth_through_the_proxy(tmp_path: Path) -> None:
    """Without configuration and identity the active profile counts, with the rights of its user."""
    async with running_auth(tmp_path) as auth, proxy(auth) as port:
        await logged_in(auth, tmp_path / "home", port, user="edith", roles=["editor"])
        shown = (await run("status", "--format=json", home=tmp_path / "home")).ok()
        found = json.loads(shown.out)
        assert (found["cluster"], found["addresses"]) == (CLUSTER, [f"127.0.0.1:{port}"])
        (await run("users", "add", "ann", "--roles=access", home=tmp_path / "home")).ok()
        denied = await run("auth", "sign", "--user=ann", f"--out={tmp_path / 'id'}", home=tmp_path / "home")
        assert denied.status == 5
        assert not (tmp_path / "id").exists()
        created = await auth.events("user.create", where=lambda event: event["name"] == "ann")
        assert created[0]["user"] == "edith"


async def test_a_login_is_used_at_the_address_that_was_given(tmp_path: Path) -> None:
    """Of an auth server or a proxy; where nobody answers, the profile's proxy does not stand in unasked."""
    async with running_auth(tmp_path) as auth, proxy(auth) as port:
        await logged_in(auth, tmp_path / "home", port, user="ed", roles=["editor"])
        for address in (f"127.0.0.1:{port}", f"{auth.address[0]}:{auth.address[1]}"):
            ran = await run("status", "--format=json", f"--auth-server={address}", home=tmp_path / "home")
            assert json.loads(ran.ok().out)["cluster"] == CLUSTER
        ran = await run("status", "--auth-server=127.0.0.1:1", home=tmp_path / "home")
        assert (ran.status, "127.0.0.1:1" in ran.err) == (6, True)


async def test_an_identity_file_works_at_a_proxy_s_address_too(tmp_path: Path) -> None:
    """What does not answer as an auth server is asked as a proxy; the proxy must prove the cluster."""
    async with running_auth(tmp_path) as auth, proxy(auth) as port:
        config = str(await auth.local_config())
        for arguments in (("users", "add", "audrey", "--roles=auditor"), ("auth", "sign", "--user=audrey", "-o", "id")):
            paths = [str(tmp_path / "id") if one == "id" else one for one in arguments]
            (await asyncio.to_thread(run_command, tctl, "tctl", *paths, "-c", config)).ok()
        where = ("-i", str(tmp_path / "id"), f"--auth-server=127.0.0.1:{port}")
        (await run("status", *where, home=tmp_path / "home")).ok()
    async with running_auth(tmp_path / "other") as other, proxy(other) as port:
        where = ("-i", str(tmp_path / "id"), f"--auth-server=127.0.0.1:{port}")
        stranger = await run("status", *where, home=tmp_path / "home")
        assert stranger.status == 6
        assert f"127.0.0.1:{port}" in stranger.err
        insecure = await run("status", *where, "--insecure", home=tmp_path / "home")
        assert insecure.status == 6, "auth itself is proved, however the way to it is trusted"


@pytest.mark.parametrize("text", ["", "not an identity file", "-----BEGIN PRIVATE KEY-----\nAAAA\n"])
async def test_a_damaged_identity_file_is_named(tmp_path: Path, text: str) -> None:
    """Before anything is sent anywhere."""
    (tmp_path / "id").write_text(text)
    ran = await run("status", "-i", str(tmp_path / "id"), home=tmp_path / "home")
    assert ran.status in (1, 2)
    assert "identity file" in ran.err
