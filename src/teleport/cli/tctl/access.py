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
