"""`tctl mfa leases`: the leases of second factors that people have for plain ssh."""

from __future__ import annotations

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.cli.tctl.outcome import outcome


@click.group(cls=Group)
def mfa() -> None:
    """List and take away what second factors gave."""


@mfa.group("leases", cls=Group)
def leases() -> None:
    """Leases that a second factor gave plain ssh: for one key from one address, for a while."""


@leases.command("ls")
@click.option("--user", default="", metavar="NAME", help="Only leases of this user.")
@format_option("text", "json")
@click.pass_context
def list_leases(ctx: click.Context, user: str, form: str) -> None:
    """List the leases that hold."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of, documents
    from teleport.cli.tctl.tables import lease_table
    from teleport.resources.kinds import Kind
    from teleport.resources.mfa_lease import MfaLease

    with open_auth(flags_of(ctx)) as auth:
        every = [one for one in all_of(auth, Kind.MFA_LEASE) if isinstance(one, MfaLease)]
    found = [one for one in every if user in ("", one.spec.user)]
    render.out(render.as_json(documents(list(found))) if form == "json" else lease_table(found))


@leases.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="ID...")
@format_option("text", "json")
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], form: str) -> None:
    """Take leases away by their ID: sessions that rest on one end at once, and ssh asks for a second factor again."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for name in names:
            auth.client.call(routes.REMOVE["mfa_lease"], m.ExpelRequest(name=name))
            tell("mfa_lease", name, "removed", f"lease {render.printable(name)} does not hold any more")
