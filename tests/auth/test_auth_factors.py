"""Second factors over the API: what each setting asks, challenges that work once, devices that come and go (T36)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors import passwords
from teleport.auth.factors.checking import CHALLENGE_BURST, MAX_FAILURES
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki import webauthn
from teleport.pki.keys import generate_p256
from teleport.pki.webauthn import encode
from teleport.store import records
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator, Maker
from teleport.testing.counting import Calls

KEY = generate_p256().public.line()


@dataclass
class Ann:
    """A user with a certificate, an authenticator app and hardware keys."""

    auth: RunningAuth
    proxy: Credentials
    who: Credentials
    secret: str
    tried: int = 0  # logins

    async def challenge(self, user: str = "ann") -> m.FactorChallenge:
        asked: m.FactorChallenge = await self.auth.call(
            self.proxy, routes.LOGIN_CHALLENGE, m.LoginChallengeRequest(user=user)
        )
        return asked

    async def login(
        self, factor: m.FactorResponse | None = None, *, user: str = "ann", password: str = PASSWORD, code: str = ""
    ) -> m.UserCerts:
        request = m.LoginRequest(
            user=user, password=password, otp_token=code, factor=factor, public_key=KEY, ttl=0,
            client_addr="192.0.2.7:1", user_agent="a browser",
        )  # fmt: skip
        self.tried += 1
        certs: m.UserCerts = await self.auth.call(self.proxy, routes.LOGIN, request)
        return certs

    def code(self, secret: str = "") -> str:
        """A code of a new period."""
        self.auth.clock.advance(30)  # type: ignore[attr-defined]
        return self.auth.code(secret or self.secret)

    async def proof(self, key: Authenticator | None = None) -> m.FactorResponse:
        """What proves a device when others are added or removed."""
        if key is None:
            return m.FactorResponse(totp_code=self.code())
        return key.answer(await self.auth.call(self.who, routes.FACTOR_CHALLENGE, m.Empty()))

    async def begin(self, name: str, kind: str, proof: m.FactorResponse | None, password: str = "") -> m.NewFactor:
        request = m.BeginFactorRequest(name=name, type=kind, factor=proof, password=password)
        new: m.NewFactor = await self.auth.call(self.who, routes.BEGIN_FACTOR, request)
        return new

    async def add_key(
        self, name: str = "yubikey", key: Authenticator | None = None, proof: m.FactorResponse | None = None
    ) -> Authenticator:
        key = key or Authenticator()
        new = await self.begin(name, "webauthn", proof or await self.proof())
        assert new.webauthn is not None
        made = m.NewFactorProof(id=new.id, webauthn=key.create(new.webauthn))
        await self.auth.call(self.who, routes.FINISH_FACTOR, made)
        return key

    async def add_app(self, name: str, proof: m.FactorResponse | None = None) -> str:
        new = await self.begin(name, "totp", proof or await self.proof())
        made = m.NewFactorProof(id=new.id, totp_code=self.auth.code(new.totp_secret))
        await self.auth.call(self.who, routes.FINISH_FACTOR, made)
        return new.totp_secret

    async def remove(self, name: str, proof: m.FactorResponse | None = None, password: str = "") -> None:
        request = m.RemoveFactorRequest(name=name, factor=proof, password=password)
        await self.auth.call(self.who, routes.REMOVE_FACTOR, request)

    async def names(self) -> list[str]:
        found: m.FactorDevices = await self.auth.call(self.who, routes.OWN_FACTORS, m.Empty())
        return [device.name for device in found.devices]

    async def reason(self) -> str:
        """Why the last login failed, as the audit log has it."""
        found = await self.auth.events("user.login", wait_for=self.tried)
        return str(max(found, key=lambda event: event["seq"])["error"])


async def ann_in(auth: RunningAuth, name: str = "ann") -> Ann:
    secret = await auth.person(name)
    return Ann(auth, await auth.host(SystemRole.PROXY), await auth.user(name, []), secret)


async def refused(work: Any) -> tuple[str, str, str]:
    with pytest.raises(TeleportError) as caught:
        await work
    return caught.value.code, caught.value.message, caught.value.hint


# devices


async def test_a_user_has_several_devices_and_each_logs_in(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        second = await ann.add_app("phone")
        key = await ann.add_key("yubikey")
        other = await ann.add_key("spare", proof=await ann.proof(key))
        assert await ann.names() == ["otp", "phone", "yubikey", "spare"]
        await ann.login(code=ann.code())
        await ann.login(code=ann.code(second))
        await ann.login(key.answer(await ann.challenge()))
        await ann.login(other.answer(await ann.challenge()))
        logins = await auth.events("user.login", wait_for=4)
        used = [event["mfa_device"] for event in logins]
        # events of the same time, as all are by this clock, have no order
        assert sorted((one["mfa_device_name"], one["mfa_device_type"]) for one in used) == [
            ("otp", "totp"), ("phone", "totp"), ("spare", "webauthn"), ("yubikey", "webauthn"),
        ]  # fmt: skip
        added = await auth.events("mfa.add", wait_for=4)
        assert {event["mfa_device"]["mfa_device_uuid"] for event in added} == {one["mfa_device_uuid"] for one in used}
        assert {event["user"] for event in added} == {"ann"}
        assert {event["user_agent"] for event in logins} == {"a browser"}
        told = str(await auth.events())
        assert second not in told
        assert next(iter(key.keys)) not in told


async def test_adding_and_removing_need_a_device_and_no_stolen_certificate_does_it(tmp_path: Path) -> None:
    """T06, T36: whoever only holds the certificate changes nothing; wrong proofs count as failed logins do."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        login_answer = key.answer(await ann.challenge())
        wrong = {
            "nothing": None,
            "no code": m.FactorResponse(),
            "a wrong code": m.FactorResponse(totp_code="000000"),
            "a challenge of the login": login_answer,
        }
        auth.clock.advance(1900)  # type: ignore[attr-defined]  # so that no failure is remembered
        answers = {await refused(ann.begin("thief", "totp", proof)) for proof in wrong.values()}
        assert len(answers) == 1, answers
        assert (await refused(ann.remove("yubikey", m.FactorResponse(totp_code="000000"))))[0] == "access_denied"
        assert await auth.events("user.locked")
        for proof in (await ann.proof(), await ann.proof(key)):
            with pytest.raises(AccessDenied):
                await ann.begin("thief", "totp", proof)
        assert await ann.names() == ["otp", "yubikey"]
        auth.clock.advance(1200)  # type: ignore[attr-defined]
        await ann.add_app("mine")


