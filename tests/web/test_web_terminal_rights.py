"""Web terminals of whoever may not, or no longer: hosts that are hidden, roles and logins that are gone (threats T34,
T35, T47, T54)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.web.session_rig import Browser, Person, lock
from tests.web.terminal_rig import HOST, ME, Page, Place, place

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import SessionEnd, SessionJoin
from teleport.launcher import LauncherEnd
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec
from teleport.web import terminal_session
from teleport.wire.web_terminal import End, Kind

ELSEWHERE = Role(
    metadata=Metadata(name="elsewhere"),
    spec=RoleSpec(allow=Conditions(logins=(ME,), node_labels={"env": ("prod",)})),
)
HERE = Role(metadata=Metadata(name="here"), spec=RoleSpec(allow=Conditions(logins=(ME,), node_labels={"*": ("*",)})))
LESS = RoleSpec(allow=Conditions(logins=("daemon",), node_labels={"*": ("*",)}))


async def store(those: Place, role: Role) -> None:
    request = m.StoreRequest(item=m.Document(to_json(role)), force=True)
    await those.auth.call(await those.auth.admin(), routes.STORE["role"], request)


async def alone(those: Place, name: str, role: Role) -> Browser:
    """Somebody with this one role."""
    await store(those, role)
    secret = await those.auth.person(name, (role.metadata.name,), logins=(ME,))
    return await Person(those.auth, name, secret).browser(those.web)


async def refused(window: Browser, **asked: Any) -> dict[str, str]:
    """What the page of a terminal is told, that shows nothing."""
    async with Page.opened(window, **asked) as page:
        told: dict[str, str] = await page.hears(Kind.ERROR)
        assert await page.ends() == End.DONE
        assert not page.shown
        return told


async def test_a_host_that_is_hidden_reads_like_none(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T34: by its name, by its id, with a session of its own to join: one sentence, whatever there is."""
    async with place(tmp_path, launcher_end) as those:
        window = await alone(those, "hal", ELSEWHERE)
        nothing = await refused(window, host="nothing")
        assert (nothing["code"], bool(nothing["hint"])) == ("unreachable", True)
        async with Page.opened(await those.ann.browser(those.web)) as page:
            sid = (await page.hears(Kind.STARTED))["sid"]
            for there in (HOST, those.host_id):
                asked: dict[str, str]
                for asked in ({}, {"sid": sid}, {"sid": sid, "mode": "observer"}):
                    told = await refused(window, host=there, **asked)
                    assert {name: text.replace(there, "nothing") for name, text in told.items()} == nothing, asked


async def test_who_lost_the_login_does_not_come_back(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T35, T47: what counts is what roles say now, and nothing of the session is shown on the way; it ends at once."""
    async with place(tmp_path, launcher_end) as those:
        window = await alone(those, "ida", HERE)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            await page.type("echo se''cret\n")
            await page.sees("secret")
        await store(those, Role(metadata=HERE.metadata, spec=LESS))
        await those.events.wait_for("session.end")
        asked: dict[str, str]
        for asked in ({"sid": started["sid"]}, {}):
            assert (await refused(window, **asked))["code"] in ("denied", "unreachable"), asked
        async with Page.opened(window, resume=started["resume"]) as page:
            assert await page.ends() in (End.DONE, End.AGAIN)
            assert not page.shown
            assert Kind.STARTED not in [kind for kind, _ in page.told]
        assert len(those.events.named("session.start")) == 1


async def test_who_is_locked_or_logged_out_has_no_socket_to_come_back_by(
    tmp_path: Path, launcher_end: LauncherEnd
) -> None:
    """T54: with the very cookie, token and `resume` that were good a moment ago; in this window and in another one."""
    async with place(tmp_path, launcher_end) as those:
        for how in ("logout", "logout everywhere", "lock"):
            window = await those.ann.browser(those.web)
            async with Page.opened(window) as page:
                started = await page.hears(Kind.STARTED)
            kept, session = dict(window.cookies), window.session
            if how == "logout":
                assert (await window.ask("DELETE", "/webapi/sessions")).status == 200
            elif how == "lock":
                await lock(those.auth, user="ann")
                await those.events.wait_for("session.end")
            else:
                other = await those.ann.browser(those.web)
                assert (await other.ask("DELETE", "/webapi/user/sessions?all=true")).status == 200
                async with asyncio.timeout(2.0):
                    await session.ended.wait()
            window.cookies = kept
            with pytest.raises(aiohttp.WSServerHandshakeError) as no:
                async with Page.opened(window, resume=started["resume"]):
                    pass
            assert no.value.status == 401, how


async def test_a_cut_socket_leaves_the_end_and_the_recording(
    tmp_path: Path, launcher_end: LauncherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody comes back: once the host has waited, the end is on record, and all that was shown is in the recording;
    and so are those who looked on from a browser."""
    monkeypatch.setattr(terminal_session, "WAITS", 1)
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            sid = (await page.hears(Kind.STARTED))["sid"]
            await page.type("stty -echo; echo be''gun\n")
            await page.sees("begun")
            async with Page.opened(window, sid=sid, mode="observer") as other:
                await other.sees("begun")
                other.cut()
            await those.events.wait_for("session.leave")
            page.cut()
        (end,) = await those.events.wait_for("session.end")
        assert isinstance(end, SessionEnd)
        assert (end.sid, end.user, end.reason, end.participants) == (sid, "ann", "nobody came back", ["ann"])
        (join,) = those.events.named("session.join")
        assert isinstance(join, SessionJoin)
        assert (join.sid, join.user, join.mode) == (sid, "ann", "observer")
        assert join.addr_remote.startswith("127.0.0.1:")
        (recording,) = those.recordings.all
        assert b"begun" in recording.stdout
        assert recording.reason == "nobody came back"
