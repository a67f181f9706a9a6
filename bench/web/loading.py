"""The first load of the client: what it carries and when it can be used."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page

from bench.programs import BenchmarkFailed
from bench.report import Report
from bench.web.browser import window
from bench.web.figures import KB, seconds

SIZE, TIME = 300.0, 1.0  # kB, seconds
TERMINAL = ("/xterm", "/terminal")  # how the names of its files begin, below /web/app

SIGN_IN = """globalThis.usable = bench.reached(() => {
  const field = document.querySelector('input[autocomplete~="username"], main input');
  return field !== null && !field.disabled && field.getClientRects().length > 0;
});"""
NODES = """globalThis.usable = bench.reached(() => {
  const field = document.querySelector('main input[type="search"]');
  return document.querySelector("main tbody tr") !== null && field !== null && !field.disabled;
});"""


@dataclass(frozen=True, slots=True)
class Load:
    """One first load: bytes by path, and seconds until it could be used."""

    carried: dict[str, int]
    seconds: float

    @property
    def bytes(self) -> int:
        return sum(self.carried.values())


def rows(browser: Browser, origin: str, state: Any, runs: int, report: Report) -> None:
    """Both kinds of first load, in turns; one of each goes before and is not counted."""
    kinds = {"signed out": (SIGN_IN, None), "signed in": (NODES, state)}
    found: dict[str, list[Load]] = {name: [] for name in kinds}
    for turn in range(-1, runs):
        for name, (usable, whose) in kinds.items():
            load = _load(browser, origin, whose, usable)
            if turn >= 0:
                found[name].append(load)
    for name, loads in found.items():
        carried = max(load.bytes for load in loads)
        report.row(
            f"first load, {name}: carried, of {len(loads[0].carried)} requests",
            f"{carried / KB:.1f} kB",
            f"< {SIZE:.0f} kB",
            carried / KB < SIZE,
        )
        times = [load.seconds for load in loads]
        median = statistics.median(times)
        report.row(f"first load, {name}: usable (p50 of {runs})", seconds(times), f"< {TIME:.0f} s", median < TIME)


def _load(browser: Browser, origin: str, state: Any, usable: str) -> Load:
    with window(browser, origin, state, usable) as page:
        carried = watched(page)
        page.goto("/web", wait_until="commit")
        at = float(page.evaluate("usable"))
        page.wait_for_load_state("networkidle")
        _takes_text(page)
        strange = [path for path in carried if path.removeprefix("/web/app").startswith(TERMINAL)]
        if strange:
            raise BenchmarkFailed(f"the terminal came with the first load: {', '.join(strange)}")
        return Load(dict(carried), at / 1000)


def watched(page: Page) -> dict[str, int]:
    """Fills with what the network carries for the page: bytes with their headers, by path."""
    carried: dict[str, int] = {}
    names: dict[str, str] = {}
    devtools = page.context.new_cdp_session(page)

    def sent(event: dict[str, Any]) -> None:
        names[event["requestId"]] = "/" + event["request"]["url"].split("/", 3)[-1].partition("?")[0]

    def finished(event: dict[str, Any]) -> None:
        path = names[event["requestId"]]
        carried[path] = carried.get(path, 0) + int(event["encodedDataLength"])

    devtools.on("Network.requestWillBeSent", sent)
    devtools.on("Network.loadingFinished", finished)
    devtools.send("Network.enable")
    return carried


def _takes_text(page: Page) -> None:
    fields: Sequence[Any] = page.locator("main input").all()
    fields[0].focus()
    page.keyboard.type("x")
    if fields[0].input_value() != "x":
        raise BenchmarkFailed("the first field of the page takes no text")
