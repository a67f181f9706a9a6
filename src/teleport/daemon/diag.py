"""The diagnostics listener: `/healthz` while the process lives, `/readyz` once every service takes connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from aiohttp import web

from teleport.transport.http_listener import HTTPListener


class Readiness:
    """Which services are meant to run, and which take connections."""

    def __init__(self, services: Iterable[str]) -> None:
        self._waiting = set(services)
        self._problems: dict[str, Callable[[], str]] = {}
        self.all = asyncio.Event()
        if not self._waiting:
            self.all.set()

    def ready(self, service: str) -> None:
        self._waiting.discard(service)
        if not self._waiting:
            self.all.set()

    def watch(self, what: str, problem: Callable[[], str]) -> None:
        """`problem` says why something is degraded now; empty when it is not."""
        self._problems[what] = problem

    def status(self) -> tuple[int, str]:
        """The HTTP status and text of `/readyz` (`operations.md` 4)."""
        if self._waiting:
            return 400, "starting: " + ", ".join(sorted(self._waiting))
        problems = [f"{what}: {text}" for what, problem in self._problems.items() if (text := problem())]
        return (503, "degraded: " + "; ".join(problems)) if problems else (200, "ok")


async def serve_diagnostics(listener: socket.socket, readiness: Readiness, edge: HTTPListener | None = None) -> None:
    """Serves until cancelled."""
    edge = edge or HTTPListener("diagnostics")

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        status, text = readiness.status()
        return web.json_response({"status": text}, status=status)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = edge.runner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        async with edge.serve(runner, listener, None):
            await asyncio.Event().wait()
    finally:
        await runner.cleanup()
