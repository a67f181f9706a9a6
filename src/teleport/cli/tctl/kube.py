"""`tctl kube`: which Kubernetes clusters there are, and which services and proxies lead there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tctl.nodes import address_of, lost_of
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.cli.tctl.tokens import label_text

if TYPE_CHECKING:
    from teleport.resources.server import Server


@click.group(cls=Group)
def kube() -> None:
    """List Kubernetes clusters."""


@kube.command("ls")
@format_option("text", "json")
@click.pass_context
def ls(ctx: click.Context, form: str) -> None:
    """List the Kubernetes clusters there are, a line for each service that leads there, and for each proxy that does
    without one."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of, documents
    from teleport.resources.kinds import Kind
    from teleport.resources.server import Server

    with open_auth(flags_of(ctx)) as auth:
        every = [*all_of(auth, Kind.KUBE_SERVICE), *all_of(auth, Kind.PROXY)]
    found = [one for one in every if isinstance(one, Server) and one.spec.kube_clusters]
    render.out(render.as_json(documents([*found])) if form == "json" else kube_table(found))


def kube_table(found: Sequence[Server]) -> str:
    """Each cluster of each service."""
    rows = [
        [one.name, server.hostname, server.host_id, address_of(server) + lost_of(server), label_text(one.all_labels)]
        for server in found
        for one in server.spec.kube_clusters
    ]
    return render.table(["Kube Cluster Name", "Hostname", "UUID", "Address", "Labels"], sorted(rows))
