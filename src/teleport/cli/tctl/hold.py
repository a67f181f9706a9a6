"""`tctl hold`: what must not be pruned from the audit log, whatever its age."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option


@click.group(cls=Group)
def hold() -> None:
    """Keep events from being pruned: legal hold. Works on an auth host only."""


@hold.command("add")
@click.option("--user", default="", metavar="NAME", help="Whatever names this user, and the sessions of this user.")
@click.option("--session", default="", metavar="SID", help="Whatever is about this session.")
@click.option("--from", "start", default="", metavar="TIME", help="Only from then on: -24h, 2024-05-31.")
@click.option("--to", "end", default="", metavar="TIME", help="Only before; of a date, before the day's end.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; goes into the audit log.")
@format_option("text", "json")
@click.pass_context
def add(ctx: click.Context, user: str, session: str, start: str, end: str, reason: str, form: str) -> None:
    """Hold events. Of what is named, all has to fit: a user within a time, for example."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.timerange import parse_range

    first, last = parse_range(start, end, datetime.now(UTC))
    request = m.AddHoldRequest(user=user, session=session, start=first, end=last, reason=reason)
    with open_auth(flags_of(ctx)) as auth:
        made = auth.client.call(routes.ADD_HOLD, request)
    if form == "json":
        render.out(render.as_json(msgspec.to_builtins(made)))
    else:
        render.out(f"Held: {_what(made)}. To let go: tctl hold rm {made.id} --reason=TEXT\n")


@hold.command("ls")
@format_option("text", "json")
@click.pass_context
def ls(ctx: click.Context, form: str) -> None:
    """List what is held."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        found = auth.client.call(routes.LIST_HOLDS, m.Empty()).holds
    if form == "json":
        render.out(render.as_json(msgspec.to_builtins(found)))
        return
    rows = [[one.id, _what(one), one.reason, one.creator, render.when(one.created)] for one in found]
    render.out(render.table(("ID", "Held", "Reason", "By", "Since (UTC)"), rows))


@hold.command("rm")
@click.argument("hold_id", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why; goes into the audit log.")
@click.pass_context
def rm(ctx: click.Context, hold_id: str, reason: str) -> None:
    """Let go what was held: what is old enough is pruned then."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        auth.client.call(routes.REMOVE_HOLD, m.RemoveHoldRequest(id=hold_id, reason=reason))
    render.out(f"Hold {hold_id} is removed.\n")


def _what(one: m.HoldInfo) -> str:
    words = [f"user {one.user}"] if one.user else []
    words += [f"session {one.session}"] if one.session else []
    words += [f"from {render.when(one.start)}"] if one.start is not None else []
    words += [f"to {render.when(one.end)}"] if one.end is not None else []
    return ", ".join(words)
