"""A view of a cluster as a daemon has it, filled by a real auth service over the API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from teleport.daemon.remote import watch
from teleport.daemon.view import NODE_KINDS, PROXY_KINDS, View
from teleport.identity import SystemRole
from teleport.store.cache import Cache
from teleport.testing.auth import RunningAuth


@asynccontextmanager
async def filled_view(auth: RunningAuth, cache: Cache, role: SystemRole, name: str) -> AsyncIterator[View]:
    """What the service of this role on a host called `name` knows of the cluster, kept current meanwhile."""
    ready = asyncio.Event()
    kinds = PROXY_KINDS if role is SystemRole.PROXY else NODE_KINDS
    async with auth.async_client(await auth.host(role, name=name)) as client:
        running = asyncio.create_task(cache.run(lambda: watch(client, kinds), ready.set), name="cache")
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            yield View(cache, auth.clock, auth.cluster)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
