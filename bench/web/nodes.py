"""Many nodes: they are written into the cluster's storage, and searched in the page."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from bench import cluster
from bench.cluster import Files
from bench.report import Report
from bench.web.browser import window
from bench.web.figures import KB, milliseconds

AT_ONCE = 500  # records in one transaction
RACKS = 50  # numbered from 10: none is the beginning of another
BETWEEN = 100  # milliseconds from key to key
ANSWER, SIZE = 100.0, 100.0  # milliseconds, kB

# `awaited(total)`: the milliseconds from the event of the last key until the list of so many was painted.
SEARCH = """
addEventListener("keydown", (event) => { bench.pressed = event.timeStamp; }, true);
bench.awaited = (total) => {
  const seen = () =>
    document.querySelector('nav [role="status"]')?.textContent.endsWith(` of ${total} nodes`) &&
    document.querySelectorAll("main tbody tr").length === Math.min(total, 50);
  bench.shown = bench.reached(seen).then((at) => at - bench.pressed);
};
bench.answer = (word) => {
  const name = `search=${encodeURIComponent(word)}&`;
  const found = performance.getEntriesByType("resource").filter((one) => one.name.includes(name)).at(-1);
  return found && [found.responseEnd - found.requestStart, found.encodedBodySize];
};
performance.setResourceTimingBufferSize(10000);
"""


@dataclass(frozen=True, slots=True)
class Searched:
    """One search: milliseconds from the last key to the rows, of the answer alone, and the bytes of that."""

    shown: float
    answered: float
    bytes: float


def fill(files: Files, count: int) -> None:
    """Registers hosts with a plain sshd, as `tctl create` does; the daemon runs meanwhile."""
    with ThreadPoolExecutor(1) as pool:  # Playwright's loop runs in this thread
        pool.submit(asyncio.run, _fill(files.data_dir / "backend", count)).result()


async def _fill(storage: Path, count: int) -> None:
    from teleport.backend.interface import PutOp
    from teleport.backend.sqlite import SqliteBackend
    from teleport.clock import SystemClock
    from teleport.resources.codec import to_json
    from teleport.resources.metadata import Metadata
    from teleport.resources.server import Server, ServerSpec
    from teleport.store.records import NODES

    async with SqliteBackend(storage, SystemClock(), sweep_every=None) as backend:
        for first in range(0, count, AT_ONCE):
            writes = []
            for number in range(first, min(first + AT_ONCE, count)):
                labels = {
                    "env": ("prod", "staging", "test")[number % 3],
                    "rack": f"r{number % RACKS + 10}",
                    "serial": f"s{number:06}",
                }
                spec = ServerSpec(hostname=f"node-{number:05}", addr=f"10.0.{number // 250}.{number % 250 + 1}:22")
                metadata = Metadata(name=str(uuid.uuid4()), labels=labels)
                server = Server(sub_kind="openssh", metadata=metadata, spec=spec)
                writes.append(PutOp(NODES + server.host_id, to_json(server)))
            await backend.commit(writes)


def rows(browser: Browser, origin: str, state: Any, count: int, runs: int, report: Report) -> None:
    """Searches for one rack after another."""
    with window(browser, origin, state, SEARCH) as page:
        page.goto(f"/web/cluster/{cluster.NAME}/nodes")
        everything = count + 1  # with the cluster's own node
        page.evaluate("(total) => bench.awaited(total)", everything)
        page.evaluate("bench.shown")
        found = [_search(page, f"rack=r{turn % RACKS + 10}", count, everything) for turn in range(-1, runs)][1:]
        size = page.evaluate("bench.answer('')")[1]
    shown = [one.shown for one in found]
    answered = [one.answered for one in found]
    largest = max(size, *(one.bytes for one in found))
    what = f"search in {count:,} nodes"
    within = f"<= {ANSWER:.0f} ms"
    report.row(f"{what}: last key to rows (of {runs})", milliseconds(shown), within, statistics.median(shown) <= ANSWER)
    report.row(f"{what}: the answer alone", milliseconds(answered), within, statistics.median(answered) <= ANSWER)
    report.row(f"{what}: largest answer", f"{largest / KB:.1f} kB", f"< {SIZE:.0f} kB", largest / KB < SIZE)


def _search(page: Page, word: str, count: int, everything: int) -> Searched:
    field = page.get_by_label("Search", exact=True)
    fitting = len(range(int(word[-2:]) - 10, count, RACKS))
    field.focus()
    page.evaluate("(total) => bench.awaited(total)", fitting)
    page.keyboard.type(word, delay=BETWEEN)
    shown = float(page.evaluate("bench.shown"))
    answered, size = page.evaluate("(word) => bench.answer(word)", word)
    page.evaluate("(total) => bench.awaited(total)", everything)
    field.fill("")
    page.evaluate("bench.shown")
    return Searched(shown, float(answered), float(size))
