"""`teleport join`: makes this host one that takes sessions; may be run again and again, by cloud-init or Ansible."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.daemon.config.values import Config


@click.command()
@click.option(
    "--auth-server", metavar="ADDRESS", multiple=True, required=True, help="Auth server or proxy; repeatable."
)
@click.option("--token-file", metavar="FILE", required=True, help="File that holds the join token, by its whole path.")
@click.option(
    "--ca-pin", metavar="PIN", multiple=True, required=True, help="sha256:... as `tctl status` prints it; repeatable."
)
@click.option("--labels", metavar="LIST", default="", help='Labels: a=b,c=[1m:"command args"].')
@click.option("--nodename", metavar="NAME", default="", help="Name of this host in the cluster [its host name].")
@click.option("--systemd", is_flag=True, help="Write teleport-node.service, start it, wait until the host is listed.")
@click.option("-c", "--config", metavar="FILE", default="/etc/teleport-node.yaml", help="[/etc/teleport-node.yaml]")
@click.option("--data-dir", metavar="DIR", default="/var/lib/teleport-node", help="[/var/lib/teleport-node]")
@click.option(
    "--teleport-path", metavar="FILE", default="", help="The program [/usr/local/bin/teleport, or that of a package]."
)
@click.option("--timeout", type=click.IntRange(1, 3600), default=90, help="Seconds to wait until it is listed [90].")
@click.option("--force", is_flag=True, help="Write over another configuration or unit.")
@click.option("--token", default="", hidden=True)
def join(
    auth_server: tuple[str, ...],
    token_file: str,
    ca_pin: tuple[str, ...],
    labels: str,
    nodename: str,
    systemd: bool,
    config: str,
    data_dir: str,
    teleport_path: str,
    timeout: int,
    force: bool,
    token: str,
) -> None:
    """Write the configuration of a host that takes sessions; with --systemd, start it and wait until it is listed."""
    from teleport.cli.teleport.install import check_program, program_of, put, put_unit
    from teleport.daemon.config.file import load_config
    from teleport.daemon.systemd import control, joining, units

    if token:
        raise BadRequest(
            "a join token is not taken from the command line, where everybody on this host can read it",
            hint="put it into a file of mode 0600 and name that: --token-file=/path",
        )
    if not token_file.startswith("/"):
        raise BadRequest(  # what was given may be the token itself, and is not repeated
            "--token-file names a file by its whole path", hint="write the token into a file: --token-file=/path"
        )
    place, file = Path(config), Path(token_file)
    unit = units.Values(units.Unit.NODE, program=program_of(teleport_path), config=place)  # checks the paths
    checked = _checked(auth_server, ca_pin, labels, nodename, token_file)
    text = joining.node_text(checked, file, Path(data_dir), nodename)
    load_config(text, str(place))
    if systemd:
        control.check_runs()
        check_program(unit.program)
    _check_token(checked, file, Path(data_dir))
    changed = put(place, text, 0o600, force=force)
    told = [f"{place} {'has been written' if changed else 'is as it should be'}."]
    if not systemd:
        told.append(f"Next: teleport start --config={place}")
        render.out("\n".join(told) + "\n")
        return
    unit_place, reread = put_unit(units.DIRECTORY / unit.unit.file_name, units.unit_text(unit), force=force)
    told.append(f"{unit_place} {'has been written' if reread else 'is as it should be'}.")
    render.out("\n".join(told) + "\n")
    done = control.Running(unit.unit.value).bring_up(reread=reread, changed=changed, seconds=timeout)
    render.out(f"{nodename or socket.gethostname()} {_where(Path(data_dir))} and takes sessions.\n")
    if not (changed or reread or done):
        render.out("Nothing was changed.\n")


def _checked(servers: tuple[str, ...], pins: tuple[str, ...], labels: str, nodename: str, token_file: str) -> Config:
    """The flags as values. Raises `BadRequest` with everything that cannot be meant."""
    from teleport.daemon.config.effective import StartFlags, effective_config

    if not all(pins):
        raise BadRequest("an empty --ca-pin proves nothing", hint="tctl status on the auth server prints it")
    flags = StartFlags(
        roles="node", auth_servers=servers, token=token_file, ca_pins=pins, labels=labels, nodename=nodename
    )
    return effective_config(None, flags, socket.gethostname())


def _check_token(config: Config, file: Path, data_dir: Path) -> None:
    """The token has to be there unless this host has joined before, and should be for nobody else's eyes."""
    from teleport.daemon.credentials import has_any

    try:
        found = file.stat()
    except OSError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        if not has_any(data_dir / "proc"):
            assert config.token is not None
            config.token.read()  # says what is wrong with it
            raise BadRequest(f"{file} is no file", hint="name a file that holds the join token and nothing else")
        return
    if stat.S_IMODE(found.st_mode) & 0o077:
        render.note(f"warning: other users can read the join token in {file}: chmod 0600 {file}")
    if found.st_uid not in (0, os.geteuid()):
        render.note(f"warning: the join token in {file} is in the hands of uid {found.st_uid}: chown root {file}")
    if not has_any(data_dir / "proc"):
        assert config.token is not None
        config.token.read()


def _where(data_dir: Path) -> str:
    from teleport.daemon.credentials import load_cluster

    cluster = load_cluster(data_dir / "proc")
    return f"is part of the cluster {cluster.cluster}" if cluster is not None else "is part of the cluster"
