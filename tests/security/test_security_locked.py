"""Locks where certificates are given: logins, and hosts that renew or withdraw."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


async def _lock(auth: RunningAuth, **target: str) -> None:
    lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(**target)))
    await auth.call(
        await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock)), force=True)
    )


async def _login(auth: RunningAuth, proxy: Credentials, user: str, password: str, code: str) -> m.UserCerts:
    key = generate_p256().public.line()
    request = m.LoginRequest(
        user=user, password=password, otp_token=code, public_key=key, ttl=0, client_addr="192.0.2.7"
    )
    reply = await auth.call(proxy, routes.LOGIN, request)
    assert isinstance(reply, m.UserCerts)
    return reply


@pytest.mark.parametrize("target", [{"user": "ann"}, {"role": "access"}])
async def test_a_locked_user_gets_no_certificate_and_only_the_log_says_why(
    tmp_path: Path, target: dict[str, str]
) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        secret = await auth.person("ann")
        proxy = await auth.host(SystemRole.PROXY)
        await _lock(auth, **target)
        auth.clock.advance(60)
        said = []
        for user, password in (("ann", PASSWORD), ("nobody", PASSWORD)):
            with pytest.raises(AccessDenied) as caught:
                await _login(auth, proxy, user, password, auth.code(secret))
            said.append((caught.value.message, caught.value.hint))
        assert said[0] == said[1]
        failures = await auth.events("user.login", wait_for=2)
        reasons = {event["user"]: event["error"] for event in failures if not event["success"]}
        assert reasons["ann"].startswith("lock stop on ")
        await auth.call(await auth.admin(), routes.REMOVE["lock"], m.ExpelRequest(name="stop"))
        auth.clock.advance(60)
        await _login(auth, proxy, "ann", PASSWORD, auth.code(secret))


async def test_a_locked_host_neither_renews_nor_withdraws(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        key = generate_p256()
        renewal = m.RenewHostRequest(
            node_name="web1", public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode()
        )
        await auth.call(node, routes.RENEW_HOST, renewal)
        await auth.call(node, routes.WITHDRAW, m.Named(name="1"))
        await _lock(auth, node=node.host_id)
        for route, request in ((routes.RENEW_HOST, renewal), (routes.WITHDRAW, m.Named(name="1"))):
            with pytest.raises(TeleportError, match="locked"):
                await auth.call(node, route, request)
        denied = await auth.events("api.denied", wait_for=2)
        assert all(event["error"].startswith("lock stop on ") for event in denied)
