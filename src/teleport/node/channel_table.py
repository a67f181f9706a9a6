"""What the node's SSH server answers: the rows of `authz.channels` that are not refused."""

from __future__ import annotations

from teleport.authz.channel_table import AskedKind, names
from teleport.ssh.surface import Surface

SURFACE = Surface(
    channels=names(AskedKind.CHANNEL),
    session_requests=names(AskedKind.SESSION_REQUEST),
    global_requests=names(AskedKind.GLOBAL_REQUEST),
)
