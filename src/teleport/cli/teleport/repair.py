"""`teleport repair`: administrators who are locked out, let in again on the auth host while its daemon is down."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.daemon.config.values import Config
    from teleport.daemon.repair import Findings, Repair


@click.command()
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("--admin", default="", metavar="NAME", help="Make this user an administrator and print a link for it.")
@click.option("--logins", default="", metavar="LOGIN,..", help="Unix accounts of that user, when it is made.")
@click.option("--remove-lock", multiple=True, metavar="NAME", help="Remove this lock; may be repeated.")
@click.option("--remove-locks", is_flag=True, help="Remove every lock.")
@click.option("--restore-roles", is_flag=True, help="Write the preset roles as they were at first.")
def repair(
    config_file: str | None,
    admin: str,
    logins: str,
    remove_lock: tuple[str, ...],
    remove_locks: bool,
    restore_roles: bool,
) -> None:
    """Show, and with options repair, what keeps the administrators of a cluster out. On the auth host, as the user who
    runs the daemon, while the daemon is stopped. What is changed is on record once the daemon runs again."""
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config

    if logins and not admin:
        raise BadRequest("--logins are those of the user that --admin names", hint="--admin=NAME --logins=root")
    path = Path(config_file) if config_file is not None else None
    config = effective_config(read_config(path, "", os.environ), StartFlags(), socket.gethostname())
    asyncio.run(_repair(config, admin, logins.split(",") if logins else [], remove_lock, remove_locks, restore_roles))


async def _repair(
    config: Config, admin: str, logins: list[str], named: tuple[str, ...], every_lock: bool, roles: bool
) -> None:
    from teleport.cli.tctl.actor import actor_facts
    from teleport.clock import SystemClock
    from teleport.daemon.repair import repairing

    async with repairing(config, SystemClock(), actor_facts()) as storage:
        done = [said async for said in _changes(storage, admin, logins, named, every_lock, roles)]
        if done:
            await storage.tell(done)
            render.out("They are in the audit log once the daemon runs again.\n")
        else:
            render.out(_text(await storage.look()))


async def _changes(
    storage: Repair, admin: str, logins: list[str], named: tuple[str, ...], every_lock: bool, roles: bool
) -> AsyncIterator[str]:
    """Does what was asked for and says so; yields what goes on record."""
    if roles:
        for name in await storage.restore_roles():
            render.out(f"The role {name} is as it was at first.\n")
            yield f"role {name} restored"
    if named or every_lock:
        for name in await storage.remove_locks([] if every_lock else named):
            render.out(f"The lock {render.printable(name)} has been removed.\n")
            yield f"lock {name} removed"
    if admin:
        link = await storage.make_administrator(admin, logins)
        render.out(
            f"The user {render.printable(admin)!r} may edit roles. Password and second factor of before have ended.\n"
            "Start the daemon, then follow this link; it works once, within 8 hours:\n"
            f"{link.url}\n"
        )
        yield f"user {admin} made an administrator"


def _text(found: Findings) -> str:
    lines = [f"The cluster {found.cluster}:"]
    if found.administrators:
        lines.append(f"  users who may edit roles: {', '.join(found.administrators)}")
    else:
        lines.append("  nobody may edit roles; to make somebody an administrator: teleport repair --admin=NAME")
    lines += [f"  {said}; to remove it: teleport repair --remove-lock={name}" for name, said in found.locks]
    lines += [
        f"  {name} is locked out after failed logins, for 20 minutes at most; a new link ends that: "
        f"teleport repair --admin={name}"
        for name in found.locked_out
    ]
    if found.missing_roles:
        lines.append(
            f"  preset roles that are missing or were changed: {', '.join(found.missing_roles)}; "
            "to write them as they were at first: teleport repair --restore-roles"
        )
    return "".join(f"{render.printable(line)}\n" for line in lines)
