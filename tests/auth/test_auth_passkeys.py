"""Passkeys over the API: they alone log in, once for each challenge, where and for whom they were made (T36)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors.lockout import MAX_FAILURES
from teleport.auth.people import local_auth
from teleport.backend.interface import Backend, PutOp
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.webauthn import encode
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.user import User
from teleport.store import records
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator

KEY = generate_p256().public.line()
PLACE = "192.0.2.7"


def passkey(**how: Any) -> Authenticator:
    """A hardware key that has checked its owner."""
    return Authenticator(**{"verified": True, **how})


@dataclass
class Door:
    """A running auth, ann with a passkey, and the proxy that asks for browsers."""

    auth: RunningAuth
    proxy: Credentials
    ann: Credentials
    secret: str
    key: Authenticator = field(default_factory=passkey)
    tried: int = 0

    async def challenge(self) -> m.FactorChallenge:
        asked: m.FactorChallenge = await self.auth.call(self.proxy, routes.PASSKEY_CHALLENGE, m.Empty())
        return asked

    async def answer(self, key: Authenticator | None = None) -> m.FactorResponse:
        return (key or self.key).answer(await self.challenge())

    async def enter(self, answer: m.FactorResponse | None, *, place: str = PLACE, user: str = "") -> m.WebSession:
        request = m.BeginWebSessionRequest(
            user=user, password="", factor=answer, public_key=KEY, sealed_key="sealed", proof="p" * 43,
            client_addr=f"{place}:1", user_agent="a browser", passwordless=True,
        )  # fmt: skip
        self.tried += 1
        session: m.WebSession = await self.auth.call(self.proxy, routes.BEGIN_WEB_SESSION, request)
        return session

    async def refused(self, answer: m.FactorResponse | None, *, place: str = PLACE) -> str:
        """The reason that the audit log has; what is answered says nothing of it."""
        with pytest.raises(AccessDenied) as caught:
            await self.enter(answer, place=place)
        assert caught.value.message == "the user name, the password or the code is wrong"
        event = await self.last()
        assert (event["success"], event["method"], event["addr"]) == (False, "passwordless", f"{place}:1")
        return str(event["error"])

    async def last(self) -> dict[str, Any]:
        found = await self.auth.events("user.login", wait_for=self.tried)
        return max(found, key=lambda event: int(event["seq"]))

    def code(self) -> str:
        self.auth.clock.advance(30)  # type: ignore[attr-defined]
        return self.auth.code(self.secret)

    async def begin(self, name: str = "laptop", *, passwordless: bool = True, kind: str = "webauthn") -> m.NewFactor:
        request = m.BeginFactorRequest(
            name=name, type=kind, passwordless=passwordless, factor=m.FactorResponse(totp_code=self.code())
        )
        new: m.NewFactor = await self.auth.call(self.ann, routes.BEGIN_FACTOR, request)
        return new

    async def add(self, key: Authenticator, name: str = "laptop", *, passwordless: bool = True) -> m.WebauthnCreation:
        new = await self.begin(name, passwordless=passwordless)
        assert new.webauthn is not None
        made = m.NewFactorProof(id=new.id, webauthn=key.create(new.webauthn))
        await self.auth.call(self.ann, routes.FINISH_FACTOR, made)
        return new.webauthn

    async def remove(self, name: str = "laptop") -> None:
        request = m.RemoveFactorRequest(name=name, factor=m.FactorResponse(totp_code=self.code()))
        await self.auth.call(self.ann, routes.REMOVE_FACTOR, request)

    async def record(self, name: str = "ann") -> records.UserSecret:
        found = await self.auth.service.state.record(records.USER_SECRETS + name, records.UserSecret)
        assert found is not None
        return found[0]

    async def devices(self) -> m.FactorDevices:
        found: m.FactorDevices = await self.auth.call(self.ann, routes.OWN_FACTORS, m.Empty())
        return found

    async def lock(self, **target: str) -> None:
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(**target)))
        await self.auth.service.state.commit([PutOp(records.LOCKS + "stop", to_json(lock))], events=[])

    def turn(self, key: Authenticator, **how: Any) -> None:
        """What the key says of itself from now on."""
        for made, held in key.keys.items():
            key.keys[made] = replace(held, **how)


@asynccontextmanager
async def door(folder: Path, setting: str = "on", *, counts: bool = True) -> AsyncIterator[Door]:
    async with running_auth(folder, clock=present_clock()) as auth:
        await auth.set_second_factor(setting)
        secret = await auth.person("ann")
        here = Door(auth, await auth.host(SystemRole.PROXY), await auth.user("ann", []), secret, passkey(counts=counts))
        await here.add(here.key)
        yield here


# the way in


async def test_a_passkey_logs_in_without_a_name_and_a_password(tmp_path: Path) -> None:
    """The session is the user's, and says what was proved; the challenge names no credential."""
    async with door(tmp_path) as here:
        asked = await here.challenge()
        assert asked.webauthn is not None
        assert (asked.totp, asked.webauthn.credentials, asked.webauthn.user_verification) == (False, [], "required")
        session = await here.enter(here.key.answer(asked))
        assert (session.user, session.factor) == ("ann", "passkey")
        event = await here.last()
        assert (event["user"], event["success"], event["method"]) == ("ann", True, "passwordless")
        assert event["mfa_device"]["mfa_device_name"] == "laptop"
        assert await here.auth.events("cert.create", where=lambda event: event.get("factor") == "passkey")
        assert (await here.enter(await here.answer())).user == "ann"
        handle = (await here.record()).user_handle
        assert len(handle) == 43
        assert "ann" not in handle


