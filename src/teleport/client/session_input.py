"""What is typed, or piped, on its way to a session: a person's escape sequences are taken out at a terminal."""

from __future__ import annotations

import asyncio
import os

from teleport.client import system, terminal
from teleport.ssh.client import SshClient
from teleport.ssh.client_session import RemoteSession
from teleport.ssh.surface import TerminalSize
from teleport.wire.escapes import Command, Escapes, Send

_CHUNK = 64 * 1024


class Typing:
    """Copies stdin to a session until its end. `raw` is the terminal while it is raw, None where there is none."""

    def __init__(
        self,
        session: RemoteSession,
        node: SshClient,
        raw: terminal.Raw | None,
        escape: int | None,
        ended: asyncio.Event,
    ) -> None:
        self._session = session
        self._node = node
        self._raw = raw
        self._escapes = Escapes(escape)
        self._ended = ended

    async def run(self) -> None:
        try:
            waits = system.has_to_be_waited_for(terminal.STDIN)
        except OSError:
            self._session.write_eof()
            return
        while True:
            data = await _read(waits)
            if data is None:
                continue
            if not data:
                self._session.write_eof()
                return
            for act in self._escapes.feed(data):
                if isinstance(act, Send):
                    self._session.write(act.data)
                else:
                    self._do(act)
            await self._session.drain()
            if not waits:
                await asyncio.sleep(0)  # a file is always ready; others get their turn

    def _do(self, command: Command) -> None:
        match command:
            case Command.DROP:
                self._ended.set()
            case Command.SUSPEND:
                if self._raw is not None:
                    self._raw.suspend()
                    columns, rows = terminal.terminal_size(terminal.STDIN)
                    self._session.resize(TerminalSize(columns, rows))
            case Command.LIST:
                lines = [f"  {number} {what}" for number, what in enumerate(self._node.channels())]
                terminal.say("\r\n".join(["~#", "Open over this connection:", *lines, ""]))
            case Command.BREAK:
                self._session.send_break()
            case Command.REKEY:
                self._node.exchange_keys()
            case Command.HELP:
                terminal.say(self._escapes.help_text())


async def _read(waits: bool) -> bytes | None:
    """What stdin has next, b"" at its end; None when there was nothing after all."""
    if waits and system.LOOPS_TELL:
        await system.readable(terminal.STDIN)
    try:
        if waits and not system.LOOPS_TELL:
            return await system.read_in_thread(terminal.STDIN, _CHUNK)
        return os.read(terminal.STDIN, _CHUNK)
    except BlockingIOError:
        return None
    except OSError:  # the terminal is gone
        return b""
