"""Sessions that run: which there are, as auth tells it, and how one is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, NotFound

if TYPE_CHECKING:
    from teleport.api.sync_client import SyncAuthClient
    from teleport.client.session import Target


def running_sessions(client: SyncAuthClient) -> list[m.RunningSession]:
    """Those that the caller may join or see."""
    return list(client.call(routes.RUNNING_SESSIONS, m.Empty()).sessions)


def find_session(client: SyncAuthClient, sid: str) -> m.RunningSession:
    """The session with this id. Raises `NotFound`, or `AccessDenied` for one that the caller may see and not join."""
    found = next((one for one in running_sessions(client) if one.sid == sid), None)
    if found is None:
        raise NotFound("there is no session with this id that you may join", hint="tsh sessions ls")
    if not found.modes:
        raise AccessDenied(
            f"you may see this session of {found.user}, and not join it" if found.interactive else "it has no terminal",
            hint="ask an administrator for a role with join_sessions, and the login " + found.login,
        )
    return found


def target_of(session: m.RunningSession, mode: str, *, with_terminal: bool) -> Target:
    """Where a session is, and what to say there. The node decides; `mode` empty leaves that to it, too."""
    from teleport.client.session import Target

    environment = {"TELEPORT_SESSION": session.sid} | ({"TELEPORT_JOIN_MODE": mode} if mode else {})
    return Target(session.host_id, session.login, with_terminal=with_terminal, environment=environment)
