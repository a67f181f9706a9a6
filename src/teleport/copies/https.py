"""Events to a receiver by HTTPS: a batch of stored lines in one POST, held by the receiver once it answers 2xx.

Anything else is tried again, later and later, or when `Retry-After` says; redirects are not followed and no proxy of
the environment is used: events go where the configuration says. `Idempotency-Key` is the same when the same batch
comes again; a batch may be cut otherwise after a restart, and then the `uid` of each event tells.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import aiohttp

from teleport import __version__
from teleport.copies.copier import Later, TooLarge
from teleport.copies.settings import HttpsCopy
from teleport.copies.tls import context_of
from teleport.errors import AccessDenied, ConnectionProblem, TeleportError

WITHIN: Final = 30.0  # seconds for one batch
LONGEST: Final = 3600.0  # seconds that a receiver may ask us to stay away
_TOO_LARGE: Final = 413


class HttpsPlace:
    """One receiver."""

    doubtful = 0.0

    def __init__(
        self, settings: HttpsCopy, *, within: float = WITHIN, what: str = "events", all_others: bool = False
    ) -> None:
        """`all_others`: a line that the receiver never takes is raised as `TooLarge` once it has all others, else as an
        error at once, and nothing that follows is brought."""
        self._settings = settings
        self._within = within
        self._what = what
        self._all_others = all_others
        self._session: aiohttp.ClientSession | None = None

    async def write(self, lines: Sequence[bytes]) -> None:
        parts = [list(lines)]
        refused: list[int] = []  # bytes of lines that are too large
        while parts:
            part = parts.pop(0)
            try:
                fits = await self._post(b"\n".join([*part, b""]))
            except BaseException:
                await self.close()  # the next try reads certificates anew
                raise
            if not fits and len(part) == 1:
                refused.append(len(part[0]))
                if not self._all_others:
                    break
            elif not fits:
                half = len(part) // 2
                parts[:0] = [part[:half], part[half:]]
        if refused:
            raise TooLarge(
                f"{self._settings.url} does not take one line of {refused[0]} bytes: 413",
                lines=len(refused),
                hint="let the receiver take bodies of 100 kB at least",
            )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, body: bytes) -> bool:
        """Whether the receiver takes bodies of this size; when it does, it has this one."""
        url = self._settings.url
        try:
            session = await self._opened()
            async with (
                asyncio.timeout(self._within),
                session.post(url, data=body, headers=await self._headers(body), allow_redirects=False) as answer,
            ):
                if 200 <= answer.status < 300:
                    return True
                if answer.status == _TOO_LARGE:
                    return False
                text = f"{url} answers {answer.status}"
                if (seconds := stay_away(answer.headers.get("Retry-After", ""), datetime.now(UTC))) is not None:
                    raise Later(f"{text}, and asks for {seconds:.0f} s", seconds=seconds)
                if answer.status in (401, 403):
                    raise AccessDenied(f"{text}: it does not know us", hint="check token_file, cert_file and key_file")
                raise ConnectionProblem(text, hint="see the receiver's log")
        except aiohttp.ClientConnectorCertificateError as error:
            found = error.certificate_error
            why = found.verify_message if isinstance(found, ssl.SSLCertVerificationError) else str(found)
            raise ConnectionProblem(
                f"{url} is not whom it should be: {why}", hint="ca_file says whom to believe"
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionProblem(
                f"{url} did not take {self._what}: {error or type(error).__name__}",
                hint="see whether the receiver runs",
            ) from None

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = await asyncio.to_thread(context_of, self._settings.tls)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=1),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def _headers(self, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/x-ndjson",
            "User-Agent": f"teleport/{__version__}",
            "Idempotency-Key": hashlib.sha256(body).hexdigest(),
        }
        if self._settings.token_file is not None:
            headers["Authorization"] = f"Bearer {await asyncio.to_thread(_token, self._settings.token_file)}"
        return headers


def stay_away(text: str, now: datetime) -> float | None:
    """Seconds of a `Retry-After`, at most an hour; None when there is none that can be read."""
    if text.isascii() and text.strip().isdecimal():
        return min(float(text.strip()[:9]), LONGEST)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), LONGEST)


def _token(path: Path) -> str:
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise TeleportError(
            f"cannot read {path}: {why}", hint="name the file with token_file, one line in it"
        ) from None
    if not token or any(not "!" <= sign <= "~" for sign in token):
        raise TeleportError(f"{path} holds no token", hint="one line, without spaces")
    return token
