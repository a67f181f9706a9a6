"""Every channel type, global request and session request that SSH servers know, and what allows it.

One row each; what has no row is refused and reported, like a row that refuses. Nodes and recording proxies go by this
table alone. `tests/node/test_node_channel_table.py` fails when asyncssh can serve something that has no row (T25).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class AskedKind(StrEnum):
    """The ways in which a client can ask for something on a connection (RFC 4254)."""

    CHANNEL = "channel"
    GLOBAL_REQUEST = "global request"
    SESSION_REQUEST = "session request"
    TRAFFIC = "traffic"  # nothing that was asked for: what came went beyond a limit


class Rule(StrEnum):
    """What allows a row."""

    SESSION = "session"  # every permit for this login and node
    TRANSPORT = "transport"  # part of the protocol's own housekeeping; grants nothing
    START = "start"  # `why_no_shell`, `why_no_command`, `why_no_transfer`
    LOCAL_FORWARD = "local forward"  # `why_no_forward`, `why_no_socket`
    REMOTE_FORWARD = "remote forward"  # `why_no_listener`
    OWN_FORWARD = "own forward"  # ends a listener of the same connection
    AGENT = "agent"  # `why_no_agent`
    X11 = "x11"  # `why_no_x11`
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
    Row(_CHANNEL, "direct-tcpip", Rule.LOCAL_FORWARD, "forwarding from the client"),
    Row(_CHANNEL, "forwarded-tcpip", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "direct-streamlocal@openssh.com", Rule.LOCAL_FORWARD, "forwarding to a Unix socket"),
    Row(_CHANNEL, "forwarded-streamlocal@openssh.com", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "tun@openssh.com", Rule.REFUSED, "network tunnels"),
    Row(_CHANNEL, "x11", Rule.REFUSED, "only servers open it"),
    Row(_CHANNEL, "auth-agent@openssh.com", Rule.REFUSED, "only servers open it"),
    Row(_GLOBAL, "keepalive@openssh.com", Rule.TRANSPORT),
    Row(_GLOBAL, "no-more-sessions@openssh.com", Rule.TRANSPORT, "takes a right away"),
    Row(_GLOBAL, "recording-proxy@teleport.com", Rule.TRANSPORT, "a question"),
    Row(_GLOBAL, "tcpip-forward", Rule.REMOTE_FORWARD, "listening for the client"),
    Row(_GLOBAL, "cancel-tcpip-forward", Rule.OWN_FORWARD),
    Row(_GLOBAL, "streamlocal-forward@openssh.com", Rule.REMOTE_FORWARD),
    Row(_GLOBAL, "cancel-streamlocal-forward@openssh.com", Rule.OWN_FORWARD),
    Row(_GLOBAL, "hostkeys-prove-00@openssh.com", Rule.REFUSED, "hosts prove themselves by certificates"),
    Row(_GLOBAL, "hostkeys-00@openssh.com", Rule.REFUSED, "only servers send it"),
    Row(_GLOBAL, "tunnel-register@teleport", Rule.REFUSED, "only hosts ask it, where tunnels end"),
    Row(_GLOBAL, "trace@teleport", Rule.REFUSED, "proxies take it; hosts hear of a trace from their proxy"),
    Row(_SESSION, "shell", Rule.START),
    Row(_SESSION, "exec", Rule.START),
    Row(_SESSION, "pty-req", Rule.SESSION),
    Row(_SESSION, "env", Rule.SESSION, "an allow-list of names and values"),
    Row(_SESSION, "window-change", Rule.SESSION),
    Row(_SESSION, "signal", Rule.SESSION, "to the session's own process group"),
    Row(_SESSION, "break", Rule.SESSION, "to the session's own terminal"),
    Row(_SESSION, "keepalive@openssh.com", Rule.TRANSPORT),
    Row(_SESSION, "subsystem", Rule.START, "sftp; no other one"),
    Row(_SESSION, "auth-agent-req@openssh.com", Rule.AGENT, "agent forwarding"),
    Row(_SESSION, "x11-req", Rule.X11, "X11 forwarding"),
    Row(_SESSION, "session-id@teleport", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "xon-xoff", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "exit-status", Rule.REFUSED, "only servers send it"),
    Row(_SESSION, "exit-signal", Rule.REFUSED, "only servers send it"),
)


def names(kind: AskedKind, table: Iterable[Row] = TABLE) -> frozenset[str]:
    """The names of a kind that are offered at all."""
    return frozenset(row.name for row in table if row.kind is kind and row.rule is not Rule.REFUSED)
