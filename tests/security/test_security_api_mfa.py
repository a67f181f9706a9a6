"""Calls to the auth API that reveal secrets or play recordings ask for a second factor as sessions do (T35)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.auth.test_auth_api import WHO_MAY, document
from tests.auth.test_auth_session_mfa import Careful, careful, otp, registered
from tests.security.test_security_recordings import _read, _recorded

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import SyncAuthClient, direct
from teleport.client.keystore import Credentials as Held
from teleport.client.session_mfa import ask_when_due
from teleport.errors import CALL_FACTOR_DUE, AccessDenied
from teleport.pki.secret import Secret
from teleport.pki.x509cert import auth_server_name
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec, Rule
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, TokenRole
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

# events of what reveals a secret, or what somebody did in a session
REVEALING = {
    "secret.revealed", "session_recording.access", "reset_password_token.create", "token.create", "auth.sign",
}  # fmt: skip
USERS = {"user", "editor", "auditor"}
# What no user may see, whatever the roles.
NOT_FOR_USERS = {
    "list_user": "secrets of users are the administrator's",
    "get_user": "secrets of users are the administrator's",
    "list_cert_authority": "private keys are the administrator's",
    "get_cert_authority": "private keys are the administrator's",
}
Call = Callable[[RunningAuth, Credentials, str], Awaitable[Any]]
ROWS: dict[str, Call] = {
    "add_user": lambda auth, who, _: auth.call(who, routes.ADD_USER, m.AddUserRequest(name="new", roles=["access"])),
    "reset_user": lambda auth, who, _: auth.call(who, routes.RESET_USER, m.ResetUserRequest(name="other")),
    "add_token": lambda auth, who, _: auth.call(who, routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"])),
    "store_token": lambda auth, who, _: auth.call(who, routes.STORE["token"], m.StoreRequest(item=_token(auth))),
    "read_recording": lambda auth, who, sid: _read(auth, who, sid),
}


def _token(auth: RunningAuth) -> m.Document:
    """A join token with a secret of one's own."""
    end = auth.clock.now() + timedelta(hours=1)
    return document(Token.from_secret(SecretText(uuid.uuid4().hex), (TokenRole.NODE,), end))


def test_every_call_that_reveals_something_to_users_has_a_row() -> None:
    revealing = {
        name
        for name, route in routes.ROUTES.items()
        if REVEALING & set(route.events) and USERS & set(WHO_MAY[name].split())
    }
    assert revealing == set(ROWS) | set(NOT_FOR_USERS)


def clerk() -> Role:
    """Somebody who may do all of it, and is asked for a second factor."""
    rule = Rule(resources=("*",), verbs=("*",))
    return Role(
        metadata=Metadata(name="clerk"),
        spec=RoleSpec(
            options=Options(require_session_mfa=True),
            allow=Conditions(logins=("root",), node_labels={"*": ("*",)}, rules=(rule,)),
        ),
    )


async def _clerk(auth: RunningAuth) -> tuple[Careful, str]:
    await auth.person("other")
    return await careful(auth, "clara", clerk()), await _recorded(auth, "other")


def _clock() -> FakeClock:
    return FakeClock(datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=75))


@pytest.mark.parametrize("route", ROWS)
async def test_a_call_is_closed_without_the_factor_and_open_with_it(tmp_path: Path, route: str) -> None:
    async with running_auth(tmp_path, clock=_clock()) as auth:
        clara, sid = await _clerk(auth)
        call = ROWS[route]
        with pytest.raises(AccessDenied, match=CALL_FACTOR_DUE):
            await call(auth, clara.who, sid)
        (denied,) = await auth.events("api.denied")
        assert denied["error"] == "role 'clerk' requires MFA for each session"
        assert denied["route"] == route
        marked = m.SessionCertRequest(factor=otp(clara.code()))
        certs = await auth.call(clara.who, routes.SESSION_CERT, marked)
        await call(auth, auth.keep(clara.key, certs.tls_cert), sid)


async def test_a_factor_for_a_session_does_not_open_the_api_and_who_has_no_right_is_not_asked(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=_clock()) as auth:
        clara, sid = await _clerk(auth)
        await registered(auth, "web-1")
        session = m.SessionCertRequest(host="web-1", login="root", factor=otp(clara.code()))
        certs = await auth.call(clara.who, routes.SESSION_CERT, session)
        marked = auth.keep(clara.key, certs.tls_cert)
        with pytest.raises(AccessDenied, match=CALL_FACTOR_DUE):
            await ROWS["read_recording"](auth, marked, sid)
        reader = Role(
            metadata=Metadata(name="reader"),
            spec=RoleSpec(options=Options(require_session_mfa=True), allow=Conditions(logins=("root",))),
        )
        await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=document(reader)))
        nobody = await careful(auth, "nora", reader)
        for call in (ROWS["add_user"], ROWS["add_token"]):
            with pytest.raises(AccessDenied) as refused:
                await call(auth, nobody.who, "")
            assert CALL_FACTOR_DUE not in str(refused.value)


async def test_a_client_asks_once_by_itself_and_goes_on(tmp_path: Path) -> None:
    """And neither asks twice nor in vain."""
    async with running_auth(tmp_path, clock=_clock()) as auth:
        clara, _ = await _clerk(auth)
        asked: list[bool] = []

        def ask(challenge: m.FactorChallenge) -> m.FactorResponse:
            asked.append(challenge.totp)
            return m.FactorResponse(challenge_id=challenge.id, totp_code=clara.code())

        def work() -> str:
            with auth.client(clara.who) as client:
                _with_prove(client, auth, clara, ask)
                client.call(routes.WHO_AM_I, m.Empty())
                assert asked == []
                first = client.call(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
                client.call(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
                return first.token

        def _with_prove(client: SyncAuthClient, auth: RunningAuth, who: Careful, ask: Any) -> None:
            assert who.who.cert is not None
            assert who.who.key is not None
            held = Held(
                who.name, CLUSTER, who.who.cert, who.who.key, Secret(who.key.pkcs8_pem().reveal()), who.line,
                tuple(auth.tls_cas), (),
            )  # fmt: skip
            ask_when_due(client, held, lambda context: direct(*auth.address, context, auth_server_name(CLUSTER)), ask)

        assert await auth.in_thread(work)
        assert asked == [True]
