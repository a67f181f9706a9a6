"""Web terminals: opening, typing, resizing, the end, and who is refused (threats T19, T22, T54, T56)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from tests.web.session_rig import Person, lock, until
from tests.web.terminal_rig import CREDIT, HOST, ME, Page, place

from teleport.launcher import LauncherEnd
from teleport.web.sessions import COOKIE
from teleport.web.terminal_routes import OF_SESSION
from teleport.wire import web_terminal as wt
from teleport.wire.web_terminal import End, Kind

SOON = 2.0  # seconds within which an end is felt


async def test_a_terminal_types_resizes_and_ends(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Done-when 1: a shell in the page; the events name the browser's address, and the exit status arrives."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            started = await page.hears(Kind.STARTED)
            assert (started["server_id"], started["login"], started["resumed"]) == (those.host_id, ME, False)
            assert (started["mode"], started["lives_for"], started["credit"]) == ("peer", 120, 65536)
            await page.type("stty -echo; PS1=; stty size; echo te''rm=$TERM\n")
            await page.sees("24 80")
            await page.sees("term=xterm-256color")
            await page.say(Kind.RESIZE, {"event": "resize", "size": "100:30"})
            await page.type("stty size\n")
            await page.sees("30 100")
            await page.type("exit 3\n")
            over = await page.hears(Kind.CLOSED)
            assert (over["status"], over["signal"], over["reason"]) == (3, "", "")
            assert await page.ends() == End.DONE
        (start,) = await those.events.wait_for("session.start")
        (end,) = await those.events.wait_for("session.end")
        assert (start.user, start.sid, end.sid) == ("ann", started["sid"], started["sid"])  # type: ignore[attr-defined]
        assert start.addr_remote.startswith("127.0.0.1:")  # type: ignore[attr-defined]
        assert those.web.service.terminals is not None
        assert those.web.service.terminals.open == 0


async def test_no_websocket_without_cookie_and_origin(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T54: another site's page, a program without a cookie, and one that names no origin get no socket at all."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        for headers, status in (
            ({"Cookie": ""}, 401),
            ({"Cookie": f"{COOKIE}=nonsense"}, 401),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": ""}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with Page.opened(window, headers=headers):
                    pass
            assert refused.value.status == status, headers
        token = f"{those.web.url}/webapi/sites/-current-/connect?access_token={window.token}"
        async with those.web.session.get(token, headers={"Origin": those.web.url}) as answer:
            assert answer.status == 401, "a token in the address is worth nothing"
        assert not those.events.named("session.start")


async def test_the_first_message_proves_the_page(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """A missing, foreign or old token ends it before anything is asked of a host; so does any other first message."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        bob = Person(those.auth, "bob", await those.auth.person("bob", logins=(ME,)))
        other = await bob.browser(those.web)
        again = await those.ann.browser(those.web)
        for token in ("", "nonsense", other.token, again.token):
            async with Page.opened(window, token=token) as page:
                assert await page.ends() == End.NOT_LOGGED_IN, token
        async with Page.opened(window, hello=False) as page:
            await page.type("id\n")
            assert await page.ends() == End.BAD
        old = window.token
        those.web.clock.advance(601)
        async with Page.opened(window, token=old) as page:
            assert await page.ends() == End.NOT_LOGGED_IN
        assert not those.events.named("session.start")


