"""Sessions that move files: what their process asks is decided here, what it did goes on record.

The rules are those of the permit as it is when something is asked (`authz.transfer`). The process answers its client
once what was done is on record; what it had open when it was killed is on record, too, before the session's end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final

from teleport.audit.events import Scp, ServerEvent, Sftp
from teleport.authz.channels import ChannelTerms
from teleport.authz.decision import AccessDenial
from teleport.authz.transfer import (
    Direction,
    most_bytes,
    scope,
    why_no_link,
    why_no_move,
    why_no_rsync,
    why_no_transfer,
    why_no_tree,
)
from teleport.clock import Clock
from teleport.launcher.values import Kind
from teleport.node.facts import SessionEvents
from teleport.node.needs import Recording
from teleport.node.programs import Program
from teleport.recording.format import FileDetail

log = logging.getLogger(__name__)

_PACKET: Final = 256 * 1024
_BATCH: Final = 200
_OF_SCP: Final = ("path", "size", "sha256", "hash_reason", "error")
_SETTLE_SECONDS: Final = 10.0


class Transfers:
    """The daemon's end of the socket of one session that moves files."""

    def __init__(
        self,
        descriptor: int,
        program: Program,
        terms: Callable[[], ChannelTerms],
        events: SessionEvents,
        recording: Recording,
        clock: Clock,
        *,
        in_background: Callable[[Coroutine[Any, Any, None], str], None],
        denied: Callable[[str, str], None],
        fail: Callable[[str], None],
    ) -> None:
        """Owns `descriptor`. `denied` puts a refusal on record, `fail` ends the session with a reason."""
        self._sock = socket.socket(fileno=descriptor)
        self._program = program
        self._terms = terms
        self._events = events
        self._recording = recording
        self._clock = clock
        self._in_background = in_background
        self._denied = denied
        self._fail = fail
        self._home = ""
        self._scope = program.scope
        # Files that are open: the terms that they were judged by, direction, path, how many bytes may move (0: any).
        self._open: dict[int, tuple[ChannelTerms, str, str, int]] = {}
        self._judged: ChannelTerms | None = None  # what the process was told of last
        self._answered: tuple[ChannelTerms | None, int] = (None, 0)  # what its last question was answered by, and how
        self._waiting: deque[tuple[int, datetime, dict[str, Any]]] = deque()
        self._scheduled = False
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._sock.fileno(), self._hear)
        self.failed = 0  # operations that failed
        self.moved = 0  # bytes
        self.reconsider()  # rules may have changed since the process was told of them

    def reconsider(self) -> None:
        """Rules changed: what is asked from now on goes by them, what has to be asked may be another, and what is open
        and may be so no longer moves no further."""
        terms = self._terms()
        now = scope(terms)
        if now != self._scope or (self._judged is not None and terms != self._judged):
            self._send(["terms", now.asks, now.looks])
        self._scope, self._judged = now, terms
        for handle, (judged, direction, path, most) in self._open.items():
            if judged != terms:
                self._open[handle] = (terms, direction, path, self._judge_open(handle, terms, direction, path, most))

    def _judge_open(self, handle: int, terms: ChannelTerms, direction: str, path: str, before: int) -> int:
        """Rules as they are now, for what was opened by others; how many bytes may move, which were `before`."""
        most = 0
        for way in direction.split("+"):
            denied, limit = self._judge(terms, [way, path, 0])
            if denied is not None:
                self._send(["stop", handle, denied.public, "; ".join(denied.reasons) or denied.public, 0])
                return before
            most = min((one for one in (most, limit) if one), default=0)
        if most != before:
            self._send(["stop", handle, "", "", most])
        return most

    def _send(self, message: list[Any]) -> None:
        try:
            self._sock.send(json.dumps(message, separators=(",", ":")).encode(), socket.MSG_NOSIGNAL)
        except OSError as error:  # its end is seen by the reader; it never leaves so many answers unread
            if not isinstance(error, BrokenPipeError | ConnectionResetError) and self._sock.fileno() >= 0:
                log.error("a file transfer does not listen sid=%s error=%s", self._events.sid, error)
                self._fail("its file transfer does not listen")

    def _hear(self) -> None:
        for _ in range(64):
            try:
                packet = self._sock.recv(_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._stop_hearing()
                return
            try:
                self._take(packet)
            except (ValueError, TypeError, KeyError):
                log.exception("a file transfer talks nonsense sid=%s", self._events.sid)
                self._fail("its file transfer failed on the node")
                self._stop_hearing()
                return

    def _take(self, packet: bytes) -> None:
        match json.loads(packet):
            case ["home", str(path)]:
                self._home = path
            case ["ask", int(number), list(questions)]:
                self._answer(number, questions)
            case ["opened", int(handle), str(direction), str(path)]:
                terms, (answered, most) = self._terms(), self._answered
                if terms != answered:  # it was not asked about, or rules changed since
                    most = self._judge_open(handle, terms, direction, path, most)
                self._open[handle] = (terms, direction, path, most)
            case ["done", int(number), int(handle), dict(fields)]:
                self._open.pop(handle, None)
                self._put(number, fields)

    # questions

    def _answer(self, number: int, questions: list[Any]) -> None:
        terms, most = self._terms(), 0
        self._answered = (terms, 0)
        for question in questions:
            denied, limit = self._judge(terms, question)
            if denied is not None:
                if self._program.kind is Kind.RSYNC:
                    self._denied("rsync", "; ".join(denied.reasons))
                self._send(["answer", number, denied.public, "; ".join(denied.reasons) or denied.public, 0])
                return
            most = min((one for one in (most, limit) if one), default=0)
        self._answered = (terms, most)
        self._send(["answer", number, "", "", most])

    def _judge(self, terms: ChannelTerms, question: list[Any]) -> tuple[AccessDenial | None, int]:
        if self._program.kind is Kind.RSYNC and (denied := why_no_rsync(terms)) is not None:
            return denied, 0  # rules have changed since it was started
        match question:
            case ["move", str(old), str(new)]:
                return why_no_move(terms, old, new, home=self._home), 0
            case ["link", str(path), int()]:
                return why_no_link(terms, path, home=self._home), 0
            case ["tree", str(way), str(path)]:
                return why_no_tree(terms, Direction(way), path, home=self._home), 0
            case [str(way), str(path), int(size)]:
                direction = Direction(way)
                denied = why_no_transfer(terms, direction, path, home=self._home, size=size)
                return denied, 0 if denied is not None else most_bytes(terms, direction, path, home=self._home)
        raise ValueError("not a question about files")

    # what was done

    def _put(self, number: int, fields: dict[str, Any]) -> None:
        self._waiting.append((number, self._clock.now(), fields))
        if not self._scheduled:
            self._scheduled = True
            self._in_background(self._write(), f"files of session {self._events.sid}")

    async def _write(self) -> None:
        async with self._turn:
            self._scheduled = False
            try:
                while self._waiting:
                    batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                    for _, _, fields in batch:
                        self._record(fields)
                    await self._events.emit_all([self._event(now, fields) for _, now, fields in batch])
                    self._send(["kept", max(number for number, _, _ in batch)])
            except Exception:
                log.exception("what was done to files cannot be put on record sid=%s", self._events.sid)
                self._waiting.clear()
                self._fail("what it does to files cannot be put on record")

    def _record(self, fields: dict[str, Any]) -> None:
        self.failed += "error" in fields
        self.moved += fields.get("size", 0)
        self._recording.file(
            FileDetail(
                action=fields["action"],
                path=fields["path"],
                target=fields.get("target", ""),
                size=fields.get("size", 0),
                sha256=fields.get("sha256", ""),
                error=fields.get("error", ""),
            )
        )

    def _event(self, now: datetime, fields: dict[str, Any]) -> tuple[type[ServerEvent], datetime, dict[str, Any]]:
        if self._program.kind is not Kind.SCP:
            return Sftp, now, fields
        told: dict[str, Any] = {
            "action": fields.get("direction", ""),
            "operation": fields["action"],
            "exit_code": "1" if "error" in fields else "0",
            "command": self._program.shown,
        }
        return Scp, now, {**{name: fields[name] for name in _OF_SCP if name in fields}, **told}

    # the end

    def _stop_hearing(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if not self._ended.done():
            self._ended.set_result(None)

    async def settle(self) -> None:
        """The process has ended: returns when everything that it did is on record."""
        if not self._ended.done():
            await asyncio.wait({self._ended}, timeout=_SETTLE_SECONDS)
        self._stop_hearing()
        for _, direction, path, _ in self._open.values():
            action = "write" if "upload" in direction else "read"
            why = "the process that moved it was killed"
            fields = {"action": action, "path": path, "direction": direction.rpartition("+")[2]}
            self._put(0, {**fields, "error": why, "hash_reason": why})
        self._open.clear()
        await self._write()
