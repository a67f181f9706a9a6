"""Web terminals that come back: after a reload, a lost network, another proxy; and who may not (threats T35, T54)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.web.session_rig import Person, lock
from tests.web.terminal_rig import ME, Page, place

from teleport.launcher import LauncherEnd
from teleport.wire.web_terminal import End, Kind

QUIET = "stty -echo; PS1=; echo re''ady\n"


async def test_a_reloaded_page_finds_its_terminal_as_it_was(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Done-when 2: the last output comes back, the program goes on, and typing reaches it. Once it has said that it
    comes back no more, the session ends."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            await page.type(f"{QUIET}x=kept; trap 'echo re''sized' WINCH\n")
            await page.sees("ready")
        assert not those.events.named("session.end")
        async with Page.opened(window, resume=started["resume"]) as page:
            back = await page.hears(Kind.STARTED)
            assert (back["sid"], back["resumed"], back["server_id"]) == (started["sid"], True, those.host_id)
            await page.sees("ready")
            await page.sees("resized")
            await page.type("echo $x; stty size\n")
            await page.sees("kept")
            await page.sees("24 80")
            assert b"has left this session" not in page.shown
            assert b"tsh join" not in page.shown
            await page.say(Kind.QUIT, {})
            assert await page.ends() == End.DONE
        await those.events.wait_for("session.end")
        assert len(those.events.named("session.start")) == 1


async def test_the_alternate_screen_comes_back_and_repaints(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """The modes that a program left the terminal in come before everything, and the program hears of a new size."""
    program = tmp_path / "program"
    program.write_text(
        "printf '\\033[?1049h\\033[?1h\\033[2Jup\\n'\n"
        "trap 'echo painted $(stty size)' WINCH\n"
        "while :; do sleep 0.1; done\n"
    )
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            await page.type(f"exec sh {program}\n")
            await page.sees("\x1b[2Jup")
        async with Page.opened(window, resume=started["resume"], term={"w": 90, "h": 30}) as page:
            await page.hears(Kind.STARTED)
            await page.sees("\x1b[?1049h")
            await page.sees("painted 30 90")


async def test_another_proxy_takes_the_terminal_up(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """A proxy that was restarted, or another one behind the balancer: the session lives on the host."""
    async with place(tmp_path, launcher_end, proxies=2) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            await page.type(QUIET)
            await page.sees("ready")
        window = window.at(those.webs[1])
        async with Page.opened(window, resume=started["resume"]) as page:
            await page.hears(Kind.STARTED)
            await page.type("echo he''re\n")
            await page.sees("here")


async def test_a_terminal_is_open_in_one_place(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """When it comes back, what is left of it elsewhere is closed, and cannot hold it up."""
    async with place(tmp_path, launcher_end, proxies=2) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as former:
            started = await former.hears(Kind.STARTED)
            await former.type(QUIET)
            await former.sees("ready")
            async with Page.opened(window.at(those.webs[1]), resume=started["resume"]) as page:
                await page.hears(Kind.STARTED)
                assert await former.ends() == End.ELSEWHERE
                await page.type("echo he''re\n")
                await page.sees("here")
            assert b"joined" not in former.shown


async def test_nobody_else_comes_back_to_it(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T54: not another user, nor another login of the same one; nor with something that was made up."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        bob = Person(those.auth, "bob", await those.auth.person("bob", logins=(ME,)))
        others = [await bob.browser(those.web), await those.ann.browser(those.web)]
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
        resume = started["resume"]
        for other in others:
            async with Page.opened(other, resume=resume) as page:
                assert (await page.hears(Kind.ERROR))["code"] == "denied"
                assert await page.ends() == End.DONE
        for made_up in ("nonsense", "." + resume.partition(".")[2], resume.replace(started["sid"], "0" * 36)):
            async with Page.opened(window, resume=made_up) as page:
                assert (await page.hears(Kind.ERROR))["code"] == "denied"
        assert not those.events.named("session.join")


async def test_a_session_that_is_over_is_gone(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            await page.type("exit\n")
            await page.hears(Kind.CLOSED)
        await those.events.wait_for("session.end")
        async with Page.opened(window, resume=started["resume"]) as page:
            assert (await page.hears(Kind.ERROR))["code"] == "gone"
            assert await page.ends() == End.DONE


async def test_a_lock_ends_what_waits_for_its_terminal(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Nobody is there, and the session ends all the same; and so it does with the logout of an absent page."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
        await asyncio.sleep(0)
        assert not those.events.named("session.end")
        await lock(those.auth, user="ann")
        await those.events.wait_for("session.end", seconds=2.0)
