"""`tsh ls` and `tsh clusters`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.client.addresses import parse_labels
from teleport.errors import BadRequest, ConnectionProblem, TeleportError

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.cluster import Node
    from teleport.client.home import Home
    from teleport.client.profile import Profile

MAX_CELL = 120  # characters of a host's own words in a table; `-v` and JSON show all


@click.command()
@click.argument("labels", default="")
@click.option("-v", "--verbose", is_flag=True, help="with ids, a line for each host")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json", "names", "ansible"]), default="text")
@click.option("--list", "_list", is_flag=True, hidden=True, help="as Ansible asks an inventory")
@click.option("--host", "one", default="", hidden=True, help="likewise")
@cluster_option
@takes_flags
def ls(flags: Flags, labels: str, verbose: bool, form: str, _list: bool, one: str, cluster: str) -> None:
    """List the hosts that you may reach. LABELS: k=v[,k=v], all must match."""
    from teleport.client.cluster import cluster_client, list_nodes

    if (_list or one) and form != "ansible":
        raise BadRequest("--list and --host are for Ansible", hint="--format=ansible")
    if one:
        render.out("{}\n")  # everything stands in the answer to --list
        return
    wanted = parse_labels(labels)
    found: Access = access(flags, cluster)
    with cluster_client(found, now()) as client:
        listed = list_nodes(client)
    nodes = [pair for pair in listed if pair[0].matches(wanted)]
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text([document for _, document in nodes]))
    elif form == "ansible":
        from teleport.cli.tsh.output import json_text
        from teleport.client.inventory import inventory

        listing, missing = inventory([node for node, _ in nodes], found.cluster, flags.login)
        render.out(json_text(listing))
        if missing:
            render.note(f"tsh: {missing} hosts are left out: neither their names nor their ids can stand there")
    elif form == "names":
        times = Counter(node.hostname for node, _ in nodes)
        words = [node.hostname if times[node.hostname] == 1 else node.id for node, _ in nodes]
        render.out("".join(f"{render.printable(word)}\n" for word in words))
    else:
        render.out(nodes_table([node for node, _ in nodes], verbose=verbose))
    if not flags.identity and found.cluster == found.credentials.cluster:
        _keep(flags.home, found.web[0], found.cluster, [node for node, _ in listed])


def remember_hosts(flags: Flags, profile: Profile) -> None:
    """Asks auth for the hosts, for completion and OpenSSH's configuration. Raises `TeleportError`."""
    from teleport.client import hosts_seen
    from teleport.client.access import from_profile
    from teleport.client.cluster import auth_client, list_nodes

    found = from_profile(flags.home, profile.web_proxy_addr, profile.user, profile.root_cluster, now())
    with auth_client(found.credentials, found.web_api(now()).open, found.web) as client:
        nodes = [node for node, _ in list_nodes(client)]
    hosts_seen.remember(flags.home, profile.name, found.cluster, [(node.hostname, node.id) for node in nodes])


def _keep(home: Home, proxy: str, cluster: str, nodes: list[Node]) -> None:
    """What was listed, for completion and for OpenSSH's configuration. A listing does not fail for it."""
    from teleport.client import hosts_seen, ssh_install

    try:
        hosts_seen.remember(home, proxy, cluster, [(node.hostname, node.id) for node in nodes])
        ssh_install.rewrite(home, os.environ)
    except TeleportError as error:
        render.note(f"tsh: the hosts in OpenSSH's configuration are not up to date: {render.printable(error.message)}")


def nodes_table(nodes: list[Node], *, verbose: bool) -> str:
    """Name, address, logins (when auth said which), labels; two labels a line, or everything of a host on one."""
    rows: list[list[str]] = []
    times = Counter(node.hostname for node in nodes)
    with_logins = any(node.logins is not None for node in nodes)
    for node in nodes:
        address = node.address or "⟵ Tunnel"
        if node.sub_kind:
            address += f" ({node.sub_kind})"
        if node.silent_for:
            address += f" (lost, silent for {_whole(node.silent_for)})"
        elif node.tunnel_lost_for:
            address += f" (ended {_whole(node.tunnel_lost_for)} ago, its proxies say)"
        logins = [_cut(", ".join(node.logins or ()) or "-")] if with_logins else []
        labels = [f"{name}={value}" for name, value in sorted(node.labels.items())]
        if verbose:
            rows.append([node.hostname, node.id, address, *logins, ", ".join(labels)])
            continue
        pairs = [", ".join(_cut(text) for text in labels[at : at + 2]) for at in range(0, len(labels), 2)] or [""]
        rows.append([_cut(_name(node, times)), _cut(address), *logins, pairs[0]])
        rows += [["", "", *("" for _ in logins), pair] for pair in pairs[1:]]
    named = ["Node Name", "Node ID"] if verbose else ["Node Name"]
    headers = [*named, "Address", *(["Logins"] if with_logins else []), "Labels"]
    return render.table(headers, rows)


def _name(node: Node, times: Mapping[str, int]) -> str:
    """What the host is reached by: its name, and its id too where several have that name."""
    return node.hostname if times[node.hostname] == 1 else f"{node.hostname} ({node.id})"


def _whole(duration: str) -> str:
    """A duration as people say it; as it came when it is none."""
    from teleport.resources.values import Duration

    try:
        return render.how_long(Duration.parse(duration).seconds)
    except ValueError:
        return duration


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="without headings")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text")
@takes_flags
def clusters(flags: Flags, quiet: bool, form: str) -> None:
    """List the clusters that you may reach through this proxy."""
    found: Access = access(flags, "")
    rows = _cluster_rows(found)
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text(rows))
    elif quiet:
        render.out("".join(f"{row['cluster_name']} {row['status']}\n" for row in rows))
    else:
        render.out(
            render.table(
                ["Cluster Name", "Status", "Cluster Type", "Selected"],
                [
                    [
                        str(row["cluster_name"]),
                        str(row["status"]),
                        str(row["cluster_type"]),
                        "*" * bool(row["selected"]),
                    ]
                    for row in rows
                ],
            )
        )


def _cluster_rows(found: Access) -> list[Mapping[str, object]]:
    """The own cluster, then those that trust it."""
    from teleport.client.other_clusters import reachable

    own = found.credentials.cluster
    try:
        online, others = True, reachable(found, now())
    except TeleportError as error:
        if not isinstance(error, ConnectionProblem):
            raise
        online, others = False, []
    rows = [(own, online, "root"), *((name, there, "leaf") for name, there in others)]
    return [
        {
            "cluster_name": name,
            "status": "online" if there else "offline",
            "cluster_type": kind,
            "selected": found.cluster == name,
        }
        for name, there, kind in rows
    ]
