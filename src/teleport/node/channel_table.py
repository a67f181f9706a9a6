"""Every channel type, global request and session request that SSH servers know, and what this node does with it.

One row each; what has no row is refused and reported, like a row that refuses. `tests/node/test_node_channel_table.py`
fails when asyncssh can serve something that has no row here (threat T25).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from teleport.ssh.surface import AskedKind, Surface


class Rule(StrEnum):
    """What allows a row."""

    SESSION = "session"  # every permit for this login and node
    TRANSPORT = "transport"  # part of the protocol's own housekeeping; grants nothing
    REFUSED = "refused"  # not offered


@dataclass(frozen=True, slots=True)
class Row:
    """One thing a client may ask for."""

    kind: AskedKind
    name: str
    rule: Rule
    note: str = ""


_CHANNEL, _GLOBAL, _SESSION = AskedKind.CHANNEL, AskedKind.GLOBAL_REQUEST, AskedKind.SESSION_REQUEST

TABLE: tuple[Row, ...] = (
    Row(_CHANNEL, "session", Rule.SESSION),
    Row(_CHANNEL, "direct-tcpip", Rule.REFUSED, "forwarding from the client"),
    Row(_CHANNEL, "forwarded-tcpip", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "direct-streamlocal@openssh.com", Rule.REFUSED, "forwarding to a Unix socket"),
    Row(_CHANNEL, "forwarded-streamlocal@openssh.com", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "tun@openssh.com", Rule.REFUSED, "network tunnels"),
    Row(_CHANNEL, "x11", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "auth-agent@openssh.com", Rule.REFUSED, "only servers open it"),
    Row(_GLOBAL, "keepalive@openssh.com", Rule.TRANSPORT),
    Row(_GLOBAL, "no-more-sessions@openssh.com", Rule.TRANSPORT, "takes a right away"),
    Row(_GLOBAL, "tcpip-forward", Rule.REFUSED, "listening for the client"),
    Row(_GLOBAL, "cancel-tcpip-forward", Rule.REFUSED),
    Row(_GLOBAL, "streamlocal-forward@openssh.com", Rule.REFUSED),
    Row(_GLOBAL, "cancel-streamlocal-forward@openssh.com", Rule.REFUSED),
    Row(_GLOBAL, "hostkeys-prove-00@openssh.com", Rule.REFUSED, "hosts prove themselves by certificates"),
    Row(_GLOBAL, "hostkeys-00@openssh.com", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "shell", Rule.SESSION),
    Row(_SESSION, "exec", Rule.SESSION),
    Row(_SESSION, "pty-req", Rule.SESSION),
    Row(_SESSION, "env", Rule.SESSION, "an allow-list of names and values"),
    Row(_SESSION, "window-change", Rule.SESSION),
    Row(_SESSION, "signal", Rule.SESSION, "to the session's own process group"),
    Row(_SESSION, "break", Rule.SESSION, "to the session's own terminal"),
    Row(_SESSION, "keepalive@openssh.com", Rule.TRANSPORT),
    Row(_SESSION, "subsystem", Rule.REFUSED, "sftp and others"),
    Row(_SESSION, "auth-agent-req@openssh.com", Rule.REFUSED, "agent forwarding"),
    Row(_SESSION, "x11-req", Rule.REFUSED, "X11 forwarding"),
    Row(_SESSION, "xon-xoff", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "exit-status", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "exit-signal", Rule.REFUSED, "only servers send it"),
)


def _names(kind: AskedKind) -> frozenset[str]:
    return frozenset(row.name for row in TABLE if row.kind is kind and row.rule is not Rule.REFUSED)


SURFACE = Surface(channels=_names(_CHANNEL), session_requests=_names(_SESSION), global_requests=_names(_GLOBAL))
