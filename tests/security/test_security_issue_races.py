"""Roles that are taken away while certificates are being issued: one order of things explains what came of it, that of
the storage (threat T32)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import Event, Put
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import load_certificate
from teleport.resources.codec import from_json, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.user import User
from teleport.store.issued import ISSUED, IssuedCert
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

ROUNDS = 4
RACED = "raced"
ANN = "users/ann"


def _role() -> Role:
    """Lists users, which the preset `access` does not."""
    rule = Rule(resources=(Kind.USER,), verbs=(Verb.LIST, Verb.READ_NO_SECRETS))
    return Role(metadata=Metadata(name=RACED), spec=RoleSpec(allow=Conditions(logins=("root",), rules=(rule,))))


async def _signed(auth: RunningAuth) -> tuple[Credentials, m.UserCerts]:
    key = generate_p256()
    request = m.SignUserRequest(name="ann", public_key=key.public.line(), ttl=3600)
    certs = await auth.call(await auth.admin(), routes.SIGN_USER, request)
    return auth.keep(key, certs.tls_cert), certs


async def _login(auth: RunningAuth, proxy: Credentials, secret: str) -> tuple[Credentials, m.UserCerts]:
    key = generate_p256()
    request = m.LoginRequest(
        user="ann", password=PASSWORD, otp_token=auth.code(secret), public_key=key.public.line(), ttl=3600,
        client_addr="192.0.2.7:1000",
    )  # fmt: skip
    certs = await auth.call(proxy, routes.LOGIN, request)
    return auth.keep(key, certs.tls_cert), certs


async def _renewed(auth: RunningAuth, who: Credentials) -> m.UserCerts:
    reply = await auth.call(who, routes.RENEW_USER, m.Empty())
    assert isinstance(reply, m.UserCerts)
    return reply


async def _removed(auth: RunningAuth) -> None:
    """Takes the role from its only holder, then removes it."""
    admin = await auth.admin()
    await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["access"]))
    await auth.call(admin, routes.REMOVE["role"], m.ExpelRequest(name=RACED))


async def _history(auth: RunningAuth, begun: int) -> list[Event]:
    """What became of the user and of the inventory of certificates, in the order of the storage."""
    item = await auth.backend.get(ANN)
    assert item is not None
    last = max(item.revision, *(one.revision for one in await auth.backend.range(f"{ISSUED}user/")))
    found: list[Event] = []
    async with aclosing(auth.backend.watch([ANN, f"{ISSUED}user/"], start=begun)) as batches:
        async for batch in batches:
            found += batch
            if batch[-1].revision >= last:
                return found
    raise AssertionError("the watch ended")


async def test_no_certificate_with_a_role_is_issued_after_the_role_was_taken(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        assert isinstance(auth.clock, FakeClock)
        admin, proxy = await auth.admin(), await auth.host(SystemRole.PROXY)
        secret = await auth.person("ann")
        begun = await auth.backend.revision()
        given: list[Credentials] = []
        for _ in range(ROUNDS):
            auth.clock.advance(30)
            await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(_role()))))
            await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["access", RACED]))
            holder, _certs = await _signed(auth)
            given.append(holder)
            # four at a time: calls wait on threads, and so does signing, of which there are six
            outcomes = await asyncio.gather(
                _signed(auth),
                _login(auth, proxy, secret),
                _removed(auth),
                _renewed(auth, holder),
                return_exceptions=True,
            )
            strange = [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, TeleportError)]
            assert not strange
            assert outcomes[2] is None, "taking a role away does not fail because somebody logs in"
            given += [one[0] for one in outcomes if isinstance(one, tuple)]
            late = [await _signed(auth), (holder, await _renewed(auth, holder))]
            for _, certs in late:
                assert RACED not in decode_user(load_certificate(certs.tls_cert.encode()).subject).roles
        # the order in which the storage took things in explains all of it
        has, seen = True, 0
        for event in await _history(auth, begun):
            if not isinstance(event, Put):
                continue
            if event.key == ANN:
                user = from_json(event.item.value)
                assert isinstance(user, User)
                has = RACED in user.roles
            else:
                named = RACED in msgspec.json.decode(event.item.value, type=IssuedCert).roles
                seen += named
                assert has or not named, "issued with a role after it was taken"
        assert seen >= ROUNDS
        # and whatever was issued before gives nothing of the role any more
        for who in given:
            try:
                await auth.call(who, routes.LIST["user"], m.ListRequest())
            except AccessDenied:
                continue
            raise AssertionError("a certificate gives what a role gave that is gone")
