"""The process of `teleport start`.

The order matters. The command line and the configuration are read whole by a process of its own, which ends with it, so
that the daemon holds neither the parsers nor what they leave in its memory for as long as it runs. Then the launcher is
forked while this process has neither threads nor a loop, and only then come the imports that bring both (decision 16).
A child of a running daemon takes what it was given before all that, so that every failure is told to its parent. In
process 1 of a container all of this is done by a child (`restarts.first_process`).
"""

from __future__ import annotations

import gc
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import teleport.lean
import teleport.quick_dataclasses  # noqa: F401 (before the modules that define such classes)
from teleport.cli import outcome
from teleport.daemon.restarts import first_process
from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.daemon.config.values import Config
    from teleport.daemon.restarts.handover import Inherited
    from teleport.daemon.welcome import Welcome
    from teleport.launcher import LauncherEnd

# Importing makes many objects that stay, and some that go at once (the first form of each class with slots), whose room
# the next ones can have: only young objects are looked through, three or four times.
_WHILE_IMPORTING: Final = (20_000, 1_000_000, 1_000_000)
_USUAL: Final = gc.get_threshold()


@dataclass(frozen=True, slots=True)
class Order:
    """What reading came to."""

    config: Config
    config_file: str | None  # as it was typed


def main() -> NoReturn:
    """Reads in a process of its own, then serves until the daemon is stopped; ends this process."""
    gc.set_threshold(*_WHILE_IMPORTING)
    debug = False
    first = first_process.enter()
    try:
        order = _read_apart()
        debug = order.config.debug
        run(order, first)
        sys.stdout.flush()
        sys.exit(0)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(outcome.exit_code(error, "teleport", debug=debug, as_json=False))


def _read_apart() -> Order:
    """What the child read. When that failed it has said so already: this process ends with the same code."""
    from _pickle import loads  # pickle itself brings 0.3 MB of its other form, in Python

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _read_and_hand_over(writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told and code == 0:
        order = loads(told)  # written by this very program, over a pipe that nobody else has
        assert isinstance(order, Order)
        return order
    if code < 0:
        raise TeleportError(f"reading the configuration was ended by signal {-code}", hint="start it again")
    sys.exit(code)


def _read_and_hand_over(pipe: int) -> NoReturn:
    from teleport.cli import app
    from teleport.cli.teleport.command import teleport

    def hand_over(order: Order) -> None:
        import pickle

        with open(pipe, "wb") as file:
            pickle.dump(order, file)

    app.run(teleport, "teleport", context=hand_over)


def run(order: Order, first: int = first_process.NONE) -> None:
    """Serves as the order says, until told to stop; `first` is the pipe to process 1 of a container.

    Raises `TeleportError`.
    """
    from teleport.daemon import logs
    from teleport.daemon.restarts import handover

    inherited = handover.take(os.environ)
    try:
        logs.set_up(order.config.log)
        logs.ship_to(order.config.log.ship, order.config.data_dir, order.config.nodename)
        if inherited is not None and inherited.first is not None:
            first = inherited.first
        launcher = _fork_launcher(order.config, inherited, first)
        try:
            _serve(order.config, launcher, order.config_file, inherited, first)
        finally:
            logs.finish_shipping()
    except TeleportError as error:
        if inherited is not None:
            inherited.tell_failed(str(error))
        raise


def _fork_launcher(config: Config, inherited: Inherited | None, first: int) -> LauncherEnd | None:
    if config.node is None:
        return None
    from teleport import launcher

    own = {first} - {first_process.NONE}
    return launcher.start(close=tuple(own.union(inherited.descriptors if inherited is not None else ())))


def _serve(
    config: Config, launcher: LauncherEnd | None, config_file: str | None, inherited: Inherited | None, first: int
) -> None:
    import asyncio
    import signal

    import teleport.transport.quick_aiohttp  # noqa: F401 (must come before all that imports aiohttp)
    from teleport.clock import SystemClock
    from teleport.daemon.assembly import Daemon, import_services
    from teleport.daemon.restarts.succession import Request
    from teleport.daemon.welcome import welcome_text

    def welcome(facts: Welcome) -> None:
        # What start-up made stays; the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        sys.stdout.write(welcome_text(facts, **_commands(config_file)))
        sys.stdout.flush()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        requests: asyncio.Queue[Request] = asyncio.Queue()
        for number, request in (
            (signal.SIGUSR1, Request.DUMP),
            (signal.SIGUSR2, Request.CHILD),
            (signal.SIGHUP, Request.REPLACE),
            (signal.SIGQUIT, Request.LEAVE),
        ):
            loop.add_signal_handler(number, requests.put_nowait, request)
        await Daemon(config, launcher, SystemClock(), welcome, inherited, requests, first).run(stop)

    import_services(config)
    gc.freeze()
    gc.set_threshold(*_USUAL)
    try:
        asyncio.run(run())
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a group that says the most: one of ours when there is one."""
    ours, others = group.split(TeleportError)
    found: BaseException = (ours or others or group).exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _commands(config_file: str | None) -> dict[str, str]:
    """The commands as a person can type them here: with their folder when they are not on PATH."""
    import getpass
    import shutil

    folder = Path(sys.argv[0]).resolve().parent
    names = {}
    for name in ("tctl", "tsh"):
        found = shutil.which(name)
        here = folder / name
        same = found is not None and Path(found).resolve() == here.resolve()
        names[name] = name if same or not here.exists() else shlex.quote(str(here))
    if config_file is not None:
        names["tctl"] += f" -c {shlex.quote(config_file)}"
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = "root"
    return {**names, "login": login}
