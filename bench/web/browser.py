"""Chromium, windows of it, and scripts in its pages that see when something was painted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

from bench.programs import BenchmarkFailed

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
SIZE: ViewportSize = {"width": 1200, "height": 800}
PATIENCE = 60_000  # milliseconds

# Runs before the scripts of a page. `later(act)`: after the frame that is being made now was painted; `framed(act)`:
# after the next one. `reached(seen)`: the milliseconds since the navigation began, once what `seen` looks for was
# painted.
TOOLS = """
globalThis.bench = {
  later(act) {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => act(performance.now());
    port2.postMessage(0);
  },
  framed(act) {
    requestAnimationFrame(() => bench.later(act));
  },
  reached(seen) {
    return new Promise((resolve) => {
      const watch = new MutationObserver(look);
      function look() {
        if (!seen()) return;
        watch.disconnect();
        bench.framed(resolve);
      }
      watch.observe(document, { childList: true, subtree: true, characterData: true, attributes: true });
      look();
    });
  },
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine."""
    program = shutil.which("chromium")
    if program is None:
        raise BenchmarkFailed("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def window(browser: Browser, origin: str, state: Any = None, *scripts: str) -> Iterator[Page]:
    """An empty one, with a cache of its own; `scripts` run in each page before its own ones."""
    context: BrowserContext = browser.new_context(
        base_url=origin, ignore_https_errors=True, storage_state=state, viewport=SIZE, locale="en-GB", timezone_id="UTC"
    )
    try:
        context.set_default_timeout(PATIENCE)
        for script in (TOOLS, *scripts):
            context.add_init_script(script)
        yield context.new_page()
    finally:
        context.close()
