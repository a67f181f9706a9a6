"""Web terminals where more than a session's cookie counts: second factors (threat T35) and other people's sessions."""

from __future__ import annotations

from pathlib import Path

from tests.web.session_rig import Person
from tests.web.terminal_rig import ME, Page, Place, place

from teleport.api import messages as m
from teleport.api import routes
from teleport.launcher import LauncherEnd
from teleport.resources.codec import to_json
from teleport.resources.joining import JoinMode, JoinPolicy
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.testing.running import wait_until
from teleport.wire.web_terminal import End, Kind

STRICT = Role(
    metadata=Metadata(name="strict"),
    spec=RoleSpec(allow=Conditions(logins=(ME,), node_labels={"*": ("*",)}), options=Options(require_session_mfa=True)),
)
WATCH = Role(
    metadata=Metadata(name="watch"),
    spec=RoleSpec(
        allow=Conditions(join_sessions=(JoinPolicy(roles=("*",), kinds=("ssh",), modes=(JoinMode.OBSERVER,)),))
    ),
)


async def somebody(those: Place, name: str, *roles: Role) -> Person:
    for role in roles:
        request = m.StoreRequest(item=m.Document(to_json(role)))
        await those.auth.call(await those.auth.admin(), routes.STORE["role"], request)
    names = [role.metadata.name for role in roles]
    if STRICT not in roles:
        names.append("access")
    return Person(those.auth, name, await those.auth.person(name, names, logins=(ME,)))


async def test_a_second_factor_is_asked_in_the_page(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Also of whoever comes back or joins; a wrong code is asked for anew, and the third one ends it."""
    async with place(tmp_path, launcher_end) as those:
        eve = await somebody(those, "eve", STRICT)
        window = await eve.browser(those.web)
        async with Page.opened(window) as page:
            asked = await page.hears(Kind.FACTOR)
            assert (asked["totp_challenge"], asked["webauthn_challenge"], asked["error"]) == (True, None, "")
            wrong = {"challenge_id": asked["challenge_id"], "second_factor_token": "000000"}
            await page.say(Kind.FACTOR, wrong)
            again = await page.hears(Kind.FACTOR, 2)
            assert again["error"]
            code = eve.code()
            await page.say(Kind.FACTOR, {"challenge_id": again["challenge_id"], "second_factor_token": code})
            started = await page.hears(Kind.STARTED)
            await page.type("stty -echo; echo re''ady\n")
            await page.sees("ready")
        (start,) = await those.events.wait_for("session.start")
        assert start.with_mfa  # type: ignore[attr-defined]
        for back in ({"resume": started["resume"]}, {"sid": started["sid"]}):
            async with Page.opened(window, **back) as page:
                asked = await page.hears(Kind.FACTOR)
                assert b"ready" not in page.shown
                code = eve.code()
                await page.say(Kind.FACTOR, {"challenge_id": asked["challenge_id"], "second_factor_token": code})
                await page.hears(Kind.STARTED)
                await page.sees("ready")
        async with Page.opened(window) as page:
            for number in range(1, 4):
                asked = await page.hears(Kind.FACTOR, number)
                answer = {"challenge_id": asked["challenge_id"], "second_factor_token": "" if number == 2 else "000000"}
                await page.say(Kind.FACTOR, answer)
            assert (await page.hears(Kind.ERROR))["code"] == "mfa"
            assert await page.ends() == End.DONE
        assert len(those.events.named("session.start")) == 1


async def test_input_before_a_second_factor_was_given_is_out_of_turn(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    async with place(tmp_path, launcher_end) as those:
        eve = await somebody(those, "eve", STRICT)
        window = await eve.browser(those.web)
        async with Page.opened(window) as page:
            await page.hears(Kind.FACTOR)
            await page.type("id\n")
            assert await page.ends() == End.BAD
        assert not those.events.named("session.start")


async def test_somebody_watches_a_session_that_runs(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """As roles allow, in that mode: what an observer types goes nowhere, and somebody without such a role learns of no
    session. The observer comes back, too, and leaves the session as it is."""
    async with place(tmp_path, launcher_end) as those:
        bob, carol = await somebody(those, "bob", WATCH), await somebody(those, "carol")
        window, watching, outside = [await one.browser(those.web) for one in (those.ann, bob, carol)]
        async with Page.opened(window) as page:
            sid = (await page.hears(Kind.STARTED))["sid"]
            await page.type("stty -echo; echo be''fore\n")
            await page.sees("before")
            async with Page.opened(outside, sid=sid) as other:
                assert (await other.hears(Kind.ERROR))["code"] == "denied"
            async with Page.opened(watching, sid=sid, mode="peer") as other:
                told = await other.hears(Kind.ERROR)
                assert "as peer" in told["message"]
                assert told["hint"] == "join it as observer: tsh join --mode"
            async with Page.opened(watching, sid=sid, mode="observer") as other:
                seen = await other.hears(Kind.STARTED)
                assert (seen["sid"], seen["mode"], seen["lives_for"]) == (sid, "observer", 0)
                await other.sees("before")
                await other.type("echo ty''ped\n")
                await other.sees("is not passed on")
                await page.sees("bob has joined this session as observer.")
            async with Page.opened(watching, resume=seen["resume"]) as other:
                assert (await other.hears(Kind.STARTED))["mode"] == "observer"
                await other.sees("before")
                await page.type("echo af''ter\n")
                await other.sees("after")
                await other.say(Kind.QUIT, {})
                assert await other.ends() == End.DONE
            (session,) = those.node.tools.registry
            await wait_until(lambda: len(session.company.parties) == 1)
            await page.type("echo st''ill\n")
            await page.sees("still")
            assert b"typed" not in page.shown
