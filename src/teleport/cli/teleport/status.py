"""`teleport status`: inside a session, who is where in which one."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from teleport.cli import render


@click.command()
@click.option("-f", "--format", "form", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def status(form: str) -> None:
    """Show the session that this shell belongs to."""
    if form == "json":
        render.out(render.as_json(dict(session_facts(os.environ))))
    else:
        render.out(session_text(os.environ))


def session_facts(environment: Mapping[str, str]) -> dict[str, str]:
    """The same for programs; empty outside a session."""
    if not environment.get("SSH_SESSION_ID"):
        return {}
    return {
        "session_id": environment["SSH_SESSION_ID"],
        "user": environment.get("SSH_TELEPORT_USER", ""),
        "login": environment.get("LOGNAME") or environment.get("USER", ""),
        "cluster": environment.get("SSH_TELEPORT_CLUSTER_NAME", ""),
        "host_id": environment.get("SSH_TELEPORT_HOST_UUID", ""),
        "client": environment.get("SSH_CLIENT", "").partition(" ")[0],
    }


def session_text(environment: Mapping[str, str]) -> str:
    """Five lines about the session whose environment this is, or one that says that there is none.

    The variables are those that the node sets (`cli.md` 1); anybody may set them, so they prove nothing.
    """
    sid = environment.get("SSH_SESSION_ID", "")
    if not sid:
        return "This shell does not belong to a Teleport session.\n"
    user = environment.get("SSH_TELEPORT_USER", "")
    login = environment.get("LOGNAME") or environment.get("USER", "")
    cluster = environment.get("SSH_TELEPORT_CLUSTER_NAME", "")
    host_id = environment.get("SSH_TELEPORT_HOST_UUID", "")
    client = environment.get("SSH_CLIENT", "").partition(" ")[0]
    proxy = environment.get("SSH_SESSION_WEBPROXY_ADDR", "")
    url = f"https://{proxy}/web/cluster/{cluster}/node/{host_id}/{login}/{sid}" if proxy else "-"
    origin = f", logged in as {login}" + (f" from {client}" if client else "")
    return render.pairs(
        [
            ("User ID", f"{user}{origin}"),
            ("Cluster Name", cluster),
            ("Host UUID", host_id),
            ("Session ID", sid),
            ("Session URL", url),
        ]
    )
