"""The diagnostics listener: `/healthz` while the process lives, `/readyz` once every service takes connections, and
`/metrics`."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterable

from teleport.daemon.metrics import CONTENT_TYPE, Metrics
from teleport.transport.short_answers import Answer, ShortAnswers


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


def diagnostics(readiness: Readiness, metrics: Metrics | None = None) -> ShortAnswers:
    """The listener, which is still to serve."""

    def answer(path: str) -> Answer | None:
        match path:
            case "/healthz":
                return _answer(200, "ok")
            case "/readyz":
                return _answer(*readiness.status())
            case "/metrics" if metrics is not None:
                return Answer(200, metrics.text().encode(), CONTENT_TYPE)
        return None

    return ShortAnswers(answer, "diagnostics")


def _answer(status: int, text: str) -> Answer:
    return Answer(status, json.dumps({"status": text}).encode())


async def serve_diagnostics(listener: socket.socket, edge: ShortAnswers) -> None:
    """Serves until cancelled."""
    async with edge.serve(listener):
        await asyncio.Event().wait()
