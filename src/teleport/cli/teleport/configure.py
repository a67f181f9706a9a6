"""`teleport configure`: a configuration file to begin with, and the check of one."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import click

from teleport.cli import render
from teleport.errors import AlreadyExists, BadRequest, TeleportError


@click.command()
@click.option(
    "-o",
    "--output",
    default="",
    metavar="PLACE",
    help="stdout (the default), file for /etc/teleport.yaml, or file:///path.",
)
@click.option("--cluster-name", default="", metavar="NAME", help="Name of the cluster; it can never be changed.")
@click.option("--acme", is_flag=True, help="Get certificates for the public name by ACME.")
@click.option("--acme-email", default="", metavar="ADDRESS", help="Where the certificate authority writes to.")
@click.option("--test", default="", metavar="FILE", help="Check this file and name all mistakes; start nothing.")
def configure(output: str, cluster_name: str, acme: bool, acme_email: str, test: str) -> None:
    """Print a configuration file to begin with, or check one with --test."""
    from teleport.daemon.config.sample import sample_config

    if test:
        if output or cluster_name or acme or acme_email:
            raise BadRequest("--test checks a file and takes no other flag", hint=f"teleport configure --test={test}")
        _test(Path(test))
        return
    place = _place(output)
    text = sample_config(cluster_name, acme, acme_email)
    if place is None:
        render.out(text)
        return
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{place} exists already", hint="remove it, or print to stdout and compare") from None
    except OSError as error:
        raise TeleportError(f"cannot write {place}: {error.strerror}", hint="--output=file:///another/path") from None
    with open(descriptor, "w") as file:
        file.write(text)
    render.out(f"{place} has been written. Check it after a change: teleport configure --test={place}\n")


def _place(output: str) -> Path | None:
    """The file to write, None for stdout."""
    from teleport.daemon.config.file import DEFAULT_PATH

    match output:
        case "" | "stdout":
            return None
        case "file":
            return DEFAULT_PATH
    path = output.removeprefix("file://")
    if not path.startswith("/") or "\0" in path:
        raise BadRequest(f"--output={output}: no such place", hint="stdout, file, or file:///path")
    return Path(path)


def _test(path: Path) -> None:
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config

    found = read_config(path, environment={})
    config = effective_config(found, StartFlags(), socket.gethostname())
    warnings = list(config.warnings)
    if config.proxy is not None and config.proxy.keypairs:
        from teleport.daemon.keypairs import looked_through

        hosts = [] if config.proxy.acme is not None else [address.host for address in config.proxy.public_addrs]
        warnings += looked_through(config.proxy.keypairs, hosts, datetime.now(UTC))
    for warning in warnings:
        render.note(f"warning: {render.printable(warning)}")
    render.out(f"{path} is correct. It runs: {', '.join(config.roles)}\n")
