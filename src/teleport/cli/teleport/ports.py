"""`teleport ports`: what has to be open on this host, for people, for nftables and for programs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teleport.cli import render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.daemon.config.values import Config
    from teleport.daemon.needed_ports import Port, Surroundings
    from teleport.resources.values import HostPort


@click.command()
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("-r", "--roles", metavar="LIST", default="", help="Services, as for `start`: proxy,node,auth.")
@click.option(
    "--offline",
    is_flag=True,
    help="Ask nobody: whether auth or a proxy is at auth_servers is told by the port, and tunnels end at 3024.",
)
@click.option(
    "-f", "--format", "form", type=click.Choice(("text", "nft", "json")), default="text", help="Form of the output."
)
def ports(config_file: str | None, roles: str, offline: bool, form: str) -> None:
    """Print each port that this host needs, inbound and outbound, from and to whom, and why."""
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config
    from teleport.daemon.needed_ports import needed

    path = Path(config_file) if config_file is not None else None
    config = effective_config(read_config(path, "", os.environ), StartFlags(roles=roles), socket.gethostname())
    around, notes = _surroundings(config, offline=offline)
    found = needed(config, around)
    match form:
        case "json":
            render.out(render.as_json({"ports": [_row(one) for one in found], "notes": notes}))
        case "nft":
            from teleport.daemon.ports_nft import as_nft

            render.out(as_nft(found, render.printable))
        case _:
            render.out(_text(found))
    if form != "json":
        for note in notes:
            render.note(render.printable(note))


def _surroundings(config: Config, *, offline: bool) -> tuple[Surroundings, list[str]]:
    """What is known beside the configuration, and what has to be said of it."""
    from teleport.daemon import identities
    from teleport.daemon.needed_ports import Surroundings

    notes: list[str] = []
    through = config.auth is None and identities.leads_through_proxy(config.data_dir / "proc", config)
    if config.auth is None and not offline and not os.path.exists(config.data_dir / "proc" / "door"):
        asked = _door(config)  # it has not joined, or this user may not look
        if asked is None:
            taken = "a proxy" if through else "auth itself"
            notes.append(f"note: nobody answers at teleport.auth_servers; by its port it is taken for {taken}")
        through = through if asked is None else asked
    tunnel = None
    if through and config.node is not None and config.proxy is None:
        tunnel = None if offline else _asked(config)
        if tunnel is None:
            notes.append(
                "note: the proxy was not asked where tunnels end: 3024 is taken"
                if offline
                else "note: no proxy says where tunnels end: 3024 is taken; run it again when one is reached"
            )
    return Surroundings(through, tunnel, _name_servers(), _site_proxy), notes


def _door(config: Config) -> bool | None:
    """Whether a proxy answers at the first of `auth_servers` that does, or auth itself; None: nobody."""
    from teleport.api.join import find_cluster
    from teleport.errors import TeleportError

    try:
        return find_cluster([(one.host, one.port) for one in config.auth_servers], ()).door.through_proxy
    except TeleportError:
        return None


def _asked(config: Config) -> HostPort | None:
    """Where tunnels end, as the operator of this host or a proxy says."""
    from teleport.tunnel.reaching import tunnel_address
    from teleport.tunnel.seeds import tunnel_addresses

    if named := os.environ.get("TELEPORT_TUNNEL_PUBLIC_ADDR"):
        return tunnel_address(named)
    logging.getLogger("teleport").addHandler(logging.NullHandler())  # what it says is said by a note
    found = asyncio.run(tunnel_addresses([(server.host, server.port) for server in config.auth_servers]))
    with suppress(BadRequest):
        return tunnel_address(found[0]) if found else None
    return None


def _site_proxy(host: str, port: int) -> HostPort | None:
    from teleport.resources.values import HostPort
    from teleport.transport.site_proxy import site_proxy

    found = site_proxy(host, port)
    return HostPort(found.host, found.port) if found is not None else None


def _name_servers(file: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Those of resolv.conf(5), which are three at most."""
    with suppress(OSError):
        words = [line.split() for line in file.read_text(errors="replace").splitlines()]
        return tuple(dict.fromkeys(line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1))[:3]
    return ()


def _row(one: Port) -> dict[str, Any]:
    return {**asdict(one), "direction": str(one.direction), "local": one.local}


def _text(found: Sequence[Port]) -> str:
    from teleport.daemon.needed_ports import Direction

    parts = []
    for title, direction in (("Inbound", Direction.IN), ("Outbound", Direction.OUT)):
        for sometimes in (False, True):
            rows = [
                [_port(one), one.host or "any", one.peer, _why(one), *([one.only_if] if sometimes else [])]
                for one in found
                if one.direction is direction and bool(one.only_if) is sometimes
            ]
            if rows:
                headers = ["Port", "Listens on", "From"] if direction is Direction.IN else ["Port", "At", "To"]
                more = ["Only If"] if sometimes else []
                heading = f"{title}, in some cases" if sometimes else title
                parts.append(f"{heading}\n\n" + render.table([*headers, "Why", *more], rows))
    return "".join(parts)


def _why(one: Port) -> str:
    return f"{one.why}; this host only" if one.local else one.why


def _port(one: Port) -> str:
    return f"{one.protocol} {one.port}" if one.port else f"{one.protocol} any"
