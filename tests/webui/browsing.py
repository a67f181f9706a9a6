"""A real Chromium for the pages, and what is watched in each window: errors, other origins, accessibility."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from teleport.testing.cluster import PASSWORD, Cluster, Person

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "webui/node_modules/axe-core/axe.min.js"
SCREENSHOTS = ROOT / "docs/screenshots"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
SIZE: ViewportSize = {"width": 1200, "height": 800}
ANSWER = 45_000  # milliseconds, beside other lists of tests
Scheme = Literal["light", "dark"]


def missing() -> str:
    """Why there can be no browser here; empty when there can."""
    if shutil.which("chromium") is None:
        return "chromium is not installed (apt-get install chromium)"
    if not AXE.is_file():
        return "the pages are not built (scripts/webui.sh build)"
    return ""


class Chromium:
    """A browser, which runs between the tests that use it as well.

    Playwright's event loop stays marked as the thread's running one, and `asyncio.run` would be refused to all other
    tests of this process: the mark is there only inside of `used`.
    """

    def __init__(self, playwright: Playwright) -> None:
        self._loop = asyncio._get_running_loop()
        self.browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS])

    @contextmanager
    def used(self) -> Iterator[Browser]:
        asyncio._set_running_loop(self._loop)
        try:
            yield self.browser
        finally:
            asyncio._set_running_loop(None)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """One browser; its windows are contexts of their own."""
    expect.set_options(timeout=ANSWER)
    with sync_playwright() as playwright:
        found = Chromium(playwright)
        asyncio._set_running_loop(None)
        try:
            yield found
        finally:
            asyncio._set_running_loop(found._loop)
            found.browser.close()
    asyncio._set_running_loop(None)


class Watched:
    """What went wrong in the windows of one test."""

    def __init__(self, origin: str) -> None:
        self._origin = urlsplit(origin)
        self._wrong: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    def expect(self, pattern: str) -> None:
        """Errors on the console that fit are part of the test: a refused request is one."""
        self._expected.append(re.compile(pattern))

    def watch(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", lambda error: self._wrong.append(f"an exception in the page: {error.error}"))
        context.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._wrong.append(f"{message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.netloc != self._origin.netloc:
            self._wrong.append(f"a request to another origin: {request.url}")

    def check(self) -> None:
        left = [one for one in self._wrong if not any(known.search(one) for known in self._expected)]
        assert not left, "\n".join(left)


class Opening:
    """Opens windows on the pages of an origin."""

    def __init__(self, browser: Browser, origin: str, watched: Watched) -> None:
        self._browser = browser
        self.origin = origin
        self.watched = watched
        self._contexts: list[BrowserContext] = []

    def open(self, path: str = "/web", *, state: Any = None, scheme: Scheme = "light", **options: Any) -> Page:
        """A window of its own, of nobody unless `state` says whose."""
        context = self._browser.new_context(
            base_url=self.origin,
            ignore_https_errors=True,
            storage_state=state,
            color_scheme=scheme,
            viewport=SIZE,
            locale="en-GB",
            timezone_id="UTC",
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(ANSWER)
        self._contexts.append(context)
        self.watched.watch(context)
        page = context.new_page()
        page.goto(path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@contextmanager
def looking(chromium: Chromium, origin: str) -> Iterator[Opening]:
    """Windows on the pages of that origin, watched until the block ends."""
    with chromium.used() as used:
        opening = Opening(used, origin, Watched(origin))
        try:
            yield opening
            opening.watched.check()
        finally:
            opening.close()


class Windows(Opening):
    """Opens windows on a cluster's pages; those of one person share a login."""

    def __init__(self, browser: Browser, cluster: Cluster, logins: dict[str, Any], watched: Watched) -> None:
        super().__init__(browser, f"https://{cluster.web_address}", watched)
        self.cluster = cluster
        self._logins = logins

    def of(self, person: Person, path: str = "/web", *, scheme: Scheme = "light", **options: Any) -> Page:
        """A window of somebody who is signed in. They sign in once for all tests: who signs out opens a window of
        nobody and signs in there."""
        if person.name not in self._logins:
            page = self.open()
            sign_in(page, person)
            expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
            self._logins[person.name] = page.context.storage_state()
        return self.open(path, state=self._logins[person.name], scheme=scheme, **options)


def sign_in(page: Page, person: Person) -> None:
    """On the sign-in page."""
    page.get_by_label("User name").fill(person.name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Code of your authenticator app").fill(person.code())
    page.get_by_role("button", name="Sign in", exact=True).click()


@functools.cache
def _axe() -> str:
    return AXE.read_text()


def axe(page: Page, *, without: Sequence[str] = ()) -> None:
    """Holds the page as it is to the rules of WCAG 2.1 A and AA that a program can check; `without`: CSS of parts that
    are not ours."""
    page.evaluate(_axe())
    found = page.evaluate(
        "([tags, without]) => axe.run({exclude: without}, {runOnly: {type: 'tag', values: tags}})",
        [TAGS, list(without)],
    )
    wrong = [
        f"{rule['id']}: {rule['help']}: {node['html'][:200]}: {node.get('failureSummary', '')}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
    assert not wrong, "\n".join(wrong)


def axe_in_both(page: Page) -> None:
    """In light and in dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        axe(page)
    page.emulate_media(color_scheme="light")


def focus_order(page: Page, stops: int) -> list[str]:
    """What a person reaches with the Tab key, from the top of the page: names as screen readers say them."""
    page.evaluate("document.activeElement?.blur?.(); window.getSelection()?.removeAllRanges()")
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    named = """() => {
        const e = document.activeElement;
        if (!e || e === document.body) return '(none)';
        const label = e.labels?.[0]?.textContent;
        return (e.getAttribute('aria-label') || label || e.textContent || e.tagName).trim().replace(/\\s+/g, ' ');
    }"""
    found = []
    for _ in range(stops):
        page.keyboard.press("Tab")
        found.append(str(page.evaluate(named)))
    return found


def screenshot(page: Page, name: str) -> None:
    """Keeps a picture of the page in docs/screenshots when asked for (`make screenshots`); small enough to be kept."""
    if not os.environ.get("TELEPORT_SCREENSHOTS"):
        return
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size < 150_000, f"{path.name} is too large to be kept"
