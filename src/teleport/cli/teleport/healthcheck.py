"""`teleport healthcheck`: whether the daemon of this host serves, as an exit status, for containers and scripts."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.resources.values import HostPort


@click.command()
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("--diag-addr", metavar="ADDRESS", default="", help="Ask there, and read no configuration.")
@click.option("--live", is_flag=True, help="Ask only whether the process lives (/healthz), not whether it serves.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 300.0), default=5.0, show_default=True, help="Seconds for the answer."
)
@click.option("-f", "--format", "form", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def healthcheck(config_file: str | None, diag_addr: str, live: bool, timeout: float, form: str) -> None:
    """Ask the daemon at its diagnostics address whether it serves.

    Exit status: 0 it does, 1 it does not (it starts, or is degraded), 2 no address is configured, 6 nobody answers.
    """
    from teleport.daemon.monitoring.asking import ask, status_of

    address = _address(config_file, diag_addr)
    status, body = ask(address, "/healthz" if live else "/readyz", timeout)
    said = status_of(body)
    if status != 200:
        raise TeleportError(f"not in order: {said}", hint="teleport doctor looks for the reason, and so does the log")
    if form == "json":
        render.out(render.as_json({"status": said, "address": str(address)}))
    else:
        render.out(f"{render.printable(said)}\n")


def _address(config_file: str | None, diag_addr: str) -> HostPort:
    from teleport.daemon.config import forms, ports
    from teleport.resources.values import ADDRESS_FORMS, HostPort

    if diag_addr:
        try:
            return HostPort.parse(diag_addr, ports.DIAG, any_host=forms.ANY_HOST)
        except ValueError:
            raise BadRequest(f"--diag-addr: {diag_addr!a} is no address", hint=f"allowed: {ADDRESS_FORMS}") from None
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config

    path = Path(config_file) if config_file is not None else None
    config = effective_config(read_config(path, "", os.environ), StartFlags(), socket.gethostname())
    if config.diag_addr is None:
        raise BadRequest(
            "teleport.diag_addr is not set, so the daemon cannot be asked",
            hint="set it (diag_addr: 127.0.0.1:3000) and restart, or name that of the start command: --diag-addr",
        )
    return config.diag_addr
