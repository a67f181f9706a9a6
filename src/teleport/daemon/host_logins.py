"""What a node needs of its host so that sessions can begin as the configuration says; looked at once, at the start."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from teleport.audit.events import Event, HostUserCreate, HostUserDelete, HostUserUpdate, new_event
from teleport.daemon.config.values import Pam
from teleport.errors import TeleportError
from teleport.node.pam import PamSettings

log = logging.getLogger(__name__)

TELL_EVERY: Final = 2.0  # seconds
_PLACES = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"))


def pam_settings(settings: Pam | None) -> PamSettings | None:
    """`TeleportError` when PAM is on and no session could ever be opened by it: the node does not start then."""
    if settings is None:
        return None
    if os.geteuid() != 0:
        raise TeleportError(
            "ssh_service.pam is on, but only root may open sessions of PAM for other accounts",
            hint="run the node as root, or set ssh_service.pam.enabled: no",
        )
    # Without a file of that name PAM takes the one called "other", which is for nobody in particular.
    if not any((place / settings.service).is_file() for place in _PLACES):
        raise TeleportError(
            f"ssh_service.pam.service_name is {settings.service}, but there is no file of that name in /etc/pam.d",
            hint="name a file that is there, or write one",
        )
    return PamSettings(settings.service, settings.auth, settings.environment)


async def tell_host_users(emit: Callable[[Event], Awaitable[object]], facts: Mapping[str, str], folder: Path) -> None:
    """Puts on record what accounts the monitors of sessions made and removed; until cancelled.

    What is told is removed after it is durable: a crash in between tells it twice, never not at all. Of
    two daemons of a host, during a restart, one tells.
    """
    turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in await asyncio.to_thread(_told, folder):
                    event = _host_user_event(path, facts)
                    if event is not None:
                        await emit(event)
                    path.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            except (OSError, TeleportError) as error:
                log.error("what became of accounts that were made for sessions cannot be put on record: %s", error)
            await asyncio.sleep(TELL_EVERY)
    finally:
        os.close(turn)


def _told(folder: Path) -> list[Path]:
    """Oldest first, without drafts."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _host_user_event(path: Path, facts: Mapping[str, str]) -> Event | None:
    try:
        told = json.loads(path.read_text())
        what, name, uid = str(told["what"]), str(told["name"]), int(told["uid"])
        groups, error = [str(group) for group in told["groups"]], str(told["error"])
        when = datetime.fromtimestamp(float(told["time"]), UTC)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        log.error("%s cannot be read: %s", path, problem)
        return None
    common = {"login": name, "sid": str(told.get("sid", "")), "uid_number": uid, "proto": "ssh", **facts}
    match what:
        case "create":
            return new_event(HostUserCreate, when, str(uuid4()), groups=groups, error=error, **common)
        case "update":
            return new_event(HostUserUpdate, when, str(uuid4()), groups=groups, **common)
        case "delete":
            return new_event(HostUserDelete, when, str(uuid4()), **common)
    return None