async def test_the_first_device_needs_the_password(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("optional")
        who = await auth.user("ann", ["access"])
        await auth.set_password("ann")
        ann = Ann(auth, await auth.host(SystemRole.PROXY), who, "")
        await ann.login()
        for password in ("", "not the password"):
            with pytest.raises(AccessDenied, match="password"):
                await ann.begin("app", "totp", None, password)
        new = await ann.begin("app", "totp", None, PASSWORD)
        await auth.call(who, routes.FINISH_FACTOR, m.NewFactorProof(id=new.id, totp_code=auth.code(new.totp_secret)))
        with pytest.raises(AccessDenied):
            await ann.begin("more", "totp", None, PASSWORD)
        with pytest.raises(AccessDenied):
            await ann.login()
        await ann.login(code=ann.code(new.totp_secret))


async def test_a_registration_is_finished_once_by_whoever_began_it_and_in_time(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        other = await auth.user("bob", ["access"])
        new = await ann.begin("phone", "totp", await ann.proof())
        good = m.NewFactorProof(id=new.id, totp_code=auth.code(new.totp_secret))
        with pytest.raises(AccessDenied):
            await auth.call(other, routes.FINISH_FACTOR, good)
        with pytest.raises(AccessDenied):
            await auth.call(ann.who, routes.FINISH_FACTOR, m.NewFactorProof(id=new.id, totp_code="000000"))
        both = await asyncio.gather(
            *(auth.call(ann.who, routes.FINISH_FACTOR, good) for _ in range(2)), return_exceptions=True
        )
        assert sorted(isinstance(one, m.Done) for one in both) == [False, True], both
        assert await ann.names() == ["otp", "phone"]
        late = await ann.begin("late", "webauthn", await ann.proof())
        assert late.webauthn is not None
        auth.clock.advance(301)  # type: ignore[attr-defined]
        made = Authenticator().create(late.webauthn)
        with pytest.raises(AccessDenied, match="over"):
            await auth.call(ann.who, routes.FINISH_FACTOR, m.NewFactorProof(id=late.id, webauthn=made))


async def test_a_locked_user_costs_no_hash_and_nobody_costs_many_challenges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate alone must not keep auth busy: hashes wait for one another, and each challenge is a write."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("optional")
        who = await auth.user("ann", ["access"])
        await auth.set_password("ann")
        ann = Ann(auth, await auth.host(SystemRole.PROXY), who, "")
        hashed: list[str] = []
        verify = passwords.verify_password

        def counted(stored: str, given: str) -> bool:
            hashed.append("one")
            return verify(stored, given)

        monkeypatch.setattr(passwords, "verify_password", counted)
        answers = {await refused(ann.begin("app", "totp", None, "not the password")) for _ in range(12)}
        assert (len(answers), len(hashed)) == (1, MAX_FAILURES)
        busy = await ann_in(auth, "bea")
        for _ in range(int(CHALLENGE_BURST)):
            await auth.call(busy.who, routes.FACTOR_CHALLENGE, m.Empty())
        with pytest.raises(LimitExceeded):
            await auth.call(busy.who, routes.FACTOR_CHALLENGE, m.Empty())
        auth.clock.advance(1)  # type: ignore[attr-defined]
        await auth.call(busy.who, routes.FACTOR_CHALLENGE, m.Empty())


@pytest.mark.parametrize("what", ["the device that was proved is removed", "the user is reset"])
async def test_a_registration_does_not_outlive_what_was_proved_for_it(tmp_path: Path, what: str) -> None:
    """Whoever stole a device and began another one with it keeps nothing when the device is taken away."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key("yubikey")
        stolen = await ann.begin("thief", "totp", await ann.proof(key))
        meanwhile = await ann.begin("phone", "totp", await ann.proof())
        if what == "the user is reset":
            admin = await auth.admin()
            link = await auth.call(admin, routes.RESET_USER, m.ResetUserRequest(name="ann", ttl=3600))
            info = await auth.call(ann.proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
            finish = m.FinishUserTokenRequest(
                token=link.token, password="a password of her own", otp_token=auth.code(info.totp_secret)
            )
            await auth.call(ann.proxy, routes.FINISH_USER_TOKEN, finish)
        else:
            await ann.remove("yubikey", await ann.proof())
            # what another device was proved for, which is still hers, goes on
            made = m.NewFactorProof(id=meanwhile.id, totp_code=auth.code(meanwhile.totp_secret))
            await auth.call(ann.who, routes.FINISH_FACTOR, made)
        made = m.NewFactorProof(id=stolen.id, totp_code=auth.code(stolen.totp_secret))
        with pytest.raises(AccessDenied, match="over"):
            await auth.call(ann.who, routes.FINISH_FACTOR, made)
        assert "thief" not in await ann.names()


async def test_names_types_and_numbers_of_devices_are_checked(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("otp")
        ann = await ann_in(auth)
        for name in ("", " ", "x" * 65, "a\nb", "\x1b[31m"):
            with pytest.raises(BadRequest):
                await ann.begin(name, "totp", await ann.proof())
        with pytest.raises(BadRequest, match="second_factor is otp"):
            await ann.begin("key", "webauthn", await ann.proof())
        with pytest.raises(AlreadyExists):
            await ann.begin("otp", "totp", await ann.proof())
        with pytest.raises(NotFound):
            await ann.remove("none", await ann.proof())


async def test_a_key_is_registered_once_and_for_one_person(tmp_path: Path) -> None:
    """User handle swap (T36): a key that was made for one user proves no other."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        with pytest.raises(ValueError, match="registered already"):
            await ann.add_key("again", key)
        state = auth.service.state
        found = await state.record(records.USER_SECRETS + "ann", records.UserSecret)
        assert found is not None
        swapped = msgspec.structs.replace(found[0], user_handle=encode(b"o" * 32))
        await state.commit([PutOp(records.USER_SECRETS + "ann", swapped.encode())], events=[])
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(await ann.challenge()))
        assert await ann.reason() == "the hardware key names another user"


@pytest.mark.parametrize(("setting", "refuses"), [("on", True), ("otp", True), ("optional", False), ("off", False)])
async def test_the_last_device_stays_where_one_is_demanded(tmp_path: Path, setting: str, refuses: bool) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        ann = await ann_in(auth)
        await auth.set_second_factor(setting)
        proof, password = (None, PASSWORD) if setting == "off" else (await ann.proof(), "")
        if refuses:
            with pytest.raises(BadRequest, match="last device"):
                await ann.remove("otp", proof)
            assert await ann.names() == ["otp"]
            await auth.set_second_factor("on")
            await ann.add_key()
            if setting == "otp":
                await auth.set_second_factor("otp")
                with pytest.raises(BadRequest, match="last device"):
                    await ann.remove("otp", await ann.proof())  # the key does not count here
            else:
                await ann.remove("otp", await ann.proof())
                assert await ann.names() == ["yubikey"]
        else:
            await ann.remove("otp", proof, password)
            assert await ann.names() == []
            (event,) = await auth.events("mfa.delete")
            assert (event["code"], event["user"], event["mfa_device"]["mfa_device_name"]) == ("T1007I", "ann", "otp")
            await ann.login()


async def test_keys_of_other_makers_are_not_registered(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        maker = Maker()
        await auth.set_second_factor("on", attestation_allowed_cas=(maker.pem,))
        ann = await ann_in(auth)
        with pytest.raises(AccessDenied, match="hardware key"):
            await ann.add_key("cheap", Authenticator())
        key = await ann.add_key("good", Authenticator(maker=maker))
        await ann.login(key.answer(await ann.challenge()))


async def test_a_reset_forgets_every_device(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        answer = key.answer(await ann.challenge())
        link = await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="ann"))
        assert await ann.names() == []
        with pytest.raises(AccessDenied):
            await ann.login(answer)
        info = await auth.call(ann.proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        finish = m.FinishUserTokenRequest(token=link.token, password=PASSWORD, otp_token=auth.code(info.totp_secret))
        await auth.call(ann.proxy, routes.FINISH_USER_TOKEN, finish)
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(msgspec.structs.replace(await ann.challenge(), webauthn=_asked(key))))
        await ann.login(code=ann.code(info.totp_secret))


async def test_of_resets_at_the_same_moment_one_link_is_left(tmp_path: Path) -> None:
    """Whoever resets ends every link and lease from before, also one that is just being made."""
    async with running_auth(tmp_path, sqlite=True, clock=present_clock()) as auth:
        await auth.person("ann")
        admin = await auth.admin()
        await asyncio.gather(*(auth.call(admin, routes.RESET_USER, m.ResetUserRequest(name="ann")) for _ in range(6)))
        assert len(await auth.backend.range(records.USER_TOKENS)) == 1


def _asked(key: Authenticator) -> m.WebauthnChallenge:
    return m.WebauthnChallenge(challenge=encode(b"c" * 32), rp_id="localhost", credentials=list(key.keys))


# what each setting asks at a login

Answer = Callable[[Ann, Authenticator | None], Any]
# setting: which of nothing, a code, a key's answer lets in a user who has nothing, an app, a key, both
LETS_IN = {
    "off": {"": "nothing code key", "app": "nothing code key", "key": "nothing code key", "both": "nothing code key"},
    "otp": {"": "", "app": "code", "key": "", "both": "code"},
    "u2f": {"": "", "app": "", "key": "key", "both": "key"},
    "webauthn": {"": "", "app": "", "key": "key", "both": "key"},
    "on": {"": "", "app": "code", "key": "key", "both": "code key"},
    "optional": {"": "nothing code key", "app": "code", "key": "key", "both": "code key"},
}


@pytest.mark.parametrize("held", ["", "app", "key", "both"], ids=["nothing", "app", "key", "both"])
async def test_what_each_setting_lets_in(tmp_path: Path, held: str) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        stranger = Authenticator()
        if held == "":
            await auth.set_password("ann")
        elif held == "key":
            await ann.remove("otp", await ann.proof())
        elif held == "app":
            await ann.remove("yubikey", await ann.proof())
        for setting, table in LETS_IN.items():
            await auth.set_second_factor(setting)
            found = []
            for kind in ("nothing", "code", "key"):
                auth.clock.advance(1900)  # type: ignore[attr-defined]  # failures are forgotten
                answer = m.FactorResponse()
                if kind == "code":
                    answer = m.FactorResponse(totp_code=auth.code(ann.secret))
                elif kind == "key":
                    asked = await ann.challenge()
                    usable = held in ("key", "both") and asked.webauthn is not None
                    answer = m.FactorResponse(
                        challenge_id=asked.id,
                        webauthn=(key if usable else _lent(stranger)).sign(asked.webauthn or _asked(key)),
                    )
                try:
                    await ann.login(answer)
                    found.append(kind)
                except AccessDenied:
                    pass
            assert " ".join(found) == table[held], setting


def _lent(key: Authenticator) -> Authenticator:
    """A key that has a credential of its own and answers whatever is asked with it."""

    class Eager(Authenticator):
        def sign(self, asked: m.WebauthnChallenge, **_: Any) -> m.WebauthnAssertion:
            return Authenticator.sign(self, msgspec.structs.replace(asked, credentials=[]))

    lent = Eager(keys=key.keys)
    if not key.keys:
        made = m.WebauthnCreation(
            challenge=encode(b"c" * 32),
            rp_id="localhost",
            rp_name="",
            user_id="",
            user_name="",
            algorithms=[-7],
            exclude=[],
        )
        lent.create(made)
    return lent


# challenges


async def test_a_challenge_is_answered_once_in_time_and_by_its_user(tmp_path: Path) -> None:
    """T36: replay, parallel use, another user's, too late, of another purpose; each is a failure on record."""
    async with running_auth(tmp_path, clock=present_clock(), sqlite=True) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        await auth.person("bob")
        answer = key.answer(await ann.challenge())
        both = await asyncio.gather(*(ann.login(answer) for _ in range(2)), return_exceptions=True)
        assert sorted(isinstance(one, m.UserCerts) for one in both) == [False, True], both
        await ann.reason()  # both are on record before the next one
        used = "the challenge is too old, was used before, or was made for something else"
        with pytest.raises(AccessDenied):
            await ann.login(answer)
        assert await ann.reason() == used

        bobs = key.answer(msgspec.structs.replace(await ann.challenge("bob"), webauthn=_asked(key)))
        with pytest.raises(AccessDenied):
            await ann.login(bobs)
        assert await ann.reason() == used
        await ann.login(key.answer(await ann.challenge()))

        with pytest.raises(AccessDenied):
            await ann.login(key.answer(await auth.call(ann.who, routes.FACTOR_CHALLENGE, m.Empty())))
        assert await ann.reason() == used

        late = await ann.challenge()
        assert late.expires - auth.clock.now() == timedelta(minutes=5)
        auth.clock.advance(300)  # type: ignore[attr-defined]
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(late))
        assert await ann.reason() == used

        wrong = await ann.challenge()
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(wrong), password="not the password")
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(wrong))
        assert await ann.reason() == used, "a failed login uses it up, too"


