"""What each setting of second factors takes from whoever follows a link, and from `tsh mfa add`."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.store import records
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator

# setting: what sets a password behind a link (and which device comes of it); which types `tsh mfa add` takes
TABLE: dict[str, tuple[dict[str, list[str]], set[str]]] = {
    "off": ({"nothing": [], "code": []}, set()),
    "otp": ({"code": ["totp"]}, {"totp"}),
    "u2f": ({"key": ["webauthn"]}, {"webauthn"}),
    "webauthn": ({"key": ["webauthn"]}, {"webauthn"}),
    "on": ({"code": ["totp"], "key": ["webauthn"]}, {"totp", "webauthn"}),
    "optional": ({"nothing": [], "code": ["totp"], "key": ["webauthn"]}, {"totp", "webauthn"}),
}


async def follow(auth: RunningAuth, proxy: Credentials, name: str, given: str) -> list[str]:
    """Follows a new user's link with a password and what is `given`; the kinds of devices afterwards."""
    admin = await auth.admin()
    link = await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=["access"]))
    info = await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
    finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD)
    if given == "code":
        code = auth.code(info.totp_secret) if info.totp_secret else "123456"
        finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, otp_token=code)
    elif given == "key":
        new = await auth.call(proxy, routes.USER_TOKEN_CHALLENGE, m.UserTokenRequest(token=link.token))
        proof = m.NewFactorProof(id=new.id, webauthn=Authenticator().create(new.webauthn))
        finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, proof=proof, device_name="my key")
    await auth.call(proxy, routes.FINISH_USER_TOKEN, finish)
    found = await auth.service.state.record(records.USER_SECRETS + name, records.UserSecret)
    assert found is not None
    return [device.kind for device in found[0].devices]


@pytest.mark.parametrize("setting", TABLE)
async def test_what_each_setting_takes(tmp_path: Path, setting: str) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor(setting)
        proxy = await auth.host(SystemRole.PROXY)
        taken, types = TABLE[setting]
        for given in ("nothing", "code", "key"):
            if given in taken:
                assert await follow(auth, proxy, f"with-{given}", given) == taken[given]
            else:
                with pytest.raises((AccessDenied, BadRequest)):
                    await follow(auth, proxy, f"with-{given}", given)
        who = await auth.user("ann", ["access"])
        await auth.set_password("ann")
        for kind in ("totp", "webauthn"):
            begin = m.BeginFactorRequest(name=kind, type=kind, password=PASSWORD)
            if kind in types:
                new = await auth.call(who, routes.BEGIN_FACTOR, begin)
                assert bool(new.totp_secret) == (kind == "totp")
            else:
                with pytest.raises(BadRequest, match="do not count here"):
                    await auth.call(who, routes.BEGIN_FACTOR, begin)


async def test_a_key_of_one_link_does_not_open_another(tmp_path: Path) -> None:
    """A challenge belongs to its link; ten answers that are not right withdraw it, as wrong codes do."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("webauthn")
        proxy, admin = await auth.host(SystemRole.PROXY), await auth.admin()
        links = [
            await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=["access"]))
            for name in ("ann", "bob")
        ]
        new = await auth.call(proxy, routes.USER_TOKEN_CHALLENGE, m.UserTokenRequest(token=links[0].token))
        proof = m.NewFactorProof(id=new.id, webauthn=Authenticator().create(new.webauthn))

        def finish(token: str) -> m.FinishUserTokenRequest:
            return m.FinishUserTokenRequest(token=token, password=PASSWORD, proof=proof)

        for _ in range(10):
            with pytest.raises(AccessDenied, match="too late"):
                await auth.call(proxy, routes.FINISH_USER_TOKEN, finish(links[1].token))
        with pytest.raises(TeleportError, match="was used"):
            await auth.call(proxy, routes.FINISH_USER_TOKEN, finish(links[1].token))
        await auth.call(proxy, routes.FINISH_USER_TOKEN, finish(links[0].token))
