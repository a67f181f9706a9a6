"""One command on many hosts: over one connection to the proxy, so many at once as was said, lines told apart by host.

A host's failure concerns that host alone. Interrupted, every command still running is told so and ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from teleport.client import system
from teleport.client.access import Access
from teleport.client.session import Way, closed, way
from teleport.errors import SECOND_FACTOR_DUE, TeleportError
from teleport.recording.sanitise import one_line
from teleport.ssh.client_session import RemoteExit, RemoteSession

MAX_LINE = 64 * 1024  # bytes; a longer line is shown in pieces
NOT_KNOWN = 255
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_STYLE = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
_END_SECONDS = 2.0  # for commands to end that were interrupted


@dataclass(frozen=True, slots=True)
class Host:
    """A host: how it is shown, and by what it is reached (its name, or its id where several have the name)."""

    shown: str
    reach: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the command ended on one host: a status, or a sentence on why there is none."""

    status: int | None = None
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.status == 0

    @property
    def code(self) -> int:
        return NOT_KNOWN if self.status is None else self.status

    def __str__(self) -> str:
        return self.problem if self.status is None else f"exit {self.status}"


Show = Callable[[Host, bytes, bool], None]  # a line without its end, and whether it is of stderr


class LineBuffer:
    """Cuts a stream into lines."""

    def __init__(self, show: Callable[[bytes], None]) -> None:
        self._show = show
        self._rest = b""

    def feed(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._show(line.removesuffix(b"\r"))
        while len(self._rest) > MAX_LINE:
            self._show(self._rest[:MAX_LINE])
            self._rest = self._rest[MAX_LINE:]

    def finish(self) -> None:
        """Shows a last line without an end."""
        if self._rest:
            self._show(self._rest)
            self._rest = b""


def prefixes(hosts: Sequence[Host], *, colours: bool) -> dict[Host, bytes]:
    """What each host's lines begin with: all as wide as the longest."""
    names = {host: one_line(host.shown, 60) for host in hosts}
    width = max((len(name) for name in names.values()), default=0)
    found = {}
    for number, (host, name) in enumerate(names.items()):
        text = name.ljust(width)
        if colours:
            text = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{text}\x1b[0m"
        found[host] = f"{text} | ".encode()
    return found


def for_terminal(line: bytes) -> bytes:
    """A line fit to stand behind a host's name: colours stay, what moves the cursor is made visible, so that no host
    writes in another one's name."""
    parts = _STYLE.split(line.decode(errors="replace").expandtabs())
    styled = len(parts) > 1
    shown = "".join(part if number % 2 else one_line(part, MAX_LINE) for number, part in enumerate(parts))
    return f"{shown}\x1b[0m".encode() if styled else shown.encode()


class Many:
    """A command, and how it ended on each host."""

    def __init__(
        self,
        hosts: Sequence[Host],
        login: str,
        port: int,
        command: str,
        environment: Mapping[str, str],
        show: Show,
    ) -> None:
        self._hosts = hosts
        self._login = login
        self._port = port
        self._command = command
        self._environment = environment
        self._show = show
        self._running: set[RemoteSession] = set()
        self._stopped = asyncio.Event()
        self.outcomes: dict[Host, Outcome] = {}
        self.interrupted = False

    async def run(self, access: Access, now: datetime, parallel: int, *, strict: bool = False) -> int:
        """Runs everywhere; gives the exit status. Raises `TeleportError` when the proxy cannot be reached, and with
        `strict` when a host needs a second factor."""
        system.on_signals(asyncio.get_running_loop(), ("SIGINT", "SIGTERM", "SIGHUP"), self._interrupt)
        turns = asyncio.Semaphore(parallel)
        async with way(access, self._login, now) as found:
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(self._one(found, host, turns), name=f"tsh {host.shown}") for host in self._hosts
            ]
            stop: asyncio.Task[Any] = asyncio.create_task(self._stopped.wait(), name="tsh stop")
            try:
                left = set(tasks)
                while left and not stop.done():
                    done, _ = await asyncio.wait({*left, stop}, return_when=asyncio.FIRST_COMPLETED)
                    left -= done
                if left:
                    await asyncio.wait(left, timeout=_END_SECONDS)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in (*tasks, stop):
                    task.cancel()
                await asyncio.gather(*tasks, stop, return_exceptions=True)
        for host in self._hosts:
            self.outcomes.setdefault(host, Outcome(problem="interrupted"))
        if strict:
            for outcome in self.outcomes.values():
                if SECOND_FACTOR_DUE in outcome.problem:
                    raise TeleportError(outcome.problem, hint="tsh ssh LOGIN@HOST asks for it")
        return self.status()

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stopped.set()
        for session in self._running:
            session.signal("INT")
            session.close()

    async def _one(self, found: Way, host: Host, turns: asyncio.Semaphore) -> None:
        async with turns:
            if self.interrupted:
                return
            try:
                self.outcomes[host] = await self._on(found, host)
            except TeleportError as error:
                self.outcomes[host] = Outcome(problem=error.message)

    async def _on(self, found: Way, host: Host) -> Outcome:
        node = await found.to(host.reach, self._port, self._login)
        buffers = [LineBuffer(lambda line, err=err: self._line(host, line, err)) for err in (False, True)]  # type: ignore[misc]
        try:
            session = await node.start(
                command=self._command,
                environment=self._environment,
                on_output=lambda data, is_stderr: buffers[is_stderr].feed(data),
            )
            session.write_eof()
            self._running.add(session)
            try:
                ended = await session.wait()
            finally:
                self._running.discard(session)
                for buffer in buffers:
                    buffer.finish()
            lost = ended.status is None and not ended.signal
            return _outcome(ended, await found.lost_hop(node, host.shown) if lost and not self.interrupted else "")
        finally:
            await closed(node, alone=True)

    def _line(self, host: Host, line: bytes, is_stderr: bool) -> None:
        try:
            self._show(host, line, is_stderr)
        except OSError:  # whoever reads our output has gone
            self._interrupt()

    def status(self) -> int:
        """0 when all are good, what those that failed agree upon, else 1."""
        codes = {outcome.code for outcome in self.outcomes.values() if not outcome.good}
        return 0 if not codes else codes.pop() if len(codes) == 1 else 1

    def summary(self) -> str:
        """One line for whoever looks at the end."""
        bad = [(host, outcome) for host, outcome in self.outcomes.items() if not outcome.good]
        good = len(self.outcomes) - len(bad)
        counted = f"{len(self.outcomes)} host{'s' if len(self.outcomes) != 1 else ''}: {good} done"
        if not bad:
            return counted
        named = "; ".join(f"{host.shown} ({outcome})" for host, outcome in bad[:20])
        more = f"; and {len(bad) - 20} more" if len(bad) > 20 else ""
        return f"{counted}, {len(bad)} failed: {named}{more}"


def _outcome(ended: RemoteExit, hop: str) -> Outcome:
    if ended.status is not None:
        return Outcome(ended.status)
    if ended.signal:
        return Outcome(problem=f"ended by signal {one_line(ended.signal, 20)}")
    return Outcome(problem=one_line(hop or ended.message or "the connection was lost"))