async def test_origin_domain_and_counter_are_checked_at_the_login(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        copy = key.copied()
        await ann.login(key.answer(await ann.challenge()))
        for knobs, reason in (
            ({"origin": "https://evil.example"}, "origin"),
            ({"origin": "https://app.localhost"}, "origin"),
            ({"touched": False}, "User Present"),
        ):
            for name, value in knobs.items():
                setattr(key, name, value)
            with pytest.raises(AccessDenied):
                await ann.login(key.answer(await ann.challenge()))
            assert reason in await ann.reason()
            key.origin, key.touched = "https://localhost:3080", True
        with pytest.raises(AccessDenied):
            await ann.login(copy.answer(await ann.challenge()))
        assert "copied" in await ann.reason()
        asked = await ann.challenge()
        assert asked.webauthn is not None
        elsewhere = msgspec.structs.replace(asked.webauthn, rp_id="evil.example")
        auth.clock.advance(1900)  # type: ignore[attr-defined]
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(msgspec.structs.replace(asked, webauthn=elsewhere)))
        await auth.set_second_factor("on", rp_id="LocalHost")
        asked = await ann.challenge()
        assert asked.webauthn is not None
        assert asked.webauthn.rp_id == "localhost"
        await auth.set_second_factor("on", rp_id="another.example")
        asked = await ann.challenge()
        assert asked.webauthn is not None
        assert asked.webauthn.credentials != list(key.keys), "a key of another domain is not asked for"


