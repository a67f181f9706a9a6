"""`tsh sessions`: sessions that run now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags

if TYPE_CHECKING:
    from teleport.api import messages as m


@click.group()
def sessions() -> None:
    """Sessions that run now."""


@sessions.command("ls")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text")
@cluster_option
@takes_flags
def ls(flags: Flags, form: str, cluster: str) -> None:
    """List the sessions that you may join or see."""
    from teleport.client.cluster import cluster_client
    from teleport.client.joining import running_sessions

    found = access(flags, cluster)
    with cluster_client(found, now()) as client:
        listed = running_sessions(client)
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text(documents(listed)))
    else:
        render.out(table(listed))


def documents(listed: list[m.RunningSession]) -> list[object]:
    """The sessions for JSON."""
    import msgspec

    return [msgspec.to_builtins(one) for one in listed]


def table(listed: list[m.RunningSession]) -> str:
    """The sessions for people."""
    rows = [
        [
            f"{one.sid}.{one.host_id}" if one.disputed else one.sid,
            one.user,
            _where(one),
            render.when(one.started),
            _what(one),
            ", ".join(f"{party.user} ({party.mode})" for party in one.parties),
            ", ".join(one.modes) or "-",
        ]
        for one in listed
    ]
    return render.table(["Session", "User", "Where", "Started (UTC)", "What", "In It", "You May Join As"], rows)


def _where(one: m.RunningSession) -> str:
    if one.kube_cluster:
        return f"{one.kube_cluster}/{one.pod_namespace}/{one.pod}"
    return f"{one.login}@{one.hostname or one.host_id}"


def _what(one: m.RunningSession) -> str:
    what = one.command if len(one.command) <= 40 else one.command[:39] + "…"
    state = "" if one.state == "running" else f" ({one.state}: {one.missing})" if one.missing else f" ({one.state})"
    return (what or "shell") + state
