"""`tsh ssh user@k=v COMMAND`: one command on every host that has the labels."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, now
from teleport.cli.tsh.ssh import check_login, connected, with_factor
from teleport.errors import SECOND_FACTOR_DUE, BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.many import Host, Many
    from teleport.client.ssh_options import SshOptions

NOT_KNOWN = 255
INTERRUPTED = 130


def run_on_labels(
    flags: Flags,
    login: str,
    labels: str,
    command: tuple[str, ...],
    said: SshOptions,
    *,
    port: int,
    cluster: str,
    parallel: int,
) -> int:
    """Runs the command everywhere, says in one line how it went, and gives the exit status."""
    from teleport.client.addresses import parse_labels
    from teleport.client.cluster import cluster_client, list_nodes
    from teleport.client.many import Host
    from teleport.client.session import Target

    wanted = parse_labels(labels)
    found = access(flags, cluster)
    check_login(found.credentials.ssh_certificate, login)
    with cluster_client(found, now()) as client:
        nodes = [node for node, _ in list_nodes(client) if node.matches(wanted)]
    if not nodes:
        raise NotFound(f"no host that you may reach has the labels {labels}", hint=f"tsh ls {labels}; tsh ls")
    times = Counter(node.hostname for node in nodes)
    hosts = [
        Host(node.hostname, node.hostname)
        if times[node.hostname] == 1
        else Host(f"{node.hostname} ({node.id[:8]})", node.id)
        for node in nodes
    ]
    if not command:
        if len(hosts) == 1:
            target = Target(hosts[0].reach, login, port, None, sys.stdin.isatty(), said.variables(os.environ))
            return connected(found, target, batch=said.batch)
        raise BadRequest(
            f"the labels {labels} fit {len(hosts)} hosts, and a shell needs one: "
            + ", ".join(host.shown for host in hosts[:10])
            + (", ..." if len(hosts) > 10 else ""),
            hint="give a command, or the name of one host",
        )
    if said.tty in ("yes", "force"):
        raise BadRequest("a command on many hosts has no terminal", hint="leave -t away")

    import asyncio
    import gc

    from teleport.client.many import Many, Outcome

    gc.freeze()
    gc.enable()
    many = Many(hosts, login, port, " ".join(command), said.variables(os.environ), _lines(hosts))
    status = asyncio.run(many.run(found, now(), parallel))
    for host, outcome in list(many.outcomes.items()):
        if SECOND_FACTOR_DUE not in outcome.problem or said.batch or many.interrupted or not _somebody():
            continue
        alone = Many([host], login, port, " ".join(command), said.variables(os.environ), _lines(hosts))
        try:
            with_factor(found, host.reach, port, login, partial(_alone, alone))
        except TeleportError as error:  # the next host may have a better answer
            alone.outcomes[host] = Outcome(problem=error.message)
        many.outcomes[host] = alone.outcomes.get(host, Outcome(problem="no answer"))
        status = many.status()
    render.note(f"tsh: {render.printable(many.summary())}")
    return INTERRUPTED if many.interrupted else status


def _alone(one: Many, way: Access) -> int:
    """Runs on one host. Raises `TeleportError` when it needs a second factor."""
    import asyncio

    return asyncio.run(one.run(way, now(), 1, strict=True))


def _somebody() -> bool:
    from teleport.cli.tsh import prompts

    return prompts.interactive()


def _lines(hosts: list[Host]) -> Lines:
    return Lines(hosts, colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ)


class Lines:
    """Shows lines of many hosts: each behind the host's name, aligned; stdout's on stdout, stderr's on stderr."""

    def __init__(self, hosts: list[Host], *, colours: bool) -> None:
        from teleport.client.many import prefixes

        self._prefix = prefixes(hosts, colours=colours)

    def __call__(self, host: Host, line: bytes, is_stderr: bool) -> None:
        from teleport.client import terminal
        from teleport.client.many import for_terminal

        descriptor = terminal.STDERR if is_stderr else terminal.STDOUT
        shown = for_terminal(line) if terminal.is_terminal(descriptor) else line
        terminal.write_all(descriptor, self._prefix[host] + shown + b"\n")
