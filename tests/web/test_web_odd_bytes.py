"""Headers and paths that no browser would send: strangers get an answer that says so, and write nothing into the
log (threats T19, T54, T56)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.web.session_rig import Person, proxy_with_sessions
from tests.web.web_rig import RunningWeb

from teleport.testing.auth import present_clock, running_auth
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER
from teleport.web.sessions import COOKIE

BYTES = (b"\xff", b"a\xffb", b"\xc3\xa9", b'"\\377"', b'"', b"=;=,", b"\xed\xa0\x80")
ORIGINS = (
    b"https://[",
    b"https://[::1",
    b"https://x]",
    b"https://h:99999",
    b"//",
    b"\xff",
    b"https://\xff",
    b"null",
    b"",
)
PATHS = (
    b"/webapi/login/browser/%ff",
    b"/webapi/users/password/token/%ff",
    b"/webapi/sites/%ff/context",
    b"/web/app/%ff",
)


async def status(web: RunningWeb, method: bytes, path: bytes, *headers: bytes) -> int:
    """Of the answer to a request as these bytes are. Time passes, so that attempts are not limited."""
    web.clock.advance(1)
    reader, writer = await asyncio.open_connection(*web.address, ssl=web.trust, server_hostname="localhost")
    host = b"localhost:%d" % web.address[1]
    head = (method + b" " + path + b" HTTP/1.1", b"Host: " + host, b"Connection: close", b"Content-Length: 2", *headers)
    writer.write(b"\r\n".join((*head, b"", b"{}")))
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def test_odd_bytes_are_refused_as_anything_else_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running_auth(tmp_path, clock=present_clock()) as auth,
        proxy_with_sessions(auth, tmp_path) as web,
    ):
        window = await (await Person.made(auth, "ann")).browser(web)
        cookie = f"Cookie: {COOKIE}={window.cookies[COOKIE]}".encode()
        with caplog.at_level(logging.ERROR):
            for odd in BYTES:
                csrf = b"Cookie: " + CSRF_COOKIE.encode() + b"=" + odd
                told = (csrf, CSRF_HEADER.encode() + b": " + odd)
                for path in (b"/webapi/sessions/web", b"/webapi/users/password/token", b"/webapi/sessions"):
                    for method in (b"POST", b"PUT", b"DELETE"):
                        assert await status(web, method, path, *told) in (400, 401, 403, 405), (odd, path)
                session = b"Cookie: " + COOKIE.encode() + b"=" + odd
                assert await status(web, b"GET", b"/webapi/user/status", session) == 401, odd
                bearer = b"Authorization: Bearer " + odd
                assert await status(web, b"GET", b"/webapi/user/status", cookie, bearer) == 401, odd
                assert await status(web, b"GET", b"/web/login/x", csrf) == 200, odd
            for origin in ORIGINS:
                named = b"Origin: " + origin
                assert await status(web, b"GET", b"/webapi/user/status", cookie, named) == 403, origin
                assert await status(web, b"POST", b"/webapi/sessions/web", named) == 403, origin
            for path in PATHS:
                assert await status(web, b"GET", path) in (401, 404), path
        assert not caplog.records, "strangers write into the log"