class Announced:
    """What proxies announce."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def web_addresses(self) -> tuple[str, ...]:
        return self.addresses


async def test_the_domain_of_the_first_key_stays_whatever_proxies_announce(tmp_path: Path) -> None:
    """Otherwise a proxy that comes, goes, or lies would make every registered key useless."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on", rp_id="")
        ann = await ann_in(auth)
        asked = []
        for addresses in (["a.example:443"], ["localhost:3080"]):
            auth.service.factors._sites = Announced(*addresses)  # type: ignore[assignment]
            asked.append((await ann.challenge()).webauthn)
        assert [one.rp_id for one in asked if one is not None] == ["a.example", "localhost"], "nobody has a key yet"
        key = await ann.add_key()
        for addresses in (["a.example:443", "localhost:3080"], ["b.example:443"], []):
            auth.service.factors._sites = Announced(*addresses)  # type: ignore[assignment]
            now = await ann.challenge()
            assert now.webauthn is not None
            assert now.webauthn.rp_id == "localhost"
            assert now.webauthn.credentials == list(key.keys)
        await auth.set_second_factor("on", rp_id="b.example")
        chosen = (await ann.challenge()).webauthn
        assert chosen is not None
        assert chosen.rp_id == "b.example", "a setting wins"


async def test_challenges_tell_nothing_about_users(tmp_path: Path) -> None:
    """T22: somebody who does not exist, has no key or never logged in gets what anybody gets, and the same again."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        ann = await ann_in(auth)
        await auth.user("new", ["access"])
        for setting in ("off", "otp", "webauthn", "on", "optional"):
            await auth.set_second_factor(setting)
            shapes = set()
            for user in ("ann", "new", "nobody", "../users/ann", "", "x" * 300):
                first, again = await ann.challenge(user), await ann.challenge(user)
                assert first.id != again.id
                assert (first.webauthn is None) == (setting in ("off", "otp"))
                if first.webauthn is not None and again.webauthn is not None:
                    assert first.webauthn.credentials == again.webauthn.credentials
                    assert first.webauthn.challenge != again.webauthn.challenge
                    assert len(first.webauthn.credentials) == 1
                shapes.add((first.totp, first.webauthn and first.webauthn.rp_id))
            assert len(shapes) == 1
        made = {(await ann.challenge(f"nobody-{number}")).webauthn.credentials[0] for number in range(20)}  # type: ignore[union-attr]
        assert len(made) == 20
        assert len({len(one) for one in made}) > 1, "of different lengths, as real ones are"


async def test_every_challenge_and_every_wrong_key_costs_the_same_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T22: records read, transactions written and signatures checked, whoever is asked about."""
    done = Calls(monkeypatch)
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        await ann.add_key()
        await auth.person("codeless")
        stranger = _lent(Authenticator())
        await ann.challenge("nobody")  # makes the secret of invented credentials
        for owner, name in ((auth.service.state, "record"), (auth.service.state, "commit"), (webauthn, "_checked")):
            done.count(owner, name)
        asking, failing = {}, {}
        for user in ("ann", "codeless", "nobody", "../users/ann"):
            done.clear()
            asked = await ann.challenge(user)
            asking[user] = dict(done)
            done.clear()
            with pytest.raises(AccessDenied):
                await ann.login(stranger.answer(asked), user=user, password="wrong password")
            failing[user] = dict(done)
        assert len({str(sorted(one.items())) for one in asking.values()}) == 1, asking
        assert len({str(sorted(one.items())) for one in failing.values()}) == 1, failing
        assert failing["nobody"]["_checked"] == 1, "a signature is checked for nobody, too"


