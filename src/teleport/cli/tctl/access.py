"""`tctl access`: who may do what, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.errors import AccessDenied, BadRequest

if TYPE_CHECKING:
    from teleport.api import messages as m


@click.group(cls=Group)
def access() -> None:
    """Explain who may reach what, and why."""


@access.command("explain")
@click.argument("user")
@click.argument("target", metavar="LOGIN@HOST")
@click.option("--cluster", default="", metavar="NAME", help="As if the certificate were of this cluster.")
@format_option("text", "json")
@click.pass_context
def explain(ctx: click.Context, user: str, target: str, cluster: str, form: str) -> int:
    """Explain whether USER may log in as LOGIN on HOST: the permit and its roles, or each reason against it.

    Judged is what a login would give now. Exit code 0 when the session would be allowed, 5 when it would be refused.
    """
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.tctl.connect import open_auth

    login, at, host = target.rpartition("@")
    if not at or not login or not host:
        raise BadRequest(f"{target!r} is not LOGIN@HOST", hint=f"tctl access explain {user} root@node1")
    with open_auth(flags_of(ctx)) as auth:
        request = m.ExplainRequest(user=user, login=login, host=host, cluster=cluster)
        found = auth.client.call(routes.EXPLAIN_ACCESS, request)
    if form == "json":
        import msgspec

        render.out(render.as_json(msgspec.to_builtins(found)))
    else:
        render.out(_text(found))
    return 0 if found.allowed else AccessDenied.exit_code


@access.command("diff")
@click.argument("file", metavar="ROLE.yaml")
@format_option("text", "json")
@click.pass_context
def diff(ctx: click.Context, file: str, form: str) -> None:
    """Show what the roles in ROLE.yaml (- for stdin) would change if they were stored: who gains or loses which login
    on which host, and which open sessions end. Nothing is changed."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.resources import read_resources
    from teleport.resources.codec import to_json

    resources = read_resources(file)
    if other := next((one for one in resources if one.kind != "role"), None):
        raise BadRequest(
            f"a diff is of roles; {render.printable(other.metadata.name)!r} is a {other.kind}",
            hint="tctl access diff ROLE.yaml",
        )
    with open_auth(flags_of(ctx)) as auth:
        roles = m.Document(b"[" + b",".join(to_json(role) for role in resources) + b"]")
        request = m.AccessDiffRequest(roles=roles)
        found = auth.client.call(routes.DIFF_ACCESS, request)
    if form == "json":
        import msgspec

        render.out(render.as_json(msgspec.to_builtins(found)))
    else:
        render.out(_diff_text(found))


def _diff_text(found: m.AccessDiff) -> str:
    parts = [f"{counted(len(found.users), 'user')} with these roles, {counted(found.open_sessions, 'open session')}.\n"]
    if found.changes:
        rows = [
            [
                "gains" if one.gained else "loses",
                one.user,
                one.login,
                f"{one.hostname} ({one.node_id})",
                *one.reasons[:1],
            ]
            for one in found.changes
        ]
        parts.append(render.table(["", "User", "Login", "Host", "Why"], [[*row, ""][:5] for row in rows]))
    else:
        parts.append("Nobody gains or loses a login on a host.\n")
    if found.more:
        parts.append("There are more changes than are shown.\n")
    if found.ending:
        rows = [
            [one.sid, one.user, one.login, one.hostname, render.when(one.started), one.reasons[0]]
            for one in found.ending
        ]
        parts.append(f"{counted(len(found.ending), 'open session')} would end:\n")
        parts.append(render.table(["Session", "User", "Login", "Host", "Since (UTC)", "Why"], rows))
    else:
        parts.append("No open session would end.\n")
    if found.hosts_left_out:
        parts.append(f"{counted(found.hosts_left_out, 'host')} that you may not list: nothing is said of them.\n")
    return "".join(parts)


def counted(number: int, what: str) -> str:
    """`1 user`, `2 users`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _text(found: m.Explanation) -> str:
    where = f"{found.hostname} ({found.node_id})" if found.node_id else found.host
    who = render.printable(f"{found.user} as {found.login} on {where}")
    if found.allowed:
        rows = [[part.name, part.value, ", ".join(part.sources) or "-"] for part in found.parts]
        return f"ALLOWED: {who}\n\n{render.table(['Term', 'Value', 'From'], rows)}"
    lines = [f"DENIED: {who}", *(f"  - {one.reason} ({one.code})" for one in found.reasons)]
    if found.told:
        lines.append(f"The user is told: {found.told}")
    if found.hint:
        lines.append(f"Next: {found.hint}")
    return "".join(f"{render.printable(line)}\n" for line in lines)
