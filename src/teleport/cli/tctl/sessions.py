"""`tctl sessions`: sessions that run now, and their end."""

from __future__ import annotations

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.cli.tctl.outcome import outcome

HOLDS = 3600.0  # seconds for which the lock on an ended session stays


@click.group(cls=Group)
def sessions() -> None:
    """List sessions that run now, and end them."""


@sessions.command("ls")
@click.option("--user", default="", metavar="NAME", help="Only sessions of this user.")
@click.option("--host", default="", metavar="HOST", help="Only sessions on this host, by name or UUID.")
@format_option("text", "json")
@click.pass_context
def list_sessions(ctx: click.Context, user: str, host: str, form: str) -> None:
    """List the sessions that run now."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        every = auth.client.call(routes.RUNNING_SESSIONS, m.Empty()).sessions
    found = [one for one in every if user in ("", one.user) and host in ("", one.host_id, one.hostname)]
    if form == "json":
        render.out(render.as_json([msgspec.to_builtins(one) for one in found]))
        return
    rows = [
        [
            one.sid,
            one.user,
            one.login,
            _where(one),
            render.when(one.started),
            one.state,
            ", ".join(f"{party.user} ({party.mode})" for party in one.parties),
            (one.command or "shell")[:40],
        ]
        for one in found
    ]
    heads = ["Session", "User", "Login", "Host", "Started (UTC)", "State", "In It", "What"]
    render.out(render.table(heads, rows))


def _where(one: m.RunningSession) -> str:
    if one.kube_cluster:
        return f"{one.kube_cluster}/{one.pod_namespace}/{one.pod}"
    return one.hostname or one.host_id


@sessions.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--message", default="", metavar="TEXT", help="Why; for administrators and the audit log.")
@format_option("text", "json")
@click.pass_context
def remove(ctx: click.Context, ids: tuple[str, ...], message: str, form: str) -> None:
    """End sessions at once, for everybody in them: by a lock on each, which goes by itself after an hour."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.locks import make_lock
    from teleport.recording.format import canonical_uuid

    wanted = [canonical_uuid(one) for one in ids]
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for sid in wanted:
            made = make_lock("session", sid, message, HOLDS)
            auth.client.call(routes.STORE["lock"], m.StoreRequest(item=made[1]))
            tell("lock", made[0], "created", f"session {sid} is being ended")