async def test_a_passkey_that_does_not_count_logs_in(tmp_path: Path) -> None:
    """Those that are copied between machines say zero always."""
    async with door(tmp_path, counts=False) as here:
        for _ in range(2):
            assert (await here.enter(await here.answer())).user == "ann"


async def test_who_is_named_besides_does_not_matter(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        await here.auth.person("bob")
        assert (await here.enter(await here.answer(), user="bob")).user == "ann"


async def test_a_passkey_is_a_second_factor_as_well(tmp_path: Path) -> None:
    """Beside a password it answers as any hardware key; a login with it proves nothing for one session."""
    async with door(tmp_path) as here:
        asked = await here.auth.call(here.proxy, routes.LOGIN_CHALLENGE, m.LoginChallengeRequest(user="ann"))
        assert asked.webauthn.credentials == list(here.key.keys)
        certs = await here.auth.call(
            here.proxy,
            routes.LOGIN,
            m.LoginRequest(
                user="ann", password=PASSWORD, otp_token="", factor=here.key.answer(asked), public_key=KEY, ttl=0,
                client_addr=f"{PLACE}:1",
            ),
        )  # fmt: skip
        assert certs.username == "ann"
        session = await here.enter(await here.answer())
        assert session.certs is not None
        issued = await here.auth.events("cert.create", where=lambda event: event.get("factor") == "passkey")
        assert not issued[-1].get("mfa_target")


# what is refused: each reads the same, is told of, and counts as a failed login does

Case = Callable[[Door], Awaitable[m.FactorResponse | None]]
CASES: dict[str, tuple[Case, str]] = {}


def case(name: str, reason: str) -> Callable[[Case], Case]:
    def add(work: Case) -> Case:
        CASES[name] = (work, reason)
        return work

    return add


@case("a page of another origin", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    here.key.origin = "https://localhost.example.com"
    return await here.answer()


@case("a page below the domain that is no proxy", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    here.key.origin = "https://pages.localhost"
    return await here.answer()


@case("a page without TLS", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    here.key.origin = "http://localhost"
    return await here.answer()


@case("another domain", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.challenge()
    assert asked.webauthn is not None
    other = msgspec.structs.replace(asked.webauthn, rp_id="example.com")
    return m.FactorResponse(challenge_id=asked.id, webauthn=here.key.sign(other))


@case("no PIN and no fingerprint", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    here.key.verified = False
    return await here.answer()


@case("no touch", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    here.key.touched = False
    return await here.answer()


@case("a challenge that was answered", "used before")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.challenge()
    await here.enter(here.key.answer(asked))
    return here.key.answer(asked)


@case("a challenge that was answered wrongly", "used before")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.challenge()
    here.key.verified = False
    await here.refused(here.key.answer(asked))
    here.key.verified = True
    return here.key.answer(asked)


@case("a challenge that is too old", "too old")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    here.auth.clock.advance(300)  # type: ignore[attr-defined]
    return answer


@case("a challenge with a later end", "does not hold")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.challenge()
    answer = here.key.answer(asked)
    return msgspec.structs.replace(answer, challenge_id=("A" if asked.id[0] != "A" else "B") + asked.id[1:])


@case("a challenge of one's own making", "made for something else")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.challenge()
    assert asked.webauthn is not None
    made = encode(bytes(64))
    own = msgspec.structs.replace(asked.webauthn, challenge=made)
    return m.FactorResponse(challenge_id=made, webauthn=here.key.sign(own))


@case("the challenge of a second factor", "made for something else")
async def _(here: Door) -> m.FactorResponse:
    asked = await here.auth.call(here.proxy, routes.LOGIN_CHALLENGE, m.LoginChallengeRequest(user="ann"))
    answer = here.key.answer(asked)
    return msgspec.structs.replace(answer, challenge_id=asked.webauthn.challenge)


@case("the handle of another user", "not registered for the user")
async def _(here: Door) -> m.FactorResponse:
    await here.auth.person("bob")
    secret = await here.record("bob")
    secret = msgspec.structs.replace(secret, user_handle=encode(b"b" * 32))
    await here.auth.service.state.commit(
        [
            PutOp(records.USER_SECRETS + "bob", secret.encode()),
            PutOp(
                records.secret_key(records.PASSKEY_USERS, secret.user_handle), records.PasskeyUser(user="bob").encode()
            ),
        ],
        events=[],
    )
    here.turn(here.key, user_handle=secret.user_handle)
    return await here.answer()


@case("a handle that was ann's once", "names another user")
async def _(here: Door) -> m.FactorResponse:
    secret = msgspec.structs.replace(await here.record(), user_handle=encode(b"c" * 32))
    await here.auth.service.state.commit([PutOp(records.USER_SECRETS + "ann", secret.encode())], events=[])
    return await here.answer()


@case("the name as the handle", "no user with this passkey")
async def _(here: Door) -> m.FactorResponse:
    here.turn(here.key, user_handle=encode(b"ann"))
    return await here.answer()


@case("no handle", "no user with this passkey")
async def _(here: Door) -> m.FactorResponse:
    here.key.tells_handle = False
    return await here.answer()


@case("a device that was removed", "not registered for the user")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    await here.remove()
    return answer


@case("a user that was removed", "no user with this passkey")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    await here.auth.call(await here.auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="ann"))
    return answer


@case("a user that was reset", "no user with this passkey")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    await here.auth.call(await here.auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="ann"))
    return answer


@case("a locked user", "lock")
async def _(here: Door) -> m.FactorResponse:
    await here.lock(user="ann")
    return await here.answer()


@case("a locked role", "lock")
async def _(here: Door) -> m.FactorResponse:
    await here.lock(role="access")
    return await here.answer()


@case("a locked device", "lock")
async def _(here: Door) -> m.FactorResponse:
    (device,) = [one for one in (await here.record()).devices if one.passwordless]
    await here.lock(mfa_device=device.id)
    return await here.answer()


@case("a user whose time is over", "expired")
async def _(here: Door) -> m.FactorResponse:
    found = await here.auth.service.state.find(records.USERS, "ann", User)
    assert found is not None
    now = here.auth.clock.now()
    metadata = msgspec.structs.replace(found[0].metadata, expires=now - timedelta(seconds=1))
    user = msgspec.structs.replace(found[0], metadata=metadata)
    await here.auth.service.state.commit([PutOp(records.USERS + "ann", to_json(user))], events=[])
    return await here.answer()


@case("passkeys turned off meanwhile", "do not log in")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    await here.auth.set_second_factor("on", passwordless=False)
    return answer


@case("hardware keys turned off meanwhile", "do not log in")
async def _(here: Door) -> m.FactorResponse:
    answer = await here.answer()
    await here.auth.set_second_factor("otp")
    return answer


@case("an ordinary security key", "not registered for the user")
async def _(here: Door) -> m.FactorResponse:
    """Though it could check its owner: it was not registered so."""
    key = passkey()
    await here.add(key, "yubikey", passwordless=False)
    return await here.answer(key)


@case("a key that was copied", "may have been copied")
async def _(here: Door) -> m.FactorResponse:
    copy = here.key.copied()
    await here.enter(await here.answer())
    return await here.answer(copy)


@case("a code", "no passkey answered")
async def _(here: Door) -> m.FactorResponse:
    return m.FactorResponse(challenge_id=(await here.challenge()).id, totp_code=here.code())


@case("nothing", "no passkey answered")
async def _(here: Door) -> None:
    return None


@pytest.mark.parametrize("name", CASES)
async def test_what_is_refused(tmp_path: Path, name: str) -> None:
    async with door(tmp_path, counts="copied" in name) as here:
        work, reason = CASES[name]
        said = await here.refused(await work(here))
        if reason == "does not hold":
            assert any(part in said for part in ("does not hold", "challenge is too old")), said
        elif reason == "no passkey answered":
            assert said == "there is no user with this passkey"  # nobody is named
        else:
            assert reason in said


async def test_failures_lock_the_user_out_where_they_came_from(tmp_path: Path) -> None:
    """As those of a password: and then the right passkey is refused there, too, until that is over."""
    async with door(tmp_path) as here:
        here.key.verified = False
        for _ in range(MAX_FAILURES):
            await here.refused(await here.answer())
        assert [event["user"] for event in await here.auth.events("user.locked")] == ["ann"]
        here.key.verified = True
        assert "locked after too many failures" in await here.refused(await here.answer())
        here.auth.clock.advance(20 * 60 + 1)  # type: ignore[attr-defined]
        assert (await here.enter(await here.answer())).user == "ann"


async def test_one_answer_sent_twice_at_once_opens_one_session(tmp_path: Path) -> None:
    async with door(tmp_path, counts=False) as here:
        answer = await here.answer()
        done = await asyncio.gather(*(here.enter(answer) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in done].count(m.WebSession) == 1
        assert [type(one) for one in done].count(AccessDenied) == 2


async def kept(backend: Backend) -> list[str]:
    """What there is, but the events that are on their way to the log."""
    return [item.key for item in await backend.range("") if not item.key.startswith("audit/")]


async def test_what_strangers_ask_is_not_kept(tmp_path: Path) -> None:
    """A challenge costs no write and takes no place from others; one that was answered is kept until it is too old."""
    async with door(tmp_path) as here:
        backend = here.auth.backend
        await here.challenge()
        before = await kept(backend)
        asked = {(await here.challenge()).id for _ in range(50)}
        assert len(asked) == 50
        assert await kept(backend) == before
        await here.enter(await here.answer())
        assert len(await backend.range(records.PASSKEYS_ASKED)) == 1
        await here.refused(m.FactorResponse(challenge_id="never made", webauthn=(await here.answer()).webauthn))
        assert len(await backend.range(records.PASSKEYS_ASKED)) == 1
        here.auth.clock.advance(301)  # type: ignore[attr-defined]
        assert await backend.range(records.PASSKEYS_ASKED) == []


@pytest.mark.parametrize("setting", ["off", "otp", "passwordless off", "keys off"])
async def test_where_passkeys_do_not_log_in_nothing_is_asked(tmp_path: Path, setting: str) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        if setting == "passwordless off":
            await auth.set_second_factor("on", passwordless=False)
        elif setting == "keys off":
            await auth.set_second_factor("on", disabled=True)
        else:
            await auth.set_second_factor(setting)
        with pytest.raises(BadRequest, match="passkeys do not log in to this cluster"):
            await auth.call(await auth.host(SystemRole.PROXY), routes.PASSKEY_CHALLENGE, m.Empty())


# registering one


async def test_a_passkey_has_to_check_its_owner_when_it_is_registered(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        new = await here.begin("phone")
        assert new.webauthn is not None
        assert (new.webauthn.resident_key, new.webauthn.user_verification) == ("required", "required")
        made = m.NewFactorProof(id=new.id, webauthn=Authenticator().create(new.webauthn))
        with pytest.raises(AccessDenied, match="could not be registered"):
            await here.auth.call(here.ann, routes.FINISH_FACTOR, made)
        assert [one.name for one in (await here.devices()).devices if one.passwordless] == ["laptop"]


async def test_a_security_key_may_become_a_passkey_and_not_the_other_way(tmp_path: Path) -> None:
    """An authenticator that holds an ordinary key makes a passkey beside it; one that holds a passkey says so."""
    async with door(tmp_path) as here:
        key = passkey()
        asked = await here.add(key, "yubikey", passwordless=False)
        assert (asked.resident_key, asked.user_verification) == ("discouraged", "discouraged")
        asked = await here.add(key, "yubikey as passkey")
        assert asked.exclude == list(here.key.keys)
        new = await here.begin("again", passwordless=False)
        assert new.webauthn is not None
        assert set(new.webauthn.exclude) == {*here.key.keys, *key.keys}
        listed = {one.name: one.passwordless for one in (await here.devices()).devices}
        assert listed == {"otp": False, "laptop": True, "yubikey": False, "yubikey as passkey": True}


async def test_what_is_no_passkey_is_not_registered_as_one(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        with pytest.raises(BadRequest, match="only a hardware key is a passkey"):
            await here.begin("phone", kind="totp")
        new = await here.begin("phone")
        await here.auth.set_second_factor("on", passwordless=False)
        assert new.webauthn is not None
        proof = m.NewFactorProof(id=new.id, webauthn=passkey().create(new.webauthn))
        with pytest.raises(BadRequest, match="passkeys do not log in"):
            await here.auth.call(here.ann, routes.FINISH_FACTOR, proof)
        with pytest.raises(BadRequest, match="passkeys do not log in"):
            await here.begin("phone")
        assert (await here.devices()).passwordless is False


async def test_a_link_registers_a_passkey(tmp_path: Path) -> None:
    """Beside the password that it sets; the page knows whether it may."""
    async with door(tmp_path) as here:
        admin, proxy = await here.auth.admin(), here.proxy
        link = await here.auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="bob", roles=["access"]))
        info = await here.auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        assert info.passwordless
        asked = m.UserTokenChallengeRequest(token=link.token, passwordless=True)
        new = await here.auth.call(proxy, routes.USER_TOKEN_CHALLENGE, asked)
        key = passkey()
        proof = m.NewFactorProof(id=new.id, webauthn=key.create(new.webauthn))
        finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, proof=proof)
        await here.auth.call(proxy, routes.FINISH_USER_TOKEN, finish)
        assert [(one.name, one.passwordless) for one in (await here.record("bob")).devices] == [("passkey", True)]
        assert (await here.enter(await here.answer(key))).user == "bob"
        assert (await here.enter(await here.answer())).user == "ann"


async def test_a_link_registers_none_where_they_do_not_log_in(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        admin, proxy = await here.auth.admin(), here.proxy
        link = await here.auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="bob", roles=["access"]))
        asked = m.UserTokenChallengeRequest(token=link.token, passwordless=True)
        new = await here.auth.call(proxy, routes.USER_TOKEN_CHALLENGE, asked)
        await here.auth.set_second_factor("on", passwordless=False)
        proof = m.NewFactorProof(id=new.id, webauthn=passkey().create(new.webauthn))
        finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, proof=proof)
        for route, request in ((routes.FINISH_USER_TOKEN, finish), (routes.USER_TOKEN_CHALLENGE, asked)):
            with pytest.raises(BadRequest, match="passkeys do not log in"):
                await here.auth.call(proxy, route, request)
        assert not (await here.auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))).passwordless


# documents


async def test_a_document_brings_passkeys_along_and_takes_nobody_elses(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        admin, state = await here.auth.admin(), here.auth.service.state
        secret = await here.record()
        found = await state.find(records.USERS, "ann", User)
        assert found is not None
        local = local_auth.to_document(secret)
        assert local_auth.from_document(local).devices == secret.devices

        async def store(name: str) -> None:
            metadata = Metadata(name=name)
            spec = msgspec.structs.replace(found[0].spec, local_auth=local)
            user = to_json(msgspec.structs.replace(found[0], metadata=metadata, spec=spec), with_secrets=True)
            request = m.StoreRequest(item=m.Document(user), force=True, confirm=True)
            await here.auth.call(admin, routes.STORE["user"], request)

        with pytest.raises(TeleportError, match="known as those of 'ann'"):
            await store("bob")
        assert (await here.enter(await here.answer())).user == "ann"
        await here.auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        await store("bob")
        assert (await here.enter(await here.answer())).user == "bob"
