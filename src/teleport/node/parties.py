"""Who is in a session: each party is one channel, with its own back-pressure and its own count of bytes."""

from __future__ import annotations

from typing import Protocol

from teleport.launcher.values import Exit
from teleport.node.facts import Facts
from teleport.ssh.handlers import SessionChannel


class Connection(Protocol):
    """What a session needs of a party's connection."""

    facts: Facts

    def active(self) -> None:
        """The client did something."""
        ...

    def denied(self, what: str, reason: str) -> None:
        """Puts a refusal on record."""
        ...


class Party:
    """Somebody in a session."""

    def __init__(self, connection: Connection, channel: SessionChannel) -> None:
        self.connection = connection
        self.channel = channel
        self.full = False  # the client does not take what was written
        self.received = 0  # bytes from the client
        self.sent = 0  # bytes to the client

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        """Sends output of the session."""
        self.sent += len(data)
        self.channel.write(data, stderr=stderr)

    def answer(self, ended: Exit | None, reason: str) -> None:
        """Tells the client how the session ended, and closes the channel."""
        if reason:
            told = reason.rstrip(".\n").replace("\n", "\r\n")
            self.channel.write(f"\r\nThis session was ended: {told}.\r\n".encode(), stderr=True)
        if ended is not None and ended.signal is not None:
            self.channel.exit_with_signal(ended.signal, core_dumped=ended.core_dumped)
        elif ended is not None and ended.status is not None:
            self.channel.exit(ended.status)
        else:
            self.channel.exit_with_signal("KILL", message=reason)