async def test_every_wrong_factor_reads_like_every_failed_login(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        stranger = _lent(Authenticator())
        answers = set()
        for user in ("ann", "nobody"):
            for password in (PASSWORD, "wrong password"):
                auth.clock.advance(1900)  # type: ignore[attr-defined]
                asked = await ann.challenge(user)
                answers |= {
                    await refused(ann.login(stranger.answer(asked), user=user, password=password)),
                    await refused(
                        ann.login(key.answer(msgspec.structs.replace(asked, webauthn=_asked(key))), user=user)
                    ),
                    await refused(ann.login(user=user, password=password, code="000000")),
                    await refused(ann.login(user=user, password=password)),
                }
        assert len(answers) == 1, answers


async def test_wrong_hardware_keys_lock_as_wrong_codes_do(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("webauthn")
        ann = await _with_key_only(auth)
        stranger = _lent(Authenticator())
        for _ in range(5):
            with pytest.raises(AccessDenied):
                await ann.login(stranger.answer(await ann.challenge()))
        assert (await auth.events("user.locked"))[0]["user"] == "ann"


async def _with_key_only(auth: RunningAuth) -> Ann:
    await auth.set_second_factor("on")
    ann = await ann_in(auth)
    await ann.add_key()
    await auth.set_second_factor("webauthn")
    return ann


async def test_a_locked_device_logs_nobody_in_and_others_do(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        key = await ann.add_key()
        device = next(
            one for one in await auth.events("mfa.add", wait_for=2) if one["mfa_device"]["mfa_device_name"] == "yubikey"
        )
        lock = {
            "kind": "lock", "version": "v2", "metadata": {"name": "lost"},
            "spec": {"target": {"mfa_device": device["mfa_device"]["mfa_device_uuid"]}},
        }  # fmt: skip
        item = m.Document(msgspec.json.encode(lock))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=item))
        with pytest.raises(AccessDenied):
            await ann.login(key.answer(await ann.challenge()))
        assert "lock lost" in await ann.reason()
        with pytest.raises(AccessDenied):
            await ann.remove("otp", await ann.proof(key))
        await ann.login(code=ann.code())


async def test_devices_that_answer_at_the_same_moment_do_not_spoil_one_another(tmp_path: Path) -> None:
    """Two challenges are two; one answer twice is one."""
    async with running_auth(tmp_path, clock=present_clock(), sqlite=True) as auth:
        await auth.set_second_factor("on")
        ann = await ann_in(auth)
        keys = [await ann.add_key("a"), await ann.add_key("b"), await ann.add_key("c")]
        factors = auth.service.factors
        answers = [key.answer(await factors.challenge("ann", "a session")) for key in keys]
        done = await asyncio.gather(*(factors.prove("ann", answer, "a session") for answer in answers))
        assert sorted(device.name for device in done) == ["a", "b", "c"]
        again = keys[0].answer(await factors.challenge("ann", "a session"))
        both = await asyncio.gather(
            *(factors.prove("ann", again, "a session") for _ in range(2)), return_exceptions=True
        )
        assert sorted(isinstance(one, AccessDenied) for one in both) == [False, True], both
        other = keys[0].answer(await factors.challenge("ann", "another session"))
        with pytest.raises(AccessDenied):
            await factors.prove("ann", other, "a session")


# what is stored


async def test_the_one_secret_of_before_is_a_device(tmp_path: Path) -> None:
    """A record as earlier versions wrote it: its app logs in, with the id that it keeps, and is written as a device."""
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        ann = await ann_in(auth)
        state, key = auth.service.state, records.USER_SECRETS + "ann"
        found = await state.record(key, records.UserSecret)
        assert found is not None
        old = {"password_hash": found[0].password_hash, "totp_secret": ann.secret, "totp_last_period": 7}
        await state.commit([PutOp(key, msgspec.json.encode(old))], events=[])
        before = await auth.call(ann.who, routes.OWN_FACTORS, m.Empty())
        await ann.login(code=ann.code())
        after = await auth.call(ann.who, routes.OWN_FACTORS, m.Empty())
        assert [(one.name, one.type, one.id) for one in after.devices] == [("otp", "totp", before.devices[0].id)]
        item = await auth.backend.get(key)
        assert item is not None
        written = msgspec.json.decode(item.value)
        assert written["totp_secret"] == ""
        assert written["devices"][0]["totp_secret"] == ann.secret


async def test_devices_travel_in_documents_with_secrets_and_come_back(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        ann, admin = await ann_in(auth), await auth.admin()
        key = await ann.add_key()
        shown = await auth.call(admin, routes.GET["user"], m.GetRequest(name="ann", with_secrets=True))
        plain = await auth.call(admin, routes.GET["user"], m.GetRequest(name="ann"))
        assert ann.secret.encode() in bytes(shown.item)
        assert b"mfa" not in bytes(plain.item)
        await auth.set_password("ann", "another one, for now")
        await auth.call(admin, routes.STORE["user"], m.StoreRequest(item=shown.item, force=True))
        await ann.login(key.answer(await ann.challenge()))
        await ann.login(code=ann.code())
        assert await ann.names() == ["otp", "yubikey"]
