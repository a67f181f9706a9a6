"""`teleport start` as it is typed: its flags, and the configuration that comes out of them and the file."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli.teleport.daemon import Order
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.daemon.config.effective import StartFlags


@click.command()
@click.option("-d", "--debug", is_flag=True, help="Log more, to stderr.")
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("--config-string", hidden=True, default="", help="Configuration as base64 of its YAML.")
@click.option("--bootstrap", metavar="FILE", default="", help="Resources to load into an empty storage.")
@click.option("-r", "--roles", metavar="LIST", default="", help="Services to run: proxy,node,auth.")
@click.option("--pid-file", metavar="FILE", default="", help="Where to write the process id.")
@click.option("--advertise-ip", metavar="ADDRESS", default="", help="Address that others reach this host by.")
@click.option("-l", "--listen-ip", metavar="IP", default="", help="Address to bind all services to.")
@click.option("--auth-server", metavar="ADDRESS", multiple=True, help="Auth server to join; may be repeated.")
@click.option("--token", metavar="FILE", default="", help="Join token, or better the path of a file that holds it.")
@click.option("--ca-pin", metavar="PIN", multiple=True, help="sha256:... as `tctl status` prints it; may be repeated.")
@click.option("--nodename", metavar="NAME", default="", help="Name of this host in the cluster.")
@click.option("--labels", metavar="LIST", default="", help='Labels: a=b,c=[1m:"command args"].')
@click.option("--diag-addr", metavar="ADDRESS", default="", help="Serve /healthz and /readyz there.")
@click.option("--permit-user-env", is_flag=True, help="Read ~/.tsh/environment at session start.")
@click.option("--insecure", is_flag=True, help="Do not check certificates of other servers; for trials only.")
@click.option("--insecure-no-tls", is_flag=True, help="The proxy speaks plain HTTP; TLS ends at a balancer.")
@click.option("--fips", is_flag=True, help="Refused: see the message.")
@click.pass_obj
def start(
    go_on: Callable[[Order], None],
    debug: bool,
    config_file: str | None,
    config_string: str,
    bootstrap: str,
    roles: str,
    pid_file: str,
    advertise_ip: str,
    listen_ip: str,
    auth_server: tuple[str, ...],
    token: str,
    ca_pin: tuple[str, ...],
    nodename: str,
    labels: str,
    diag_addr: str,
    permit_user_env: bool,
    insecure: bool,
    insecure_no_tls: bool,
    fips: bool,
) -> None:
    """Start the services of this host: auth, proxy, node, or some of them."""
    from teleport.daemon.config.effective import StartFlags
    from teleport.daemon.restarts import handover

    inherited = handover.take(os.environ)
    flags = StartFlags(
        roles=roles,
        auth_servers=auth_server,
        token=token,
        ca_pins=ca_pin or None,
        listen_ip=listen_ip,
        nodename=nodename,
        labels=labels,
        diag_addr=diag_addr,
        pid_file=pid_file,
        advertise_ip=advertise_ip,
        bootstrap=bootstrap,
        insecure=insecure,
        insecure_no_tls=insecure_no_tls,
        permit_user_env=permit_user_env,
        fips=fips,
        debug=debug,
    )
    try:
        order = _order(config_file, config_string, flags)
    except TeleportError as error:
        if inherited is not None:
            inherited.tell_failed(str(error))
        raise
    go_on(order)


def _order(config_file: str | None, config_string: str, flags: StartFlags) -> Order:
    from teleport.daemon.config.effective import effective_config
    from teleport.daemon.config.file import read_config

    path = Path(config_file) if config_file is not None else None
    config = effective_config(read_config(path, config_string, os.environ), flags, socket.gethostname())
    if config.bootstrap is not None and config.auth is None:
        raise BadRequest(
            "--bootstrap: this host does not run the auth service, which keeps the resources of a cluster",
            hint="leave it out, or start the auth server with it",
        )
    for warning in config.warnings:
        sys.stderr.write(f"teleport: warning: {warning}\n")
    return Order(config, config_file)