async def test_a_page_that_says_nothing_is_closed_with_its_session(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T54: also one that has not proved itself so far."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window, hello=False) as page:
            assert (await window.ask("DELETE", "/webapi/sessions")).status == 200
            assert await page.ends(SOON) == End.NOT_LOGGED_IN


async def test_what_a_host_refuses_is_told(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """An unknown login, a host that there is not, a session that nobody runs: told with a hint, and that is it."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window, login="daemon") as page:
            told = await page.hears(Kind.ERROR)
            assert told["code"] == "denied"
            assert told["hint"]
            assert await page.ends() == End.DONE
        async with Page.opened(window, host="elsewhere") as page:
            told = await page.hears(Kind.ERROR)
            assert told["code"] == "unreachable"
            assert "elsewhere" in told["message"]
            assert await page.ends() == End.DONE
        async with Page.opened(window, sid="00000000-0000-4000-8000-000000000000") as page:
            told = await page.hears(Kind.ERROR)
            assert (told["code"], told["message"]) == (
                "denied",
                "There is no session with this id here that you may join.",
            )
        assert not those.events.named("session.start")


BAD_PARAMS = {
    "no host": {"login": ME},
    "no login": {"server_id": HOST, "login": ""},
    "no columns": {"server_id": HOST, "login": ME, "term": {"w": 0, "h": 24}},
    "too many rows": {"server_id": HOST, "login": ME, "term": {"w": 80, "h": 1001}},
    "a control character": {"server_id": HOST, "login": "ro\not"},
    "no session's id": {"server_id": HOST, "login": ME, "sid": "nonsense"},
    "a mode alone": {"server_id": HOST, "login": ME, "mode": "peer"},
    "no object": [],
}


async def test_params_that_cannot_be_meant(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """They are refused before there is a socket."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        path = f"{those.web.url}/webapi/sites/-current-/connect"
        headers = window.headers(Connection="Upgrade", Upgrade="websocket") | {
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        for what, params in BAD_PARAMS.items():
            async with those.web.session.get(path, params={"params": json.dumps(params)}, headers=headers) as answer:
                assert answer.status == 400, what
        async with those.web.session.get(path, headers=window.headers()) as answer:
            assert answer.status == 400, "no websocket"


async def test_messages_that_are_none_cut_the_terminal_off(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """T19: too large, not an envelope, text, out of turn, credit that nobody would grant."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)

        async def cut_off(data: bytes | str, code: int) -> None:
            async with Page.opened(window) as page:
                await page.hears(Kind.STARTED)
                if isinstance(data, str):
                    await page.socket.send_str(data)
                else:
                    await page.socket.send_bytes(data)
                assert await page.ends() == code, data[:40]

        await cut_off(b"\x00" * (wt.MAX_MESSAGE + 1), End.TOO_LARGE)
        await cut_off(b"\x00" * (4 * wt.MAX_MESSAGE), 1006)  # read no further
        await cut_off(b"\xff\xff\xff\xff\xff\xff", End.BAD)
        await cut_off("hello", End.BAD)
        await cut_off(wt.encode(Kind.STARTED, b"{}"), End.BAD)
        await cut_off(wt.encode(Kind.RESIZE, b'{"size": "0:5"}'), End.BAD)
        await cut_off(wt.encode(Kind.RAW, b"x" * 65537), End.BAD)
        for grant in (-1, wt.MAX_CREDIT + 1):
            await cut_off(wt.encode(Kind.CREDIT, json.dumps({"bytes": grant}).encode()), End.BAD)


async def test_a_logout_and_a_lock_end_the_terminal(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Within two seconds the socket closes, and the session on the host ends: it waits for nobody."""
    async with place(tmp_path, launcher_end) as those:
        for how in ("logout", "lock"):
            window = await those.ann.browser(those.web)
            async with Page.opened(window) as page:
                await page.hears(Kind.STARTED)
                await page.type("echo re''ady\n")
                await page.sees("ready")
                if how == "logout":
                    assert (await window.ask("DELETE", "/webapi/sessions")).status == 200
                else:
                    await lock(those.auth, user="ann")
                assert await page.ends(SOON) in (End.NOT_LOGGED_IN, End.DONE)
            ended = await those.events.wait_for("session.end", 1 if how == "logout" else 2, SOON)
            assert ended


async def test_a_page_that_reads_nothing_is_ended_all_the_same(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Its kernel's buffers are full and it has granted much: the proxy waits neither to end the session nor to let the
    connection go."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window, credit=wt.MAX_CREDIT) as page:
            await page.hears(Kind.STARTED)
            await page.type("stty -echo; echo re''ady\n")
            await page.sees("ready")
            page.deaf()
            await page.type("exec yes\n")
            (session,) = those.node.tools.registry
            streams = session._streams
            assert streams is not None
            await until(lambda: streams.sent > 1024 * 1024, "a flood")
            assert (await window.ask("DELETE", "/webapi/sessions")).status == 200
            await those.events.wait_for("session.end", seconds=SOON)
            terminals = those.web.service.terminals
            assert terminals is not None
            await until(lambda: terminals.open == 0, "nobody is served any more", 2 * SOON)
            page.cut()


async def test_a_page_that_quits_ends_its_session(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
            await page.say(Kind.QUIT, {})
            assert await page.ends() == End.DONE
        await those.events.wait_for("session.end")


async def test_terminals_are_counted(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """One browser's session takes only so many, also before the first message."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        pages = [Page.opened(window, hello=False) for _ in range(OF_SESSION)]
        opened = [await page.__aenter__() for page in pages]
        async with Page.opened(window) as page:
            assert await page.ends() == End.TOO_MANY
        await opened[0].socket.close()
        async with Page.opened(window) as page:
            await page.hears(Kind.STARTED)
        await asyncio.gather(*(page.__aexit__(None, None, None) for page in pages))


async def test_typing_is_use_of_the_session(tmp_path: Path, launcher_end: LauncherEnd) -> None:
    """Whoever types is not idle, and output alone is no use."""
    async with place(tmp_path, launcher_end) as those:
        window = await those.ann.browser(those.web)
        async with Page.opened(window, credit=CREDIT) as page:
            await page.hears(Kind.STARTED)
            before = window.session.used
            those.web.clock.advance(100)
            await page.say(Kind.RESIZE, {"size": "81:24"})
            await page.type("echo ty''ped\n")
            await page.sees("typed")
            assert window.session.used >= before + 100
            assert window.session.sockets == 1
