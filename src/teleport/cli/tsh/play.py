"""`tsh play`: a recorded session, from the cluster or from a file.

A recording holds what a session printed, and a session may have printed to attack whoever watches it (threat T44):
everything that is shown passes the sanitiser, and the player never answers.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import AccessDenied, BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.recording.player import PlayStep, RecordingReader

FORMATS = ["pty", "text", "json", "cast"]
WHOSE = "with the role access you play sessions that you took part in, with auditor all"


@click.command()
@click.argument("recording", metavar="SID|FILE")
@click.option("-f", "--format", "form", type=click.Choice(FORMATS), default="pty")
@click.option("--speed", type=click.FloatRange(0.1, 100), default=1.0, help="times as fast")
@cluster_option
@takes_flags
def play(flags: Flags, recording: str, form: str, speed: float, cluster: str) -> None:
    """Play a recorded session.

    With pty, in a terminal: space pauses, + and - change the speed, q quits. The other formats print it at once.
    """
    from teleport.recording.player import RecordingReader

    with _opened(flags, recording, cluster) as file:
        reader = RecordingReader(file, name=recording)
        if form == "pty":
            play_pty(reader, speed)
        else:
            _export(reader, form)


@contextmanager
def _opened(flags: Flags, recording: str, cluster: str) -> Iterator[BinaryIO]:
    """The recording's bytes: a file's, or what auth has of the session, kept in an unnamed file while it plays."""
    from teleport.recording.format import canonical_uuid

    try:
        sid = canonical_uuid(recording)
    except TeleportError:
        sid = ""
    if not sid or Path(recording).is_file():
        with _file(recording) as file:
            yield file
        return
    import tempfile

    from teleport.cli.progress import progress
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.cluster import auth_client, download_recording

    found = access(flags, cluster)
    with tempfile.TemporaryFile() as kept:
        with auth_client(found.credentials, found.web_api(now()).open, found.web, second_factor(found.web)) as client:
            try:
                with progress("downloading", "bytes") as so_far:
                    for piece in download_recording(client, sid):
                        kept.write(piece)
                        so_far(kept.tell())
            except AccessDenied as denied:
                if denied.hint:
                    raise
                raise AccessDenied("there is no session of this id that you may play", hint=WHOSE) from None
        kept.seek(0)
        yield kept


def _file(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except FileNotFoundError:
        raise NotFound(
            f"{name[:200]} is neither a session's id nor a file",
            hint="tctl recordings ls lists the sessions that you may play",
        ) from None
    except OSError as error:
        raise BadRequest(
            f"cannot read {name[:200]}: {error.strerror}", hint="check the path and who may read it"
        ) from None


def _export(reader: RecordingReader, form: str) -> None:
    from teleport.recording.export import ExportFormat, export

    sys.stdout.flush()
    for piece in export(reader.header, reader.frames(), ExportFormat(form)):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def play_pty(reader: RecordingReader, speed: float) -> None:
    """Shows the session as it was timed; where stdout is no terminal nobody watches, and nothing waits."""
    import gc

    from teleport.client import system, terminal
    from teleport.client.playing import Playing, shown_steps
    from teleport.recording.player import schedule
    from teleport.recording.sanitise import RESET_TERMINAL

    gc.enable()
    sys.stdout.flush()
    steps = shown_steps(schedule(reader.frames()))
    if not terminal.is_terminal(terminal.STDOUT):
        for step in steps:
            terminal.write_all(terminal.STDOUT, step.data)
        return
    keys = terminal.STDIN if system.HAS_TERMINAL and terminal.is_terminal(terminal.STDIN) else None
    with ExitStack() as stack:
        if keys is not None:
            stack.enter_context(terminal.keys_only(keys))
        # whatever ends it, the viewer gets the terminal back in order
        stack.callback(terminal.write_all, terminal.STDOUT, RESET_TERMINAL)
        _show(steps, Playing(speed), keys)
    terminal.write_all(terminal.STDOUT, b"\r\n")


def _pressed(keys: int | None, seconds: float | None) -> bool:
    """Waits so long, or until a key is pressed; for ever when `seconds` is None."""
    if keys is None:  # not every system can wait for nothing with select
        time.sleep(seconds or 0)
        return False
    ready, _, _ = select.select([keys], [], [], seconds)
    return bool(ready)


def _show(steps: Iterator[PlayStep], state: object, keys: int | None) -> None:
    from teleport.client import terminal
    from teleport.client.playing import Act, Playing

    assert isinstance(state, Playing)
    for step in steps:
        state = state.before(step)
        while True:
            act, seconds = state.wait()
            if act is Act.STOP:
                return
            before = time.monotonic()
            ready = _pressed(keys, 0 if act is Act.SHOW else seconds)
            state = state.passed(time.monotonic() - before)
            if ready and keys is not None:
                pressed = os.read(keys, 64)
                keys = keys if pressed else None
                state = state.key(pressed)
                continue
            if act is Act.SHOW:
                terminal.write_all(terminal.STDOUT, step.data)
                break
