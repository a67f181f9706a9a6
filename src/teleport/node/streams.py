"""The bytes of a session: from its process into the recording and on to the parties, and from the parties to it.

Every byte is noted in the recording before it is sent; what is not recorded is not sent. Where recordings are sent
while they are made, it is on disk before.
"""

from __future__ import annotations

import asyncio
import termios
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from teleport.launcher.client import resize_terminal
from teleport.node.needs import Process, Recording
from teleport.node.pump import Input, Output
from teleport.recording.outgoing import Outgoing
from teleport.sharing.parties import Party
from teleport.sharing.scrollback import Replay, Scrollback
from teleport.ssh.surface import TerminalSize

_COPY_SECONDS = 5.0  # without a byte, for output that outlives the process (`protocols.md` 7)


class Streams:
    """A running process's descriptors, which belong to this from the start, wired to the parties of its session."""

    def __init__(
        self,
        process: Process,
        recording: Recording,
        first: Party,
        parties: Sequence[Party],
        in_background: Callable[[Coroutine[Any, Any, None]], None],
        *,
        files: bool = False,
        sync: bool = False,
    ) -> None:
        """`parties` is the session's own list, which changes: `wait_for` has to be told then. `first` began it.

        `files`: the output is that of a file transfer, whose operations are recorded instead of its bytes. `sync`:
        nobody sees what is not on disk.
        """
        self._recording = recording
        self._first = first
        self._parties = parties
        self._stopped = False  # whether nobody who types is read
        self._in_background = in_background
        self._recording_full = False
        self._files = files
        self._sync = sync
        self._outgoing = Outgoing(
            self._show, recording.sync, in_background=in_background, flow=self.flow, failed=lambda: None
        )  # that nothing goes on then is the recording's own failure, which ends the session
        self._moved = asyncio.Event()
        self._pty = process.pty
        self._scrollback = Scrollback() if process.pty is not None else None
        self._waited: Sequence[Party] = (first,)
        self._held = False
        self.sent = 0  # bytes of output
        self.received = 0  # bytes of input
        if process.pty is not None:
            outputs = [(process.pty, self._stdout)]
            # The input gets a descriptor of its own, so that each side closes what it owns.
            self._input = Input.duplicate(process.pty, self._stop_reading, self._read_on)
        else:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            outputs = [(process.stdout, self._stdout), (process.stderr, self._stderr)]
            self._input = Input(process.stdin, self._stop_reading, self._read_on)
        self._outputs = [Output(fd, deliver, self._moved.set) for fd, deliver in outputs]
        self.flow()

    # from the process

    def _stdout(self, data: bytes) -> None:
        if not self._files:
            self._recording.record_output(data)
        self._pass_on(data, stderr=False, recorded=not self._files)

    def _stderr(self, data: bytes) -> None:
        self._recording.record_stderr(data)
        self._pass_on(data, stderr=True, recorded=True)

    def _pass_on(self, data: bytes, *, stderr: bool, recorded: bool) -> None:
        self._moved.set()
        if self._scrollback is None:
            self._first.connection.active()
        if self._recording.failed.done():
            return  # ending: what is not recorded is not sent
        self._outgoing.send(data, stderr, hold=self._sync and recorded)
        if self._recording.must_drain and not self._recording_full:
            self._recording_full = True
            self.flow()
            self._in_background(self._drain())

    def _show(self, data: bytes, stderr: bool) -> None:
        self.sent += len(data)
        if self._scrollback is not None:
            self._scrollback.feed(data)
        for party in self._parties:
            if party is self._first:
                party.write(data, stderr=stderr)
            else:
                party.show(data)

    async def release(self) -> None:
        """Returns when all that came went on to the parties, or cannot be kept."""
        await self._outgoing.release()

    async def _drain(self) -> None:
        await self._recording.drain()
        self._recording_full = False
        self.flow()

    @property
    def _held_up(self) -> bool:
        behind = self._recording_full or self._outgoing.behind
        return self._held or behind or any(party.busy for party in self._waited)

    def wait_for(self, parties: Sequence[Party]) -> None:
        """These hold the session up while they do not keep up; output goes past the others."""
        self._waited = parties
        if self._stopped:
            self._stop_reading()
        self.drained()

    def flow(self) -> None:
        """Reads from the process, or does not while who is waited for, or the recording, does not keep up."""
        for output in self._outputs:
            if self._held_up:
                output.pause()
            else:
                output.resume()

    def drained(self) -> None:
        """A party takes what is written again, or another one is waited for."""
        self._moved.set()
        self.flow()

    def hold(self, held: bool) -> None:
        """Lets nothing through, either way, or does again. What was typed and not taken yet is dropped."""
        self._held = held
        if held:
            self._input.drop()
        self.drained()

    def replay(self) -> Replay:
        """The last output of the terminal."""
        assert self._scrollback is not None, "only terminals are joined"
        return self._scrollback.replay()

    @property
    def open(self) -> bool:
        """Whether the process, or what it left behind, may still say something."""
        return any(output.open for output in self._outputs)

    async def copy_rest(self, stop: asyncio.Future[str]) -> None:
        """Output that was written before the process's end still goes to the parties; so does, for a while, what comes
        after. Returns when nothing can come, nothing has come for a while, or `stop` is done."""
        while self.open and not stop.done():
            self._moved.clear()
            moved = asyncio.ensure_future(self._moved.wait())
            either: set[asyncio.Future[Any]] = {moved, stop}
            try:
                limit = None if self._held_up else _COPY_SECONDS
                done, _ = await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()
            if not done:
                return

    # to the process

    def typed(self, data: bytes) -> None:
        """Input of a party; dropped while the session is held."""
        if self._held:
            return
        self.received += len(data)
        self._input.write(data)

    def end_input(self) -> None:
        """No more input comes. A terminal has no half-close: its other direction would be lost."""
        if self._pty is None:
            self._input.end()

    def _stop_reading(self) -> None:
        """The process takes no more. Who only watches goes on being heard: a moderator's keys are not input."""
        self._stopped = True
        for party in self._parties:
            if party.types:
                party.channel.pause_reading()

    def _read_on(self) -> None:
        self._stopped = False
        for party in self._parties:
            party.channel.resume_reading()

    @property
    def _terminal(self) -> int | None:
        """The terminal's descriptor while it is open."""
        return self._pty if self._outputs[0].open else None

    def resize(self, size: TerminalSize) -> bool:
        """Gives the terminal, if there is one, another size; True when it was done, and is in the recording."""
        terminal = self._terminal
        if terminal is None or self._recording.failed.done():
            return False
        resize_terminal(terminal, size.columns, size.rows, size.width, size.height)
        self._recording.resize(size.columns, size.rows)
        return True

    def send_break(self) -> bool:
        """Sends a break to the terminal, if there is one."""
        terminal = self._terminal
        if terminal is None:
            return False
        termios.tcsendbreak(terminal, 0)
        return True

    def close(self) -> None:
        """Closes every descriptor."""
        for output in self._outputs:
            output.close()
        self._input.close()
