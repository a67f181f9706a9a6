"""One session in a pod, `kubectl exec` or `attach`: recorded and put on record while its bytes are relayed unchanged.

Order of its life, as of SSH sessions (threat T40): the recording exists on disk, then its start is on record, then the
API server is asked; every byte of output is noted in the recording before it is sent on; how the command ended is told
to the client once what it had said is on disk. What cannot be recorded or put on record does not start, and ends when
that fails. Where recordings are sent while they are made, what the client sees is on this host's disk first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from teleport.authz.joining import RunningSession
from teleport.errors import TeleportError
from teleport.kube.exec_channels import BadStream, Channel, LastWord, Reader, Sizes
from teleport.kube.exec_request import PodCommand, read_command
from teleport.kube.exec_story import FIRST_SIZE, PodStory, Who
from teleport.kube.http import READ, Client, Server
from teleport.kube.inserting import Inserting
from teleport.kube.live import Facts, First, LiveSession, Place
from teleport.kube.needs import Recording, Sessions
from teleport.kube.spdy import SpdyStreams
from teleport.kube.status import Refusal
from teleport.kube.websocket_frames import WebsocketReader
from teleport.resources.joining import KUBERNETES
from teleport.sharing.parties import Party
from teleport.ssh.surface import TerminalSize

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 900.0  # a long recording takes seconds for each GiB
AHEAD_SECONDS: Final = 0.5  # by which a service that ends it, too, may be ahead of us, who can say why
SAY_SECONDS: Final = 1.0  # for a client to take why its session is ended
LEFT: Final = "the client disconnected"
LOST: Final = "the API server ended the stream"
UNRECORDED: Final = "the recording failed"
NOT_ANY_MORE: Final = "who began it has left"
UNTOLD: Final = "what it did cannot be put on record"


@dataclass(frozen=True, slots=True)
class _Exit:
    """How the command ended, for those who took part (`sharing.parties.Ended`)."""

    status: int
    signal: str | None = None
    core_dumped: bool = False


class _Ended(Exception):
    """The stream is over; the message is why, when it is not over by itself."""


class ExecSession:
    """A session that is recorded. `begin` it, ask the API server, `relay` what comes, and in any case `end` it."""

    def __init__(self, tools: Sessions, who: Who, protocol: bytes, active: Callable[[], None]) -> None:
        """`protocol`: by which it is asked for (`streams.wanted`); `active` hears that its person did something."""
        self._active = active
        self._stop: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.sid = tools.new_id()
        self._tools = tools
        self._who = who
        self._what: PodCommand = read_command(who.call)
        self._mode = tools.mode()
        self._story = PodStory(tools, who, self._what, self.sid, self._mode)
        self._recording: Recording | None = None
        self._from_client: Reader
        self._from_server: Reader
        if protocol == b"websocket":
            self._from_client, self._from_server = WebsocketReader(client=True), WebsocketReader(client=False)
        else:
            both = SpdyStreams()
            self._from_client, self._from_server = both.reader(client=True), both.reader(client=False)
        self._sizes = Sizes()
        self._size: tuple[int, int] = FIRST_SIZE
        self._last_word = LastWord()
        self._to_client: Inserting | None = None
        self._to_server: Inserting | None = None
        self._sent = 0  # bytes of output
        self._typed_by_others = 0  # bytes
        self._started = False  # its start is on record
        self.runs = False  # bytes go through it
        self._reason = LEFT  # why it ended when not by itself
        self._live = self._shared() if self._what.terminal and tools.live is not None else None

    def _shared(self) -> LiveSession:
        """What others take part in."""
        tools, who = self._tools, self._who
        assert tools.live is not None, "else nobody joins"
        about = RunningSession(
            sid=str(self.sid),
            cluster=tools.cluster,
            user=who.identity.name,
            user_cluster=who.identity.cluster,
            login=who.permit.kube_user,
            roles=who.identity.roles,
            interactive=True,
            kind=KUBERNETES,
        )
        place = Place(who.named, who.kube_cluster, who.cluster_now, who.call.decided, self._what.container)
        first = First(Facts(who.identity, who.client), self)
        return LiveSession(tools.live, self.sid, about, place, self._story.began, self._what.command, first, self)

    # the start

    async def begin(self) -> None:
        """Raises `TeleportError` or `OSError`: then there is no session, and nothing has to be ended."""
        self._recording = await self._tools.recordings.start(self._story.header())
        try:
            await self._story.started()
        except BaseException:
            if await self._close("not put on record"):
                self._tools.recordings.on_record(str(self.sid))
            raise
        self._started = True

    # bytes

    def stop(self, reason: str, told: str = "") -> None:
        """Ends it, whoever asks. The client reads `told`, or the reason where that tells nothing of others."""
        if not self._stop.done():
            self._stop.set_result((reason, told or reason))

    # for the others who take part (`live.Bytes`)

    def type(self, data: bytes) -> bool:
        if self._to_server is None:
            return True
        if self._to_server.put(Channel.STDIN, data):
            self._typed_by_others += len(data)
        return not self._to_server.full

    def resize(self, width: int, height: int) -> bool:
        recording = self._recording
        if self._to_server is None or recording is None or recording.failed.done() or not (width and height):
            return False
        if not self._to_server.put(Channel.RESIZE, b'{"Width":%d,"Height":%d}\n' % (width, height)):
            return False
        self._size = width, height
        recording.resize(width, height)
        return True

    def tell(self, data: bytes) -> None:
        told = self._to_client
        if told is not None and not told.full and not self._last_word.came:
            told.put(Channel.STDOUT, data)

    def active(self) -> None:
        self._active()

    async def joined(self, party: Party, granted_by: str) -> None:
        await self._story.joined(party, granted_by)

    async def left(self, party: Party) -> None:
        await self._story.left(party)

    async def resized(self, size: TerminalSize) -> None:
        await self._story.resized(size.columns, size.rows)

    # the relay

    async def relay(self, client: Client, server: Server) -> None:
        """Bytes both ways until one side ends or may not go on; each is read only as fast as the other takes it."""
        recording = self._recording
        assert recording is not None, "it was begun"
        ways = (
            self._pump(client, server, self._client_sent, (LEFT, LOST)),
            self._pump(server, client, self._server_sent, (LOST, LEFT)),
        )
        pumps = [asyncio.create_task(way, name=f"session {self.sid} in a pod") for way in ways]
        failed: asyncio.Future[Any] = recording.failed
        self._to_client = Inserting(self._from_server, client.writer, self._in_background)
        taken = self._live.taken if self._live is not None else lambda: None
        self._to_server = Inserting(self._from_client, server.writer, self._in_background, taken)
        self.runs = True
        if self._live is not None:
            self._live.begin(recording)
        try:
            await asyncio.wait([*pumps, failed, self._stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.runs = False
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        found = [pump.exception() for pump in reversed(pumps) if not pump.cancelled()]
        for error in found:
            if not isinstance(error, _Ended):
                log.error("a session in a pod failed sid=%s", self.sid, exc_info=error)
        self._reason = UNRECORDED if failed.done() else str(found[0]) if found else LEFT
        if self._reason == LOST and self._from_client.closed:
            self._reason = LEFT
        if self._reason == LOST and not self._last_word.came:
            await asyncio.wait([self._stop, failed], timeout=AHEAD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        told = self._reason
        if self._stop.done() and not failed.done():
            self._reason, told = self._stop.result()
        if self._reason not in (LOST, LEFT):
            await self._say(client, told)

    async def _say(self, client: Client, told: str) -> None:
        """Tells the client why we end it, where that can be told: kubectl prints the sentence."""
        if self._to_client is None or not self._to_client.clean or self._last_word.came:
            return
        status = Refusal(500, f"This session was ended: {told.rstrip('.')}.").body
        client.writer.write(self._from_server.last_word(status))
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(SAY_SECONDS):
                await client.writer.drain()

    async def _pump(
        self,
        source: Client | Server,
        sink: Client | Server,
        noted: Callable[[bytes], Awaitable[None]],
        ends: tuple[str, str],
    ) -> None:
        """Raises `_Ended`, always. `ends`: what it means when `source` or `sink` is over."""
        over, sink_over = ends
        try:
            data = source.rest()
            while data or (data := await source.reader.read(READ)):
                await noted(data)
                over = sink_over
                sink.writer.write(data)
                inserting = self._to_client if isinstance(sink, Client) else self._to_server
                assert inserting is not None, "it is relayed"
                inserting.wrote()
                data = b""
                await sink.writer.drain()
                over = ends[0]
        except BadStream as error:
            log.warning("a stream into a pod is refused sid=%s user=%s: %s", self.sid, self._who.identity.name, error)
            raise _Ended(f"the stream was refused: {error}") from None
        except TeleportError as error:
            log.error("a session in a pod cannot go on sid=%s: %s", self.sid, error)
            raise _Ended(UNTOLD) from None
        except OSError:
            pass
        raise _Ended(over)

    async def _client_sent(self, data: bytes) -> None:
        recording = self._recording
        assert recording is not None, "it was begun"
        size, typed = self._size, self._from_client.typed
        for channel, part in self._from_client.feed(data):
            if channel is Channel.RESIZE and self._what.terminal:  # without a terminal nobody reads them
                for width, height in self._sizes.feed(part):
                    if width and height and (width, height) != self._size:
                        self._size = width, height
                        self._check(recording)
                        recording.resize(width, height)
        if (self._size, self._from_client.typed) != (size, typed):
            self._active()
        if self._live is not None and self._from_client.typed != typed:
            self._live.typed_by_first(self._from_client.typed - typed)
        if recording.must_drain:
            await recording.drain()
        if self._size != size:  # of many in a row the last one counts
            await self._story.resized(*self._size)

    async def _server_sent(self, data: bytes) -> None:
        recording = self._recording
        assert recording is not None, "it was begun"
        shown = []
        for channel, part in self._from_server.feed(data):
            if channel is Channel.ERROR:
                self._last_word.feed(part)
                continue
            self._check(recording)
            self._sent += len(part)
            if not self._what.terminal:
                self._active()  # a terminal shows things by itself, and nobody need be there
            shown.append(part)
            if channel is Channel.STDERR:
                recording.record_stderr(part)
            else:
                recording.record_output(part)
        if recording.must_drain:
            await recording.drain()
        if self._last_word.came or self._mode.endswith("-sync"):
            await recording.sync()
        self._check(recording)
        if self._live is not None:
            for part in shown:
                self._live.shown(part)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        live = self._tools.live
        if live is None:
            work.close()
        else:
            live.in_background(work, f"session {self.sid} in a pod")

    def _check(self, recording: Recording) -> None:
        """What is not recorded is not sent."""
        if recording.failed.done():
            raise _Ended(UNRECORDED)

    # the end

    def refused(self, status: int) -> None:
        """The API server did not start it."""
        self._reason = f"not started: the API server answered {status}"

    async def end(self, why: str = "") -> None:
        """Closes the recording and puts the end on record; one that cannot be now is made up for. Raises nothing.

        `why`: what ended it from outside."""
        if not self._started:
            return
        code, error = self._last_word.read()
        reason = why or ("" if self._last_word.came and self._reason in (LEFT, LOST) else self._reason)
        kept = False
        if self._live is not None:
            known = self._last_word.came and code.isdecimal() and int(code) < 256
            self._live.over(_Exit(int(code)) if known else None, reason if reason != LEFT else NOT_ANY_MORE)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                recording = self._recording
                digest = await self._close(reason)
                if recording is None or not digest or recording.failed.done():
                    reason = reason or UNRECORDED
                typed = self._from_client.typed + self._typed_by_others
                people = self._live.company.people if self._live is not None else [self._who.identity.name]
                await self._story.ended(
                    code, error or ("" if code else reason), reason, people, sent=self._sent, typed=typed, digest=digest
                )
                kept = bool(digest)
        except Exception as failed:
            log.error("the end of a session in a pod cannot be put on record sid=%s: %s", self.sid, failed)
        finally:
            if kept:
                self._tools.recordings.on_record(str(self.sid))
            else:
                self._tools.recordings.unended(str(self.sid))

    async def _close(self, reason: str) -> str:
        """The recording's hash; empty when it could not be closed."""
        assert self._recording is not None, "it was begun"
        try:
            return (await self._recording.close(reason or "ended")).sha256
        except TeleportError as error:
            log.error("recording not closed sid=%s error=%s", self.sid, error)
            return ""
