"""A party of a session on a node: what such a session needs of its connection besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from teleport.authz.ssh import SSHAccessPermit
from teleport.node.facts import Facts
from teleport.sharing import parties
from teleport.ssh.handlers import SessionChannel


class Connection(parties.Connection, Protocol):
    """A connection to this node."""

    facts: Facts
    permit: SSHAccessPermit


class NodeParty(parties.Party):
    """Somebody in a session here."""

    connection: Connection

    def __init__(self, connection: Connection, channel: SessionChannel, over: Callable[[], None]) -> None:
        super().__init__(connection, channel, over)
