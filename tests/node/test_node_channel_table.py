"""Threat T25: nothing that an SSH server knows lacks a row."""

from __future__ import annotations

import re

from asyncssh.channel import SSHServerChannel
from asyncssh.connection import SSHServerConnection

from teleport.authz.channel_table import TABLE, AskedKind, Rule
from teleport.node.channel_table import SURFACE
from teleport.ssh.channels import ServerSessionChannel
from teleport.ssh.server_connection import ServerConnection

SUFFIX = {
    AskedKind.CHANNEL: "_open",
    AskedKind.GLOBAL_REQUEST: "_global_request",
    AskedKind.SESSION_REQUEST: "_request",
}
# Methods that dispatch rather than serve one name.
NOT_NAMES = {
    "_process_channel_open",
    "_process_global_request",
    "_process_service_request",
    "_process_userauth_request",
}


def handler_name(kind: AskedKind, name: str) -> str:
    """The method by which asyncssh serves `name`."""
    return "_process_" + name.replace("@", "_at_").replace(".", "_dot_").replace("-", "_") + SUFFIX[kind]


def served(cls: type, kind: AskedKind) -> set[str]:
    found = {name for name in dir(cls) if re.fullmatch(rf"_process_\w+{SUFFIX[kind]}", name)} - NOT_NAMES
    if kind is AskedKind.SESSION_REQUEST:
        found -= {name for name in found if name.endswith("_global_request")} | {"_process_request"}
    return found


def test_everything_that_asyncssh_can_serve_has_a_row() -> None:
    """A new channel type or request in asyncssh, or of ours, fails here until somebody decides about it."""
    for kind, classes in (
        (AskedKind.CHANNEL, (SSHServerConnection, ServerConnection)),
        (AskedKind.GLOBAL_REQUEST, (SSHServerConnection, ServerConnection)),
        (AskedKind.SESSION_REQUEST, (SSHServerChannel, ServerSessionChannel)),
    ):
        rows = {handler_name(kind, row.name) for row in TABLE if row.kind is kind}
        known = set().union(*(served(cls, kind) for cls in classes))
        assert known, f"no {kind} found: asyncssh names its handlers in another way now"
        assert not known - rows, f"{kind} without a row: {sorted(known - rows)}"


def test_what_a_row_allows_is_served_and_nothing_else_is_offered() -> None:
    """The surface is exactly the rows that are not refused, and each has a handler."""
    for row in TABLE:
        assert SURFACE.offers(row.kind, row.name) is (row.rule is not Rule.REFUSED)
        if row.rule is not Rule.REFUSED:
            cls = ServerSessionChannel if row.kind is AskedKind.SESSION_REQUEST else ServerConnection
            assert callable(getattr(cls, handler_name(row.kind, row.name), None)), row
    assert len({(row.kind, row.name) for row in TABLE}) == len(TABLE)


def test_what_has_no_row_is_not_offered() -> None:
    """Closed by default."""
    for kind in AskedKind:
        assert not SURFACE.offers(kind, "shiny-new-thing@example.com")
