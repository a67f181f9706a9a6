"""The labels of a host: the static ones, and those whose values commands find, run again and again.

A command is an argument list, never a shell line; it runs with a bare environment, ten seconds at most, after which
it is killed with all that it started. What it prints (its first line, 256 characters at most) is the value. A command
that fails says so in its value, so that no label silently keeps what is not true any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from teleport.resources.forced_labels import outranked
from teleport.resources.names import check_text
from teleport.resources.server import CommandLabelState
from teleport.resources.values import CommandLabel

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds
MAX_OUTPUT = 4096  # bytes read
MAX_VALUE = 256  # characters
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class HostLabels:
    """The labels as they are now (`node.needs.Labels`)."""

    def __init__(
        self,
        static: Mapping[str, str],
        dynamic: Sequence[CommandLabel],
        changed: Callable[[], None],
        forced: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`forced` gives the labels of the token with which the host joined; they win over the host's own."""
        self.static = dict(static)
        self._forced = forced
        self._dynamic = tuple(dynamic)
        self._values: dict[str, str] = {}
        self._changed = changed

    def current(self) -> Mapping[str, str]:
        """Static and dynamic labels, of which a dynamic one wins a clash; forced ones win over both."""
        forced = self._forced()
        return {**outranked({**self.static, **self._values}, forced), **forced}

    def announced(self) -> dict[str, str]:
        """The labels that are no command's, as presence carries them."""
        forced = self._forced()
        return {**outranked(self.static, forced), **forced}

    def command_states(self) -> dict[str, CommandLabelState]:
        """The dynamic labels as presence carries them."""
        states = {
            label.name: CommandLabelState(
                period=label.period, command=label.command, result=self._values.get(label.name, "")
            )
            for label in self._dynamic
        }
        return outranked(states, self._forced())

    async def first(self) -> None:
        """Runs every command once, so that decisions never see a label missing that the host has."""
        await asyncio.gather(*(self._update(label) for label in self._dynamic))

    async def run(self) -> None:
        """Keeps the values true until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for label in self._dynamic:
                tasks.create_task(self._repeat(label), name=f"label {label.name}")

    async def _repeat(self, label: CommandLabel) -> None:
        while True:
            await asyncio.sleep(label.period.seconds)
            await self._update(label)

    async def _update(self, label: CommandLabel) -> None:
        value = await run_label(label.command)
        if self._values.get(label.name) != value:
            self._values[label.name] = value
            self._changed()


async def run_label(command: Sequence[str], *, timeout: float = TIMEOUT) -> str:
    """The value that a command finds; a sentence about the failure when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return _value(f"error: {error}")
    assert process.stdout is not None
    ended = False
    try:
        async with asyncio.timeout(timeout):
            output = await process.stdout.read(MAX_OUTPUT)
            while await process.stdout.read(MAX_OUTPUT):
                continue  # the rest is not wanted, but the command may want to write it
            status = await process.wait()
            ended = True
    except TimeoutError:
        return f"error: no result within {timeout:g}s"
    finally:
        if not ended:  # the whole group: a child that holds the output open is why nothing came
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        return f"error: exit status {status}"
    return _value(output.decode("utf-8", "replace").strip().split("\n")[0].rstrip())


def _value(text: str) -> str:
    kept = "".join(letter for letter in text if not check_text(letter))
    return kept[:MAX_VALUE]
