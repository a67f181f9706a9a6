"""Terminals that come back: what a web terminal's SSH client and the host say to each other besides a session.

A client that names its terminal (`TERMINAL_VARIABLE`, a UUID of its choice, before it starts something) is told which
session it is in, by the request `TOLD` on the channel. When its connection breaks it comes back by joining that session
under the same name: the place that it had, if the host still counts it as there, is taken (`ELSEWHERE`). One that says
end-of-file and closes its channel does not come back: its session does not wait for it.
"""

from __future__ import annotations

from typing import Final

TERMINAL_VARIABLE: Final = "TELEPORT_TERMINAL"
TOLD: Final = "session-id@teleport"  # string: the session's id; uint32: seconds it waits; string: how one is in it
ELSEWHERE: Final = "This terminal was opened elsewhere."
