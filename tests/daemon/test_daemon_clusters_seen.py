"""Auth hears from proxies which other clusters are there: at once when one comes, then again and again."""

from __future__ import annotations

import asyncio
import contextlib

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import Route
from teleport.daemon import clusters_seen
from teleport.errors import ConnectionProblem
from teleport.testing.running import wait_until


class Auth:
    """Notes what it is told; the first call fails."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.calls = 0

    async def call(self, route: Route[m.SeenClustersRequest, m.Done], request: m.SeenClustersRequest) -> m.Done:
        assert route is routes.SEEN_CLUSTERS
        self.calls += 1
        if self.calls == 1:
            raise ConnectionProblem("auth is away")
        self.told.append(request.clusters)
        return m.Done()


async def test_auth_is_told_who_is_there_and_not_when_nobody_is() -> None:
    auth, online = Auth(), list[str]()
    task = asyncio.create_task(clusters_seen.tell(auth, lambda: online, every=0.01), name="telling")
    try:
        online.append("leaf")
        await wait_until(lambda: len(auth.told) >= 3)
        assert auth.told[0] == ["leaf"]
        online.append("other")
        await wait_until(lambda: ["leaf", "other"] in auth.told)
        online.clear()
        await asyncio.sleep(0)
        count = auth.calls
        online.append("leaf")
        await wait_until(lambda: auth.calls > count)
        assert [] not in auth.told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
