"""`tsh play`: a recorded session, from the cluster or from a file.

A recording holds what a session printed, and a session may have printed to attack whoever watches it (threat T44):
everything that is shown passes the sanitiser and is drawn from a model of the screen, and the player never answers.
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
    from teleport.client.playing import Action, Event, Playing
    from teleport.recording.player import RecordingReader
    from teleport.recording.timeline import Timeline

FRAME = 1 / 30  # seconds between two drawings of a session that does not pause
FORMATS = ["pty", "text", "json", "cast"]
WHOSE = "with the role access you play sessions that you took part in, with auditor all"


@click.command()
@click.argument("recording", metavar="SID|FILE")
@click.option("-f", "--format", "form", type=click.Choice(FORMATS), default="pty")
@click.option("--speed", type=click.FloatRange(0.1, 100), default=1.0, help="times as fast")
@click.option("--skip-idle-time", is_flag=True, help="wait no longer than a second where nothing happens")
@cluster_option
@takes_flags
def play(flags: Flags, recording: str, form: str, speed: float, skip_idle_time: bool, cluster: str) -> None:
    """Play a recorded session.

    With pty, in a terminal: space pauses, the arrows go 5 seconds back and on, [ and ] a minute, g to a time (1:30), +
    and - change the speed, i skips pauses, / searches what was shown, n and N go to the next and the last find, . shows
    one frame, ? shows the keys, q quits. The other formats print it at once.
    """
    from teleport.recording.player import RecordingReader

    with _opened(flags, recording, cluster, form) as file:
        reader = RecordingReader(file, name=recording)
        if form == "pty":
            play_pty(reader, speed, skip_idle=skip_idle_time)
        else:
            _export(reader, form)


@contextmanager
def _opened(flags: Flags, recording: str, cluster: str, form: str) -> Iterator[BinaryIO]:
    """The recording's bytes: a file's, or what auth has of the session, kept in an unnamed file while it plays."""
    from teleport.recording.format import canonical_name

    try:
        sid = canonical_name(recording)
    except TeleportError:
        sid = ""
    if not sid or Path(recording).is_file():
        with _file(recording) as file:
            yield file
        return
    import tempfile

    from teleport.cli.progress import progress
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.cluster import cluster_client, download_recording

    found = access(flags, cluster)
    with tempfile.TemporaryFile() as kept:
        with cluster_client(found, now(), second_factor(found.web)) as client:
            try:
                with progress("downloading", "bytes") as so_far:
                    for piece in download_recording(client, sid, "play" if form == "pty" else form):
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
            hint="tsh recordings ls lists the sessions that you may play",
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


def play_pty(reader: RecordingReader, speed: float, *, skip_idle: bool = False) -> None:
    """Shows the session as it was timed; where stdout is no terminal nobody watches, and nothing waits."""
    import gc

    from teleport.client import system, terminal
    from teleport.client.playing import Playing
    from teleport.recording.player import schedule
    from teleport.recording.sanitise import RESET_TERMINAL

    gc.enable()
    sys.stdout.flush()
    if not terminal.is_terminal(terminal.STDOUT):
        for step in schedule(reader.frames()):
            terminal.write_all(terminal.STDOUT, step.data)
        return
    from teleport.recording.timeline import Timeline

    keys = terminal.STDIN if system.HAS_TERMINAL and terminal.is_terminal(terminal.STDIN) else None
    size = terminal.terminal_size(terminal.STDOUT)
    with ExitStack() as stack:
        timeline = stack.enter_context(Timeline(reader.header, reader.frames(), size))
        if keys is not None:
            stack.enter_context(terminal.keys_only(keys))
        # whatever ends it, the viewer gets the terminal back in order, and what was there before scrolled up
        stack.callback(terminal.write_all, terminal.STDOUT, RESET_TERMINAL)
        terminal.write_all(terminal.STDOUT, b"\r\n" * size[1])
        _Player(timeline, size, keys).run(Playing(speed=speed, skip_idle=skip_idle))
    terminal.write_all(terminal.STDOUT, b"\r\n")
    if timeline.error is not None:
        raise timeline.error


class _Player:
    """Carries out what `plan` says, at a terminal."""

    def __init__(self, timeline: Timeline, size: tuple[int, int], keys: int | None) -> None:
        import codecs

        from teleport.recording.screen import Painter

        self._timeline = timeline
        self._painter = Painter(*size)
        self._keys = keys
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._status = ""
        self._drawn = True

    def run(self, state: Playing) -> None:
        from teleport.client.playing import Keys, Next, Passed, plan

        events: list[Event] = [Next(self._timeline.next_time)]
        drawn = at = time.monotonic()
        while True:
            for event in events:
                state, actions = plan(state, event)
                # what an action answers is planned before the next event, and before the next action
                while actions:
                    answer = self._do(actions.pop(0))
                    if answer is not None:
                        state, more = plan(state, answer)
                        actions = more + actions
            seconds = 0.0 if state.stopped else state.wait()
            if not self._drawn and (seconds != 0 or time.monotonic() - drawn > FRAME):
                self._draw()
                drawn = time.monotonic()
            if state.stopped:
                self._status = ""
                self._draw()
                return
            if self._keys is None and seconds is None:
                return  # nobody can go on
            pressed = self._pressed(seconds)
            before, at = at, time.monotonic()
            events = [Passed(at - before)]
            if pressed:
                events.append(Keys(pressed))

    def _do(self, action: Action) -> Event | None:
        from teleport.client.playing import Find, Found, Next, Say, Seek, Show

        self._drawn = False
        match action:
            case Show():
                self._timeline.step()
                return Next(self._timeline.next_time)
            case Seek():
                reached = self._timeline.seek(action.at)
                return Next(self._timeline.next_time, reached)
            case Find():
                self._draw()
                found = self._timeline.find(action.text, action.after, back=action.back)
                return Found(found.time, found.text) if found is not None else Found(None)
            case Say():
                self._status = action.text
        return None

    def _draw(self) -> None:
        from teleport.client import terminal

        terminal.write_all(terminal.STDOUT, self._painter.draw(self._timeline.now.screen, self._status))
        self._drawn = True

    def _pressed(self, seconds: float | None) -> str:
        """Waits so long, or until keys are pressed, which are the answer."""
        if self._keys is None:  # not every system can wait for nothing with select
            time.sleep(seconds or 0)
            return ""
        ready, _, _ = select.select([self._keys], [], [], seconds)
        if not ready:
            return ""
        data = os.read(self._keys, 256)
        if not data:
            self._keys = None
        return self._decoder.decode(data)
