"""`tctl recordings`: recorded sessions, and their bytes in forms that other programs read."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth

PAGE: Final = 500  # recordings of one call
_COMMAND: Final = 60  # characters of a command in the table


@click.group(cls=Group)
def recordings() -> None:
    """List and download recorded sessions."""


@recordings.command("ls")
@click.option("--user", default="", help="Only sessions of this user.")
@click.option("--host", default="", help="Only sessions on this host, by name or UUID.")
@click.option("--login", default="", help="Only sessions of this Unix account.")
@format_option("text", "json")
@click.pass_context
def list_recordings(ctx: click.Context, user: str, host: str, login: str, form: str) -> None:
    """List recordings, oldest first."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        found = [
            one
            for one in _all(auth)
            if user in ("", one.user) and login in ("", one.login) and host in ("", one.node, one.hostname)
        ]
    found.sort(key=lambda one: (one.started, one.sid))
    if form == "json":
        render.out(render.as_json([msgspec.to_builtins(one) for one in found]))
        return
    rows = [
        [one.sid, render.when(one.started), one.user, one.login, one.hostname or one.node, _what(one), str(one.size)]
        for one in found
    ]
    render.out(render.table(["Session", "Started (UTC)", "User", "Login", "Host", "Command", "Bytes"], rows))


def _all(auth: Auth) -> Iterator[m.RecordingInfo]:
    key = ""
    while True:
        page = auth.client.call(routes.LIST_RECORDINGS, m.ListRecordingsRequest(start_key=key, limit=PAGE))
        yield from page.items
        if not page.next_key or page.next_key == key:
            return
        key = page.next_key


def _what(one: m.RecordingInfo) -> str:
    if not one.command:
        return "(shell)"
    return one.command if len(one.command) <= _COMMAND else one.command[: _COMMAND - 3] + "..."


@recordings.command("download")
@click.argument("sid")
@click.option("-o", "--out", default="", metavar="FILE", help="Write to this file (0600) instead of stdout.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@format_option("cast", "text", "json", "raw")
@click.pass_context
def download(ctx: click.Context, sid: str, out: str, overwrite: bool, form: str) -> None:
    """Print the recording of the session SID: as asciicast, as plain text, as JSON lines, or raw: the exact bytes that
    the session put out. The recording is verified on the way."""
    from teleport.cli.progress import progress
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.files import check_free
    from teleport.recording.export import ExportFormat, export
    from teleport.recording.player import RecordingReader

    if form == "raw" and not out and sys.stdout.isatty():
        raise BadRequest("raw bytes may drive your terminal", hint="-o FILE, or --format=text")
    if out:
        check_free([Path(out)], overwrite=overwrite)
    with tempfile.TemporaryFile() as kept:
        with open_auth(flags_of(ctx)) as auth, progress("downloading", "bytes") as so_far:
            for part in auth.client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid)):
                kept.write(part)
                so_far(kept.tell())
        kept.seek(0)
        reader = RecordingReader(kept, name=sid)
        with _target(out) as target:
            try:
                for piece in export(reader.header, reader.frames(), ExportFormat(form)):
                    target.write(piece)
            except TeleportError as error:
                target.flush()
                raise type(error)(
                    f"{error.message}: what came before that place was written", hint="tctl audit verify"
                ) from None


@contextmanager
def _target(out: str) -> Iterator[BinaryIO]:
    """Where the bytes go."""
    if not out:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    import os

    path = Path(out)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another place with --out") from None
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        yield file
