"""The OpenSSH revocation list as a file of this host, kept current for a plain sshd beside us (its `RevokedKeys`).

Asked for whenever a lock, a user, a host or an authority changes, and every ten minutes, since certificates and locks
end by themselves. While auth is away the last list stays: it never says less than it did when it was written.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from contextlib import suppress
from pathlib import Path
from typing import Final

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.daemon.host import write_private
from teleport.daemon.view import View
from teleport.errors import ConnectionProblem, TeleportError
from teleport.store.records import AUTHORITIES, HOSTS, LOCKS, USERS

log = logging.getLogger(__name__)

FILE: Final = "revoked_keys"  # in data_dir
EVERY: Final = 600.0  # seconds
RETRY: Final = 10.0  # seconds, while auth is away
SPREAD: Final = 0.3  # seconds over which hosts ask, after a change that all of them hear of


async def keep(view: View, client: AuthClient, data_dir: Path) -> None:
    """Until cancelled."""
    changed = asyncio.Event()
    ends = [view.cache.subscribe(prefix, lambda _: changed.set()) for prefix in (LOCKS, USERS, HOSTS, AUTHORITIES)]
    problem = ""
    try:
        while True:
            changed.clear()
            wait = EVERY
            try:
                await _fetch(view, client, data_dir / FILE)
                problem = ""
            except (TeleportError, OSError) as error:
                if str(error) != problem:
                    log.warning("the revocation list for sshd could not be renewed: %s", error)
                problem = str(error)
                wait = RETRY if isinstance(error, ConnectionProblem) else EVERY
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await changed.wait()
                    await asyncio.sleep(random.uniform(0, SPREAD))  # noqa: S311 - spreads requests, guards nothing
    finally:
        for end in ends:
            end()


async def _fetch(view: View, client: AuthClient, path: Path) -> None:
    request = m.RevocationListRequest(at_least=view.cache.revision)
    found = await client.call(routes.REVOCATION_LIST, request)
    content = base64.b64decode(found.krl)
    await asyncio.to_thread(write_private, path, content)
