"""`tctl top`: the numbers of a daemon, as a screen that is drawn anew every few seconds.

Where stdout is no terminal they are printed once. The screen is drawn on the terminal's other page and the terminal is
put back in order whatever ends the program: q, Ctrl-C, TERM, an error. Names in it never drive the terminal.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import click

from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Command, format_option
from teleport.errors import BadRequest, ConnectionProblem, TeleportError

if TYPE_CHECKING:
    from teleport.cli.tctl.measured import Page, Sample
    from teleport.resources.values import HostPort

ADDRESS: Final = "http://127.0.0.1:3000"
LEAST, MOST = 0.2, 3600.0  # seconds between looks
PATIENCE: Final = 5.0  # seconds for an answer
ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"  # the other page, no cursor, no wrapping
LEAVE: Final = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
HELP: Final = "1-5 or arrows: page   j k: down, up   space: look now   q: quit"
HINT: Final = (
    "start the daemon with teleport.diag_addr: 127.0.0.1:3000, or --diag-addr, and name that address: "
    "tctl top http://ADDRESS"
)


@click.command(cls=Command)
@click.argument("address", metavar="[ADDRESS]", default=ADDRESS)
@click.argument("period", metavar="[PERIOD]", type=DURATION, required=False)
@click.option("--refresh", type=DURATION, metavar="DURATION", help="Time between looks, as PERIOD [5s].")
@format_option("text", "json")
def top(address: str, period: float | None, refresh: float | None, form: str) -> None:
    """Show the numbers of a daemon: of its process, storage and API, caches and services, sessions, audit log.

    ADDRESS is that of its diagnostics listener (teleport.diag_addr) [http://127.0.0.1:3000]. In a terminal the screen
    is drawn anew every PERIOD [5s]; keys 1 to 5, tab and the arrows turn to another page, q quits. Elsewhere, and with
    --format=json, everything is printed once.
    """
    where = _address(address)
    seconds = refresh if refresh is not None else period if period is not None else 5.0
    if not LEAST <= seconds <= MOST:
        raise BadRequest(f"a screen is drawn anew every {LEAST:g} s to {MOST:g} s", hint="tctl top --refresh=5s")
    first = _look(where)
    if form == "json":
        render.out(render.as_json({"address": str(where), "time": first.at, "metrics": _plain(first)}))
        return
    from teleport.client import system, terminal

    if not (system.HAS_TERMINAL and terminal.is_terminal(terminal.STDOUT) and terminal.is_terminal(terminal.STDIN)):
        from teleport.cli.tctl.measured import pages

        for page in pages(first, None):
            if page.parts:
                render.out("\n".join([f"{page.name}:", *_lines(page)]) + "\n")
        return
    _Screen(where, seconds, first).run()


def _address(text: str) -> HostPort:
    from teleport.resources.values import ADDRESS_FORMS, HostPort

    if text.startswith("https://"):
        raise BadRequest("the diagnostics listener speaks plain HTTP", hint=f"tctl top http://{text[8:]}")
    try:
        return HostPort.parse(text.removeprefix("http://").rstrip("/"), 3000)
    except ValueError:
        raise BadRequest(
            f"{text[:200]!a} is no address", hint=f"allowed: {ADDRESS_FORMS}, also after http://"
        ) from None


def _look(where: HostPort) -> Sample:
    """What the daemon says now. Raises `ConnectionProblem`."""
    from teleport.cli.tctl.measured import Sample
    from teleport.daemon.monitoring.asking import ask

    try:
        status, body = ask(where, "/metrics", PATIENCE)
    except ConnectionProblem as error:
        raise ConnectionProblem(error.message, hint=HINT) from None
    found = Sample.parse(body, time.time())
    if status != 200 or found.one("process_state") is None:
        raise ConnectionProblem(
            f"what answers at {where} shows no numbers of a teleport daemon (HTTP status {status})", hint=HINT
        )
    return found


def _plain(sample: Sample) -> dict[str, object]:
    return {name: values[""] if set(values) == {""} else dict(values) for name, values in sorted(sample.values.items())}


def _lines(page: Page) -> list[str]:
    return [line for part in page.parts for line in render.table(part.header, part.rows).splitlines()]


class _Screen:
    """One run. Signals come as bytes in a pipe, so that waiting ends for them as for keys."""

    def __init__(self, where: HostPort, seconds: float, first: Sample) -> None:
        self._where, self._seconds = where, seconds
        self._now: Sample = first
        self._before: Sample | None = None
        self._trouble = ""
        self._page = self._top = 0
        self._over: BaseException | None = None

    def run(self) -> None:
        """Until q, Ctrl-C, or a signal that ends it, which then ends the program as it does elsewhere."""
        from teleport.client import terminal

        sys.stdout.flush()
        with ExitStack() as stack:
            told = stack.enter_context(_signals())
            stack.enter_context(terminal.keys_only(terminal.STDIN))
            terminal.write_all(terminal.STDOUT, ENTER)
            stack.callback(terminal.write_all, terminal.STDOUT, LEAVE)
            self._loop(told)
        if self._over is not None:
            raise self._over

    def _loop(self, told: int) -> None:
        from teleport.client import terminal

        due = time.monotonic() + self._seconds
        while True:
            self._draw()
            ready, _, _ = select.select([told, terminal.STDIN], [], [], max(0.0, due - time.monotonic()))
            if told in ready:
                for number in os.read(told, 64):
                    if number == signal.SIGTSTP:
                        self._suspend()
                    elif number != signal.SIGWINCH:  # of another size it is drawn anew anyway
                        self._over = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
                        return
            if terminal.STDIN in ready:
                keys = os.read(terminal.STDIN, 256)
                if not keys or not self._pressed(keys.decode("ascii", "ignore")):
                    return
                if " " in keys.decode("ascii", "ignore"):
                    due = 0.0
            if time.monotonic() >= due:
                self._look_again()
                due = time.monotonic() + self._seconds

    def _look_again(self) -> None:
        """A daemon that is away for a moment, as in a restart, leaves the last numbers on the screen."""
        try:
            found = _look(self._where)
        except TeleportError as error:
            self._trouble = error.message
            return
        self._now, self._before, self._trouble = found, self._now, ""

    def _pressed(self, keys: str) -> bool:
        """False when it is over."""
        for name, key in (("\x1b[C", "\t"), ("\x1b[D", "\b"), ("\x1b[A", "k"), ("\x1b[B", "j"), ("\x1b[Z", "\b")):
            keys = keys.replace(name, key)
        for key in keys:
            if key in "q\x03\x04":
                return False
            if key in "12345":
                self._page, self._top = int(key) - 1, 0
            elif key in "\t\b":
                self._page, self._top = (self._page + (1 if key == "\t" else -1)) % 5, 0
            elif key in "jk":
                self._top = max(0, self._top + (1 if key == "j" else -1))
        return True

    def _draw(self) -> None:
        from teleport.cli.tctl.measured import pages
        from teleport.client import terminal

        columns, rows = terminal.terminal_size(terminal.STDOUT)
        found = pages(self._now, self._before)
        names = " ".join(
            f"[{n}] {page.name}" if n - 1 != self._page else f"<{n}> {page.name}" for n, page in enumerate(found, 1)
        )
        age = time.time() - self._now.at
        state = f"{self._where}  every {self._seconds:g} s" + (
            f"  NO ANSWER for {age:.0f} s: {self._trouble}" if self._trouble else ""
        )
        body = _lines(found[self._page]) or ["this daemon has nothing of this: it runs no such service"]
        room = max(1, rows - 4)
        self._top = min(self._top, max(0, len(body) - room))
        shown = [render.printable(f"teleport  {state}"), names, "", *body[self._top : self._top + room]]
        shown += [""] * (rows - 1 - len(shown)) + [HELP]
        drawn = "\r\n".join(f"{line[:columns]}\x1b[K" for line in shown[:rows])
        terminal.write_all(terminal.STDOUT, f"\x1b[H{drawn}\x1b[J".encode(errors="replace"))

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and the screen comes back with it."""
        from teleport.client import terminal

        with terminal.as_before(terminal.STDIN):
            terminal.write_all(terminal.STDOUT, LEAVE)
            os.kill(os.getpid(), signal.SIGSTOP)
        terminal.write_all(terminal.STDOUT, ENTER)


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor from which the numbers of the signals come that matter here; all is as before afterwards."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    former = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGWINCH, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
    }
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
