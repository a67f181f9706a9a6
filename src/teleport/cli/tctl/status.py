"""`tctl status` and `tctl version`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tctl.options import Command, flags_of, format_option

if TYPE_CHECKING:
    from teleport.api.messages import AuthorityStatus
    from teleport.cli.tctl.connect import Auth


@click.command(cls=Command)
@format_option("text", "json")
@click.pass_context
def status(ctx: click.Context, form: str) -> None:
    """Show the cluster, its version, the state of its authorities, and the CA pin that joining hosts compare."""
    import msgspec

    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.tctl.clusters import status_rows
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        found = auth.client.call(routes.STATUS, m.Empty())
        if form == "json":
            render.out(render.as_json({**msgspec.to_builtins(found), "addresses": list(auth.addresses)}))
            return
        order = {"host": 0, "user": 1, "jwt": 2}
        authorities = sorted(found.authorities, key=lambda one: (order.get(one.kind, 9), one.kind))
        rows = [("Cluster", found.cluster), ("Version", found.version)]
        rows += [(f"{one.kind.capitalize()} CA", one.rotation) for one in authorities]
        host = next((one for one in authorities if one.kind == "host"), None)
        rows += [("CA pin", pin + of_which(index, host)) for index, pin in enumerate(found.ca_pins)]
        if any(one.phase not in ("", "standby") for one in authorities):
            rows += _waiting(auth)
        rows += status_rows(auth)
        if flags_of(ctx).debug:
            rows += [(f"{one.kind.capitalize()} schedule", _times(one)) for one in authorities if one.schedule]
            rows += [("Auth server", address) for address in auth.addresses]
            rows += [("Time of auth", f"{render.when(found.now)} UTC")]
        render.out(render.pairs(rows))


def _times(one: AuthorityStatus) -> str:
    return ", ".join(f"{phase} at {render.when(when)} UTC" for phase, when in one.schedule.items())


def _waiting(auth: Auth) -> list[tuple[str, str]]:
    """Which live hosts a rotation waits for, as far as the caller may know."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.errors import AccessDenied, NotFound

    try:
        found = auth.client.call(routes.ROTATION_PROGRESS, m.Empty())
    except (AccessDenied, NotFound):  # the latter: an auth server of an older version
        return []
    rows = []
    for one in found.waiting:
        reached = f"reached {one.reached}" if one.reached else "reports no phase"
        if one.service in ("remote_cluster", "trusted_cluster"):
            reached = "does not hold the new keys yet"
        host = f"{one.service.replace('_', ' ')} {one.hostname} ({one.host_id})"
        rows.append(("Waiting for", f"{host}, {one.authority} authority: {reached}"))
    return rows


def of_which(index: int, host: AuthorityStatus | None) -> str:
    """During a rotation: which keys the pin is of. Those that sign come first."""
    if host is None or host.phase in ("", "standby"):
        return ""
    old_signs = host.phase in ("init", "rollback")
    return "  (old)" if (index == 0) is old_signs else "  (new)"


@click.command(cls=Command)
@format_option("text", "json")
def version(form: str) -> None:
    """Print the version."""
    from teleport.cli.teleport.version import version_text

    render.out(version_text(form))
