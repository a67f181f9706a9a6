"""`tsh scp`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.transfer.scp import Transfer
    from teleport.wire.transfer_names import Place


@click.command(context_settings={"allow_interspersed_args": True})
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... TARGET")
@click.option("-r", "--recursive", is_flag=True, help="copy folders, with all they hold")
@click.option("-p", "--preserve", is_flag=True, help="keep times and permissions")
@click.option("-P", "--port", type=click.IntRange(1, 65535), default=None, help="port, where a name fits several hosts")
@click.option("-q", "--quiet", is_flag=True, help="show no progress")
@click.option("-o", "--option", "options", multiple=True, help="an option of OpenSSH, as Key=Value")
@cluster_option
@takes_flags
def scp(
    flags: Flags,
    paths: tuple[str, ...],
    recursive: bool,
    preserve: bool,
    port: int | None,
    quiet: bool,
    options: tuple[str, ...],
    cluster: str,
) -> int:
    """Copy files to a host, from one, or between two. SOURCE, TARGET: [user@]host:path, or a path here.

    Between two hosts the files go through this machine and are not kept on it. Patterns (host:'*.log') are looked for
    on the host. Exits with 0 when everything was copied.
    """
    from teleport.cli.tsh.ssh import check_login, local_user
    from teleport.client.ssh_options import SshOptions
    from teleport.wire.transfer_names import parse_place

    if len(paths) < 2:
        raise BadRequest("one path is no copy", hint="tsh scp [user@]host:path .")
    said = SshOptions()
    for option in options:
        said.apply(option)
    places = [parse_place(path, windows=os.sep == "\\") for path in paths]
    if not any(place.host for place in places):
        raise BadRequest(
            "no path names a host", hint="tsh scp [user@]host:path .; ./a:b is a file here whose name holds a colon"
        )
    login = flags.login or said.user or ""
    places = [replace(place, user=place.user or login or local_user()) if place.host else place for place in places]
    found = access(flags, cluster)
    for place in places:
        if place.host:
            check_login(found.credentials.ssh_certificate, place.user)
    from teleport.client.transfer.scp import KEEPALIVE, Transfer, Ways
    from teleport.ssh.surface import KeepAlive

    keepalive = KeepAlive(
        KEEPALIVE.seconds if said.alive_seconds is None else said.alive_seconds, said.alive_count or KEEPALIVE.count
    )
    transfer = Transfer(places[:-1], places[-1], Ways(recursive, preserve), port or said.port or 0, keepalive=keepalive)
    if said.connect_seconds is not None:
        transfer = replace(transfer, connect_seconds=said.connect_seconds)
    return _copied(found, transfer, quiet=quiet or said.quiet, batch=said.batch, chosen=bool(cluster))


def _copied(found: Access, transfer: Transfer, *, quiet: bool, batch: bool, chosen: bool) -> int:
    """`chosen`: the cluster was said, so that names of hosts do not say it."""
    import asyncio
    import gc

    from teleport.cli.progress import progress
    from teleport.client.other_clusters import towards
    from teleport.client.transfer.scp import FactorDue, run, total_size

    gc.freeze()
    gc.enable()
    marked: dict[tuple[str, str], Access] = {}
    failures: list[str] = []
    moved = [0]

    def reach(place: Place) -> Access:
        return marked.get((place.user, place.host)) or where(place)

    def where(place: Place) -> Access:
        return found if chosen else towards(found, place.host)

    def failed(path: str, error: TeleportError) -> None:
        failures.append(path)
        render.note(f"tsh: {render.printable(path)}: {render.printable(error.message)}")

    while True:
        begun = time.monotonic()
        try:
            with progress("copying", "bytes", after=3600 if quiet else 0.5, total=total_size(transfer)) as show:

                def count(size: int) -> None:
                    moved[0] += size
                    show(moved[0])

                files = asyncio.run(run(transfer, reach, now(), count, failed))
            break
        except FactorDue as due:
            if batch or (due.end.user, due.end.host) in marked:
                raise
            marked[due.end.user, due.end.host] = _proved(where(due.end), due.end, transfer.port)
        except asyncio.CancelledError:
            raise TeleportError("the transfer was ended by a signal", hint="copy again what is missing") from None
    if not quiet and sys.stderr.isatty() and files:
        seconds = max(time.monotonic() - begun, 0.001)
        speed = moved[0] / 1e6 / seconds
        render.note(f"{files} file{'s' * (files != 1)}, {moved[0] / 1e6:.1f} MB in {seconds:.1f} s, {speed:.1f} MB/s")
    return 1 if failures else 0


def _proved(found: Access, end: Place, port: int) -> Access:
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.session_mfa import for_session

    render.note(f"tsh: the session on {render.printable(end.host)} needs a second factor")
    name = end.host.removesuffix(f".{found.cluster}")
    return for_session(found, name, port, end.user, now(), second_factor(found.web))
