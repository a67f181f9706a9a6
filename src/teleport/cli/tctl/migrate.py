"""`tctl migrate`: the state of a stopped cluster moves from one storage to another."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tctl.options import Command, flags_of, format_option

if TYPE_CHECKING:
    from teleport.daemon.config.values import Config
    from teleport.daemon.migrating import Migrated


@click.command("migrate", cls=Command)
@click.option(
    "--from", "source", default="", metavar="FILE", help="Configuration with the storage of now; else that of --config."
)
@click.option("--to", "target", required=True, metavar="FILE", help="Configuration with the storage to be.")
@click.option("--dry-run", is_flag=True, help="Look at both and say what would be moved; no item is written.")
@format_option("text", "json")
@click.pass_context
def migrate(ctx: click.Context, source: str, target: str, dry_run: bool, form: str) -> None:
    """Copy the state of the cluster into another storage (a directory, etcd, PostgreSQL, DynamoDB), which must be
    empty, and prove that both hold the same. On an auth server, as the user who runs the daemon, while every auth
    server of the cluster is stopped. The source stays as it is; after a break, run it again. Log and recordings
    do not move."""
    from teleport.cli.progress import progress
    from teleport.cli.tctl.connect import CONFIG_VARIABLE
    from teleport.clock import SystemClock
    from teleport.daemon import migrating

    before = _config(source or flags_of(ctx).config or os.environ.get(CONFIG_VARIABLE, ""))
    after = _config(target)
    with progress("migrating", "items") as so_far:
        done = asyncio.run(migrating.migrate(before, after, SystemClock(), dry_run=dry_run, seen=so_far))
    if form == "json":
        render.out(render.as_json(_facts(done, dry_run)))
        return
    _tell(done, dry_run)
    if not dry_run:
        render.note(
            f"Set teleport.storage as in {render.printable(target)} on every auth server, then: teleport start. "
            "Do not start the old storage again: it would be a second cluster with the same keys."
        )


def _config(file: str) -> Config:
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config

    # a file that is named counts, whatever the environment holds: else both would be one
    read = read_config(Path(file)) if file else read_config(None, environment=os.environ)
    return effective_config(read, StartFlags(), socket.gethostname())


def _facts(done: Migrated, dry_run: bool) -> dict[str, object]:
    return {
        "cluster": done.cluster,
        "from": done.source,
        "to": done.target,
        "items": len(done.content.items),
        "parts": done.content.parts,
        "sha256": done.content.sha256,
        "replaces_unfinished": done.anew,
        "migrated": not dry_run,
    }


def _tell(done: Migrated, dry_run: bool) -> None:
    parts = ", ".join(f"{count} {name}" for name, count in done.content.parts.items())
    rows = [
        ("Cluster", done.cluster),
        ("From", done.source),
        ("To", done.target),
        ("Items", f"{len(done.content.items)}: {parts}"),
        ("SHA-256", f"{done.content.sha256}{'' if dry_run else ', the same in both'}"),
    ]
    if done.anew:
        rows.append(("Before", f"what a broken migration left there {'will be' if dry_run else 'was'} removed"))
    for name, value in rows:
        render.out(f"{name:<8} {render.printable(value)}\n")
    render.out("Nothing was moved: --dry-run.\n" if dry_run else "Migrated.\n")
