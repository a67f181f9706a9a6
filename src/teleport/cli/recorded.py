"""Recorded sessions at the command line: what `tsh recordings` and `tctl recordings` have in common.

What others wrote (commands, lines of screens) is shown escaped (threat T44); in JSON it is whole.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from teleport.cli import render
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.api import messages as m
    from teleport.api.sync_client import SyncAuthClient

F = TypeVar("F", bound=Callable[..., Any])
PAGE: Final = 500  # recordings of one call
DEFAULT_LIMIT: Final = 500  # of a table
DEFAULT_MATCHES: Final = 20
EXPORTS: Final = ("cast", "text", "json", "html")
KINDS: Final = ("shell", "exec", "transfer")
_COMMAND: Final = 60  # characters of a command in the table
_LEFT_OUT: Final = 20  # sessions that were not searched, of which each gets a line


@dataclass(frozen=True, slots=True)
class Filters:
    """Which sessions are meant."""

    user: str = ""
    host: str = ""
    login: str = ""
    kind: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def as_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("user", "host", "login", "kind", "start", "end")}


def filter_options(function: F) -> F:
    """`--user`, `--host`, `--login`, `--kind`, `--from` and `--to`; `filters_of` reads them."""
    for option in reversed(
        (
            click.option("--user", "of_user", default="", metavar="NAME", help="Only sessions of this user."),
            click.option("--host", default="", help="Only sessions on this host, by name or UUID."),
            click.option(
                "--login", "as_login", default="", metavar="LOGIN", help="Only sessions of this Unix account."
            ),
            click.option("--kind", type=click.Choice(KINDS), default=None, help="Only sessions of this kind."),
            click.option("--from", "start", default="", metavar="TIME", help="Begun not before: -24h, 2024-05-31."),
            click.option("--to", "end", default="", metavar="TIME", help="Begun before; of a date, before its end."),
        )
    ):
        function = option(function)
    return function


def filters_of(options: dict[str, Any]) -> Filters:
    """The filters among `options`, which are taken out of it. Raises `BadRequest`."""
    from teleport.cli.tctl.timerange import parse_range

    first, last = parse_range(options.pop("start"), options.pop("end"), datetime.now(UTC))
    kind = options.pop("kind") or ""
    return Filters(options.pop("of_user"), options.pop("host"), options.pop("as_login"), kind, first, last)


# --- lists


def list_recordings(client: SyncAuthClient, filters: Filters, limit: int | None, form: str) -> None:
    """Prints the newest `limit` recordings, oldest first; None: all of them."""
    import msgspec

    from teleport.api import messages as m
    from teleport.api import routes

    found: list[m.RecordingInfo] = []
    key, more = "", False
    while True:
        size = PAGE if limit is None else min(PAGE, limit - len(found))
        request = m.ListRecordingsRequest(newest_first=True, start_key=key, limit=size, **filters.as_fields())
        page = client.call(routes.LIST_RECORDINGS, request)
        found += page.items
        more = bool(page.next_key)
        if not more or page.next_key == key or (limit is not None and len(found) >= limit):
            break
        key = page.next_key
    found.sort(key=lambda one: (one.started, one.sid))
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text([msgspec.to_builtins(one) for one in found]))
    else:
        rows = [_row(one) for one in found]
        render.out(render.table(["Session", "Started (UTC)", "User", "Login", "Host", "Command", "Bytes"], rows))
    if more:
        render.note(f"Only the newest {len(found)} are shown: --limit=N or --from and --to show others.")
    for sid in dict.fromkeys(one.sid for one in found if one.name not in ("", one.sid)):
        render.note(
            f"Several hosts have brought a recording of session {sid}: play one by SID.HOST, with the host's UUID. "
            f"Which told what: tctl audit ls --type=session.conflict --session={sid}"
        )


def _row(one: m.RecordingInfo) -> list[str]:
    host = one.hostname or one.node
    people = ", ".join(one.participants) or one.user
    return [one.name or one.sid, render.when(one.started), people, one.login, host, _what(one.command), str(one.size)]


def _what(command: str) -> str:
    if not command:
        return "(shell)"
    return command if len(command) <= _COMMAND else command[: _COMMAND - 3] + "..."


# --- search


def search_recordings(client: SyncAuthClient, text: str, filters: Filters, limit: int, form: str) -> None:
    """Prints the newest `limit` sessions that showed `text`."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.progress import progress

    found: list[m.RecordingMatch] = []
    left_out: list[m.RecordingLeftOut] = []
    key, searched, more = "", 0, False
    with progress("searching recordings", "sessions") as so_far:
        while True:
            size = min(100, limit - len(found))
            request = m.SearchRecordingsRequest(text=text, start_key=key, limit=size, **filters.as_fields())
            page = client.call(routes.SEARCH_RECORDINGS, request)
            found += page.items
            left_out += page.left_out or [m.RecordingLeftOut(sid=sid, why="unreadable") for sid in page.unsearchable]
            searched += page.searched
            so_far(searched)
            key, more = page.next_key, bool(page.next_key)
            if not more or len(found) >= limit:
                break
    if form == "json":
        import msgspec

        from teleport.cli.tsh.output import json_text

        render.out(json_text([msgspec.to_builtins(one) for one in found]))
    else:
        for one in found:
            _show_match(one)
    if not found and form != "json":
        render.note(f"Nothing of the {searched} sessions that you may play showed it.")
    if more:
        render.note(f"Only the newest {len(found)} sessions are shown: --limit=N shows more.")
    for other in left_out[:_LEFT_OUT]:
        render.note(render.printable(_why_left_out(other)))
    if len(left_out) > _LEFT_OUT:
        render.note(f"So it is with {len(left_out) - _LEFT_OUT} sessions more; --from and --to narrow the search.")


