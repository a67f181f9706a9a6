"""The diagnostics listener: `/healthz` while the process lives, `/readyz` once every service takes connections, and
`/metrics`."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterable
from enum import IntEnum

from teleport.daemon.monitoring.metrics import CONTENT_TYPE, Metrics
from teleport.transport.short_answers import Answer, ShortAnswers


class State(IntEnum):
    """Of a part, and of the whole: the worst of its parts (`operations.md` 4, `process_state`)."""

    OK = 0
    DEGRADED = 2
    STARTING = 3


class Readiness:
    """Which services are meant to run, and which take connections.

    A balancer sends nobody to a daemon that is not ready. So a part that has trouble makes it unready only when the
    trouble is this daemon's own and keeps people from what it is there for. What all daemons of a kind have at the same
    time, while they serve (a store for recordings that is away), is said, and the answer stays 200.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = sorted(services)
        self._waiting = set(self._services)
        self._problems: dict[str, tuple[Callable[[], str], bool]] = {}
        self.all = asyncio.Event()
        if not self._waiting:
            self.all.set()

    def ready(self, service: str) -> None:
        self._waiting.discard(service)
        if not self._waiting:
            self.all.set()

    def watch(self, what: str, problem: Callable[[], str], *, serves: bool = False) -> None:
        """`problem` says why something is degraded now; empty when it is not. `serves`: people are served all the
        same, so it is told and does not make the daemon unready."""
        self._problems[what] = problem, serves

    def status(self) -> tuple[int, str]:
        """The HTTP status and text of `/readyz` (`operations.md` 4)."""
        if self._waiting:
            return 400, "starting: " + ", ".join(sorted(self._waiting))
        found = [
            (serves, f"{what}: {text}") for what, (problem, serves) in self._problems.items() if (text := problem())
        ]
        if not found:
            return 200, "ok"
        told = "degraded: " + "; ".join(text for _, text in sorted(found, key=lambda one: one[0]))
        return (200 if all(serves for serves, _ in found) else 503), told

    def components(self) -> dict[str, State]:
        """The state of each service and of each part that is watched."""
        states = {one: State.STARTING if one in self._waiting else State.OK for one in self._services}
        parts = {what: State.DEGRADED if problem() else State.OK for what, (problem, _) in self._problems.items()}
        return states | parts

    @property
    def state(self) -> State:
        """The worst of all, as the text says it: what starts counts first."""
        states = set(self.components().values())
        return max(states, default=State.OK)


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
