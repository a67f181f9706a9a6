"""`tctl nodes`: hosts of this cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from teleport.api import join_steps, routes
from teleport.api import messages as m
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Group, comma_list, flags_of, format_option
from teleport.cli.tctl.outcome import outcome
from teleport.cli.tctl.tokens import how_many, label_text, read_token
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.resources.server import Server


TOKEN_TTL: Final = 1800.0  # seconds


@click.group(cls=Group)
def nodes() -> None:
    """Add hosts, list and expel them."""


@nodes.command("add")
@click.option(
    "--roles", multiple=True, default=("node",), show_default=True, metavar="ROLE,..", help="node, proxy, auth."
)
@click.option(
    "--ttl",
    type=DURATION,
    help="Lifetime of the token: 30m unless given, at most 48h; with openssh of the certificate.",
)
@click.option("--token", default="", metavar="FILE", help="Absolute path of a file that holds the token to use.")
@click.option("--single-use", is_flag=True, help="The token lets one host in.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(("node", "openssh")),
    default="node",
    show_default=True,
    help="openssh: a host that keeps its plain sshd; what follows is for those.",
)
@click.option("--hostname", default="", metavar="NAME", help="The name by which people reach it.")
@click.option("--addr", default="", metavar="HOST:PORT", help="Where proxies reach its sshd.")
@click.option("--host-key", default="", metavar="FILE", help="Its public host key; - reads it from the input.")
@click.option("--labels", default="", metavar="K=V,..", help="Its labels.")
@click.option("--host-id", default="", metavar="UUID", help="The registered host, when several have that name.")
@format_option("text", "json")
@click.pass_context
def add(
    ctx: click.Context,
    roles: tuple[str, ...],
    ttl: float | None,
    token: str,
    single_use: bool,
    kind: str,
    hostname: str,
    addr: str,
    host_key: str,
    labels: str,
    host_id: str,
    form: str,
) -> None:
    """Make a token for a new host, and print what to type there. With --format=json: a list that holds the token.
    With --type=openssh: register a host that keeps its plain sshd, and print the script that sets it up."""
    from teleport.cli.tctl.connect import open_auth

    if kind == "openssh":
        from teleport.cli.tctl import openssh_nodes

        wanted = openssh_nodes.Wanted(hostname, addr, host_key, labels, host_id, ttl or 0)
        openssh_nodes.add(flags_of(ctx), wanted, form)
        return
    if hostname or addr or host_key or labels or host_id:
        raise BadRequest(
            "--hostname, --addr, --host-key, --labels and --host-id are for hosts that keep their sshd",
            hint="--type=openssh; a host with a node service says these itself",
        )
    ttl = TOKEN_TTL if ttl is None else ttl
    value = read_token(token, "--token")
    request = m.AddTokenRequest(roles=comma_list(roles), ttl=ttl, value=value, single_use=single_use)
    with open_auth(flags_of(ctx)) as auth:
        made = auth.client.call(routes.ADD_TOKEN, request)
    if form == "json":
        render.out(render.as_json([made.token]))
        return
    render.out(
        f"The join token: {made.token}\n"
        f"It lets {how_many(made)} join as {', '.join(made.roles)} for {_minutes(ttl)}; its id is {made.id}.\n\n"
    )
    render.out(join_steps.for_host(made, "", auth.addresses))


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


@nodes.command("ls")
@click.option("--namespace", default="", metavar="NAME", help="Only hosts of this namespace.")
@format_option("text", "json")
@click.pass_context
def list_nodes(ctx: click.Context, namespace: str, form: str) -> None:
    """List hosts."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of, documents
    from teleport.resources.kinds import Kind
    from teleport.resources.server import Server

    with open_auth(flags_of(ctx)) as auth:
        found = [
            node
            for node in all_of(auth, Kind.NODE)
            if isinstance(node, Server) and namespace in ("", node.metadata.namespace)
        ]
    found.sort(key=lambda node: (node.hostname, node.host_id))
    render.out(render.as_json(documents([*found])) if form == "json" else server_table(found))


def server_table(found: Sequence[Server]) -> str:
    """Nodes, proxies or auth servers as a table."""
    rows = [[one.hostname, one.host_id, address_of(one) + lost_of(one), label_text(one.all_labels)] for one in found]
    return render.table(["Nodename", "UUID", "Address", "Labels"], rows)


def address_of(server: Server) -> str:
    """Where it is reached, as lists say it."""
    if server.spec.use_tunnel:
        return "<- Tunnel"
    if server.agentless:
        return f"{server.spec.addr} (openssh)"
    return server.spec.public_addrs[0] if server.spec.public_addrs else server.spec.addr


def lost_of(server: Server) -> str:
    """What lists say behind the address of a service that is silent; empty while it is heard."""
    silent = server.spec.silent_for
    if silent:
        return f" (lost, silent for {render.how_long(silent.seconds)})"
    ended = server.spec.tunnel_lost_for
    return f" (ended {render.how_long(ended.seconds)} ago, its proxies say)" if ended else ""


@nodes.command("rm")
@click.argument("names", metavar="NAME|UUID", nargs=-1, required=True)
@click.option("--keep-identity", is_flag=True, help="Only hide the host until it announces itself again.")
@format_option("text", "json")
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], keep_identity: bool, form: str) -> None:
    """Expel hosts: their certificates are refused until they join anew."""
    from teleport.cli.tctl.connect import open_auth

    what = "is hidden until it announces itself again" if keep_identity else "has been expelled"
    done = "hidden" if keep_identity else "expelled"
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for name in comma_list(names):
            auth.client.call(routes.REMOVE["node"], m.ExpelRequest(name=name, keep_identity=keep_identity))
            tell("node", name, done, f"node {render.printable(name)!r} {what}")