def _why_left_out(one: m.RecordingLeftOut) -> str:
    from teleport.client.playing import clock

    match one.why:
        case "preparing":
            return f"Session {one.sid} was not searched: its recording is still being prepared. Search again later."
        case "unreadable":
            return f"The recording of session {one.sid} cannot be read: tctl recordings verify {one.sid}"
        case "elsewhere":
            return f"Session {one.sid} was not searched: its recording is in S3, searchable by another auth server."
        case "broken":
            why, hint = "its recording breaks off", f"tctl recordings verify {one.sid}"
        case "time":
            why, hint = "drawing more of it costs too much", f"tsh play {one.sid}"
        case _:
            why, hint = "it showed more than is made searchable", f"tsh play {one.sid}"
    return f"Session {one.sid} was searched up to {clock(one.until)} only, for {why}: {hint}"


def _show_match(one: m.RecordingMatch) -> None:
    from teleport.client.playing import clock

    where = f"{one.user} as {one.login} on {one.hostname or one.node}"
    what = f": {_what(one.command)}" if one.command else ""
    render.out(render.printable(f"{one.name or one.sid}  {render.when(one.started)} UTC  {where}{what}") + "\n")
    for hit in one.hits:
        kind = "" if hit.kind == "screen" else f"[{hit.kind}] "
        render.out(f"  {clock(hit.time):>8}  {render.printable(kind + hit.text)}\n")
    if one.count > len(one.hits):
        render.out(f"            and {one.count - len(one.hits)} lines more\n")
    if not one.whole:
        render.out("            the session showed more than was searched\n")


# --- exports


def export_recording(client: SyncAuthClient, sid: str, form: str, out: str, *, overwrite: bool) -> None:
    """Writes the recording in a form to a file, or to stdout. It is verified on the way."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.progress import progress
    from teleport.cli.tctl.files import check_free
    from teleport.recording.export import ExportFormat, export
    from teleport.recording.player import RecordingReader

    if form == "raw" and not out and sys.stdout.isatty():
        raise BadRequest("raw bytes may drive your terminal", hint="-o FILE, or --format=text")
    if form == "html" and not out and sys.stdout.isatty():
        raise BadRequest("a page is for a browser, not for a terminal", hint="-o FILE.html")
    if out:
        check_free([Path(out)], overwrite=overwrite)
    with tempfile.TemporaryFile() as kept:
        with progress("downloading", "bytes") as so_far:
            for part in client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid, form=form)):
                kept.write(part)
                so_far(kept.tell())
        kept.seek(0)
        reader = RecordingReader(kept, name=sid)
        with target(out) as written:
            try:
                for piece in export(reader.header, reader.frames(), ExportFormat(form)):
                    written.write(piece)
            except TeleportError as error:
                written.flush()
                raise type(error)(
                    f"{error.message}: what came before that place was written", hint="tctl audit verify"
                ) from None


@contextmanager
def target(out: str) -> Iterator[BinaryIO]:
    """Where the bytes go: a file (0600), or stdout."""
    if not out:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(out)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another place with --out") from None
    with open(descriptor, "wb") as file:
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)
        yield file
