"""`tsh join`: takes part in a session that runs."""

from __future__ import annotations

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest, TeleportError

NOT_KNOWN = 255


@click.command()
@click.argument("session", metavar="ID")
@click.option(
    "-m",
    "--mode",
    type=click.Choice(["observer", "peer", "moderator"]),
    default=None,
    help="what you do there; without it peer in a session of your own, else the least that you may",
)
@cluster_option
@takes_flags
def join(flags: Flags, session: str, mode: str | None, cluster: str) -> int:
    """Take part in a running session. ID: as tsh sessions ls shows it.

    An observer watches, a peer types along, a moderator watches and may end it with t. Ctrl-C lets go of a session in
    which you do not type.
    """
    try:
        return _join(flags, session, mode or "", cluster)
    except TeleportError as error:
        render.report(error, "tsh", as_json_object=False)
        return NOT_KNOWN


def _join(flags: Flags, sid: str, mode: str, cluster: str) -> int:
    import sys

    from teleport.cli.tsh.ssh import connected
    from teleport.client import system
    from teleport.client.cluster import cluster_client
    from teleport.client.joining import find_session, target_of
    from teleport.recording.format import canonical_name

    canonical_name(sid)
    if not system.HAS_TERMINAL and sys.stdin.isatty():
        raise BadRequest(
            "tsh cannot drive a terminal on this system", hint=f"ssh -t -o SetEnv=TELEPORT_SESSION={sid[:36]} HOST"
        )
    found = access(flags, cluster)
    with cluster_client(found, now()) as client:
        session = find_session(client, sid)
    target = target_of(session, mode, with_terminal=sys.stdin.isatty())
    sys.stdout.flush()
    if session.needs_factor:
        from teleport.cli.tsh.prompts import second_factor
        from teleport.client.session_mfa import for_join

        render.note(f"tsh: the Kubernetes cluster {render.printable(session.kube_cluster)} needs a second factor")
        found = for_join(found, session.kube_cluster, now(), second_factor(found.web))
    return connected(found, target)
