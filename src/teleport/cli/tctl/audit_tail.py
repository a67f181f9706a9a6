"""`tctl audit tail`: events in the order in which auth took them in, from where the reader left off.

The cursor is written, by rename and synced, after the lines that it covers were flushed; with `--ack` after the reader
said that it has taken them. So a kill at any moment loses nothing: what lay between two cursors comes once more, with
the same `uid`.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Command, comma_list, flags_of, format_option
from teleport.errors import AlreadyExists, BadRequest, ConnectionProblem, LimitExceeded, TeleportError

if TYPE_CHECKING:
    from teleport.audit.cursor import Cursor
    from teleport.cli.tctl.connect import Auth

PAGE: Final = 500  # events of one call
LOOK: Final = 1.0  # seconds between looks at a log that holds nothing new
MOST_WAIT: Final = 30.0  # seconds between tries while auth does not answer


@click.command("tail", cls=Command)
@click.option("--cursor", "file", required=True, metavar="FILE", help="Keeps how far was read; made when absent.")
@click.option(
    "--from", "start", type=click.Choice(("oldest", "now")), default="oldest", help="Where a new FILE begins."
)
@click.option("--type", "types", multiple=True, metavar="NAME,..", help="Only these; a star at the end: session.*")
@click.option("--follow", is_flag=True, help="Go on with events as they come; outlasts auth's restarts.")
@click.option("--ack", is_flag=True, help="Move on when a line on stdin acknowledges an event, one for each in order.")
@format_option("text", "json")
@click.pass_context
def tail(ctx: click.Context, file: str, start: str, types: tuple[str, ...], follow: bool, ack: bool, form: str) -> None:
    """Print the events that came since the last run with this FILE, in the order in which auth took them in. After a
    kill none is missed; those that were printed and not yet noted in FILE come again, with the same uid."""
    from teleport.cli.tctl.connect import open_auth

    with _alone(Path(file)) as cursor, open_auth(flags_of(ctx)) as auth:
        reader = _Reader(auth, cursor, form, ack, comma_list(types), follow)
        reader.begin(start)
        reader.run()


class _End(Exception):
    """Nobody acknowledges any more."""


class _CursorFile:
    """The file, as written by whoever holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> str:
        try:
            return self.path.read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(
                f"cannot read {self.path}: {error}", hint="name a file that tctl audit tail made"
            ) from None

    def save(self, cursor: str) -> None:
        from teleport.audit.appendlog import sync_directory
        from teleport.cli.tctl.files import write_private

        write_private(self.path, cursor.encode() + b"\n")
        sync_directory(self.path.parent)


@contextmanager
def _alone(path: Path) -> Iterator[_CursorFile]:
    """The cursor's file while no other process reads by it."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TeleportError(f"cannot write {lock}: {error.strerror}", hint="name another place with --cursor") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(
                f"another process reads the audit log by {path}", hint="end that one, or give each a cursor of its own"
            ) from None
        yield _CursorFile(path)
    finally:
        os.close(descriptor)


class _Reader:
    """One run."""

    def __init__(self, auth: Auth, file: _CursorFile, form: str, ack: bool, types: list[str], follow: bool) -> None:
        self._auth = auth
        self._file = file
        self._json = form == "json"
        self._ack = ack
        self._types = types
        self._follow = follow
        self._saved = ""
        self._told = ""

    def begin(self, start: str) -> None:
        self._saved = self._file.load()
        if not self._saved and start == "now":
            self._keep(self._ask(m.TailEventsRequest(from_now=True)).cursor)

    def run(self) -> None:
        while True:
            page = self._ask(m.TailEventsRequest(cursor=self._saved, types=self._types, limit=PAGE))
            try:
                self._take(page)
            except _End:
                return
            self._tell_of(page.waiting)
            if not page.more:
                if not self._follow:
                    return
                time.sleep(LOOK)

    def _take(self, page: m.TailedEvents) -> None:
        """Prints a page and moves the cursor behind it."""
        for event in page.events:
            render.out(self._shown(event.line))
        if page.events:
            sys.stdout.flush()
            if self._ack:
                self._acknowledged(page.events)
        self._keep(page.cursor)

    def _shown(self, line: str) -> str:
        from teleport.cli.tctl.events import as_line

        if not self._json:
            return f"{as_line(line)}\n"
        # a terminal is not driven by what a host wrote; files and pipes get the stored bytes
        return f"{render.printable(line) if sys.stdout.isatty() else line}\n"

    def _acknowledged(self, events: list[m.TailedEvent]) -> None:
        """Returns when each of `events` was; moves the cursor as they are."""
        from teleport.audit.cursor import Cursor, StorePlace

        cursor: Cursor = Cursor.parse(self._saved)
        done = 0
        while done < len(events):
            said = sys.stdin.buffer.read1(65536)  # type: ignore[union-attr]  # a pipe, a terminal or a file
            if not said:
                raise _End
            for event in events[done : done + said.count(b"\n")]:
                cursor = cursor.after(event.store, StorePlace(event.file, event.offset, event.check))
                done += 1
            if done < len(events):
                self._keep(str(cursor))

    def _keep(self, cursor: str) -> None:
        if cursor != self._saved:
            self._file.save(cursor)
            self._saved = cursor

    def _ask(self, request: m.TailEventsRequest) -> m.TailedEvents:
        """Auth's answer; while it follows, waits for one."""
        wait = LOOK
        while True:
            try:
                return self._auth.client.call(routes.TAIL_EVENTS, request)
            except TeleportError as error:
                passes = isinstance(error, ConnectionProblem | LimitExceeded) or type(error) is TeleportError
                if not self._follow or not passes:
                    raise
                self._note(f"waiting for auth: {error.message}")
            time.sleep(wait)
            wait = min(2 * wait, MOST_WAIT)

    def _tell_of(self, waiting: m.EventsWaiting | None) -> None:
        if waiting is None:
            self._told = ""
            return
        since = msgspec.json.encode(waiting.since).decode().strip('"')
        self._note(f"Events wait to be taken into the log since {since}: {render.printable(waiting.cause)}")

    def _note(self, text: str) -> None:
        if text != self._told:
            render.say(text)
            self._told = text
