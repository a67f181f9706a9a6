"""Sessions that run: which there are, as auth tells it, and how one is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.api.sync_client import SyncAuthClient
    from teleport.client.session import Target


def running_sessions(client: SyncAuthClient) -> list[m.RunningSession]:
    """Those that the caller may join or see."""
    return list(client.call(routes.RUNNING_SESSIONS, m.Empty()).sessions)


def find_session(client: SyncAuthClient, name: str) -> m.RunningSession:
    """The session with this id, or SID.HOST. Raises `NotFound`, `AccessDenied` for one that the caller may see and not
    join, or `BadRequest` where several hosts claim it: nobody types into another session than was meant."""
    sid, _, host = name.partition(".")
    all_found = [one for one in running_sessions(client) if one.sid == sid and host in ("", one.host_id)]
    if not all_found:
        raise NotFound("there is no session with this id that you may join", hint="tsh sessions ls")
    if len(all_found) > 1:
        raise BadRequest(
            f"{len(all_found)} hosts claim session {sid}",
            hint="say on which to join: " + " or ".join(f"{sid}.{one.host_id}" for one in all_found),
        )
    found = all_found[0]
    if found.disputed and not host:
        raise BadRequest(
            f"host {found.host_id} runs session {sid}, which another host claims",
            hint=f"if that is the host which you mean, join {sid}.{found.host_id}",
        )
    if not found.modes:
        pods = f"the right to exec into pods of {found.kube_cluster}"
        what = pods if found.kube_cluster else f"the login {found.login}"
        raise AccessDenied(
            f"you may see this session of {found.user}, and not join it" if found.interactive else "it has no terminal",
            hint=f"ask an administrator for a role with join_sessions, and {what}",
        )
    return found


def target_of(session: m.RunningSession, mode: str, *, with_terminal: bool) -> Target:
    """Where a session is, and what to say there. The node decides; `mode` empty leaves that to it, too."""
    from teleport.client.session import Target

    environment = {"TELEPORT_SESSION": session.sid} | ({"TELEPORT_JOIN_MODE": mode} if mode else {})
    where = session.join_at or session.host_id
    return Target(where, session.login, with_terminal=with_terminal, environment=environment)
