"""Brings spans to a collector: by OTLP over HTTP, in batches, when it can, and never in anybody's way.

`put` keeps a span in memory and comes back; when `MOST` wait, further ones are dropped and counted. `run` sends what
there is, soon after it came. A batch that the collector does not take now is tried again, later and later, for
`TRIES` times; one that it refuses is dropped. Nothing of a proxy of the environment is used, and no redirect is
followed: spans go where the configuration says, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from teleport import __version__
from teleport.errors import TeleportError
from teleport.spans import Finished
from teleport.wire import otlp

log = logging.getLogger(__name__)

MOST: Final = 2048  # spans that wait
BATCH: Final = 512
SOON: Final = 2.0  # seconds from a first span until it is sent
WITHIN: Final = 10.0  # seconds for one batch
TRIES: Final = 6
LONGEST: Final = 30.0  # seconds between two tries
LAST: Final = 2.0  # seconds for what waits when the daemon ends
_AGAIN: Final = frozenset({429, 502, 503, 504})  # "Retryable Response Codes" of OTLP/HTTP
_ANSWER: Final = 64 * 1024  # bytes of an answer that are read


@dataclass(frozen=True, slots=True)
class Destination:
    """Where spans go. Without `ca_files` the system's authorities are believed."""

    url: str
    ca_files: tuple[Path, ...] = ()
    keypairs: tuple[tuple[Path, Path], ...] = ()  # certificate, key

    @property
    def place(self) -> str:
        """As logs name it: path and query may hold what is nobody's business."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class _Refused(Exception):
    """The collector will never take this batch."""


class _Failed(Exception):
    """It did not take it now; perhaps it says after how many seconds it would."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


def context_of(to: Destination) -> ssl.SSLContext:
    """TLS 1.2 at least, with the collector's name checked. Raises `TeleportError` when a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=str(to.ca_files[0]) if to.ca_files else None)
        for more in to.ca_files[1:]:
            context.load_verify_locations(more)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for certificate, key in to.keypairs:
            context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:  # an SSLError, too
        raise TeleportError(
            f"the TLS files of tracing_service cannot be used: {error}",
            hint="check ca_certs and https_keypairs, and that the daemon's user may read them",
        ) from None
    return context


class Exporter:
    """Of one daemon."""

    def __init__(
        self,
        to: Destination,
        about: Callable[[], Mapping[str, str]],
        *,
        soon: float = SOON,
        first_wait: float = 1.0,
        most: int = MOST,
    ) -> None:
        """`about`: what every span of this host says (`wire.otlp`)."""
        self._to = to
        self._about = about
        self._soon = soon
        self._first_wait = first_wait
        self._most = most
        self._waiting: deque[Finished] = deque()
        self._came = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._trouble = ""
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many spans wait."""
        return len(self._waiting)

    def put(self, span: Finished) -> None:
        """Keeps a span until it is sent; drops it where too many wait."""
        if len(self._waiting) >= self._most:
            self.dropped += 1
            return
        self._waiting.append(span)
        self._came.set()

    async def run(self) -> None:
        """Sends until cancelled; then once more what waits."""
        try:
            while True:
                await self._came.wait()
                await asyncio.sleep(self._soon)  # for what comes with it
                self._came.clear()
                while self._waiting:
                    await self._brought(self._taken())
        finally:
            try:
                async with asyncio.timeout(LAST):
                    while self._waiting:
                        await self._post(self._taken())
            except Exception as error:
                log.warning("spans that waited at the end are dropped spans=%d error=%s", len(self._waiting), error)
            finally:
                await self._close()

    async def _brought(self, batch: Sequence[Finished]) -> None:
        """As `_bring`, whatever happens: a daemon ends when one of its tasks does, and no span is worth that."""
        try:
            await self._bring(batch)
        except Exception:
            self.dropped += len(batch)
            log.exception("spans could not be sent spans=%d", len(batch))

    def _taken(self) -> list[Finished]:
        return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    async def _bring(self, batch: Sequence[Finished]) -> None:
        wait = self._first_wait
        for attempt in range(TRIES):
            try:
                await self._post(batch)
            except _Refused as error:
                self._told(str(error))
                break
            except _Failed as error:
                self._told(str(error))
                await self._close()  # the next try reads certificates and names anew
                if attempt + 1 < TRIES:
                    await asyncio.sleep(min(error.seconds or wait, LONGEST))
                    wait *= 2
            else:
                self._told("")
                return
        self.dropped += len(batch)

    def _told(self, trouble: str) -> None:
        """Says in the log when something begins to go wrong, and when it works again."""
        if trouble and not self._trouble:
            log.warning("spans are not taken by %s: %s (more of it is not said)", self._to.place, trouble)
        elif self._trouble and not trouble:
            log.warning("spans are taken again by %s dropped=%d", self._to.place, self.dropped)
        self._trouble = trouble

    async def _post(self, batch: Sequence[Finished]) -> None:
        body = otlp.encode(batch, self._about(), __version__)
        try:
            session = await self._opened()
            async with (
                asyncio.timeout(WITHIN),
                session.post(self._to.url, data=body, allow_redirects=False) as answer,
            ):
                said = await answer.content.read(_ANSWER)
                if 200 <= answer.status < 300:
                    count, why = otlp.rejected(said)
                    if count > 0:
                        self.dropped += count
                        log.warning("the collector rejected spans=%d: %s", count, why[:200])
                    return
                if answer.status in _AGAIN:
                    raise _Failed(f"it answers {answer.status}", _seconds(answer.headers.get("Retry-After", "")))
                raise _Refused(f"it answers {answer.status}")
        except TeleportError as error:
            raise _Failed(error.message) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Failed(str(error) or type(error).__name__) from None

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            secure = self._to.url.startswith("https:")
            context = await asyncio.to_thread(context_of, self._to) if secure else False
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=1),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"Content-Type": otlp.CONTENT_TYPE, "User-Agent": f"teleport/{__version__}"},
            )
        return self._session

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _seconds(text: str) -> float:
    """Of a `Retry-After` in seconds; 0 when there is none that can be read."""
    return float(text.strip()[:9]) if text.isascii() and text.strip().isdecimal() else 0.0
