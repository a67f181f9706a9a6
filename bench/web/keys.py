"""From a key in the terminal to the painted character, ours beside wetty."""

from __future__ import annotations

import random
import statistics
from contextlib import ExitStack
from typing import Any, NamedTuple

from playwright.sync_api import Browser, CDPSession, Page

from bench.report import Report
from bench.web.browser import window
from bench.web.figures import milliseconds, p95

FRAME = 16.0  # milliseconds that ours may take longer
ROUND = 20  # keys of one side before it is the other's turn
PAUSE = (30, 110)  # milliseconds between keys: no step with the frames
KNOWN = 12  # characters at the end of the screen that tell it from all former ones
LETTERS = "abcdefghijklmnopqrstuvwxyz"

# Both draw text into the document: where there is no graphics processor, drawing by WebGL is slower than that.
NO_WEBGL = """
const usual = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === "webgl2" || kind === "webgl" ? null : usual.call(this, kind, ...more);
};
"""
# `hops`: when since the last key something was sent, came, and was drawn.
HOPS = """
globalThis.hops = {};
const sends = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  hops.sent ??= performance.now();
  return sends.call(this, data);
};
globalThis.WebSocket = class extends WebSocket {
  constructor(...how) {
    super(...how);
    this.addEventListener("message", () => {
      if (hops.sent) hops.came ??= performance.now();
    });
  }
};
"""
# `expect(end)`: `bench.echo` becomes the milliseconds from the event of the next key, one after another: until it was
# sent, until something came, until a screen was drawn whose text, row after row, ends so, until that was painted.
WATCH = """() => {
  const rows = document.querySelector(".xterm-rows");
  const text = () => rows.textContent.replaceAll("\\u00a0", " ").trimEnd();
  let wanted = null;
  addEventListener("keydown", (event) => { hops = { pressed: event.timeStamp }; }, true);
  new MutationObserver(() => {
    if (wanted === null || !text().endsWith(wanted.end)) return;
    const { told } = wanted;
    const { pressed, sent, came } = hops;
    const drawn = performance.now();
    wanted = null;
    bench.later((at) => told([sent - pressed, came - sent, drawn - came, at - drawn]));
  }).observe(rows, { childList: true, subtree: true, characterData: true });
  bench.expect = (end) => {
    bench.echo = new Promise((told) => { wanted = { end, told }; });
  };
}"""


class Echo(NamedTuple):
    """Milliseconds of one key: in the page, to the host and back, until a frame, in the frame."""

    sent: float
    answered: float
    drawn: float
    painted: float


class Terminal:
    """A terminal in which `cat` runs: what is typed is echoed by the host."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._devtools: CDPSession = page.context.new_cdp_session(page)
        self._numbers = random.Random(1)
        self._typed = "begun"
        self.found: list[Echo] = []

    def begin(self) -> None:
        """From a shell to `cat`."""
        self._shows("")
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.keyboard.type("stty sane; PS1=; clear; echo be''gun; exec cat > /dev/null\n")
        self._shows("begun")
        self.page.evaluate(WATCH)

    def _shows(self, end: str) -> None:
        """Waits until the screen, which is not empty, ends so."""
        self.page.wait_for_function(
            """(end) => {
                const shown = (document.querySelector(".xterm-rows")?.textContent ?? "").trim();
                return shown !== "" && shown.endsWith(end);
            }""",
            arg=end,
        )

    def round(self, *, counted: bool) -> None:
        """A line of keys, one after another, and its end."""
        self.page.bring_to_front()
        for _ in range(ROUND):
            letter = self._numbers.choice(LETTERS)
            self._typed = (self._typed + letter)[-KNOWN:]
            self.page.evaluate("(end) => bench.expect(end)", self._typed)
            self.page.wait_for_timeout(self._numbers.uniform(*PAUSE))
            self._key("keyDown", letter)
            took = Echo(*self.page.evaluate("bench.echo"))
            self._key("keyUp", letter)
            if counted:
                self.found.append(took)
        self.page.keyboard.press("Enter")

    def _key(self, kind: str, letter: str) -> None:
        pressed: dict[str, Any] = {
            "type": kind,
            "key": letter,
            "code": f"Key{letter.upper()}",
            "windowsVirtualKeyCode": ord(letter.upper()),
        }
        self._devtools.send("Input.dispatchKeyEvent", {**pressed, "text": letter} if kind == "keyDown" else pressed)


def rows(browser: Browser, ours: tuple[str, str, Any], theirs: str, keys: int, report: Report) -> None:
    """`ours`: origin, path of a terminal, and whose window; `theirs`: the address of the reference."""
    origin, path, state = ours
    with ExitStack() as stack:
        sides = []
        for at, where, whose in ((origin, path, state), (theirs, "/", None)):
            page = stack.enter_context(window(browser, at, whose, NO_WEBGL, HOPS))
            page.goto(where)
            sides.append(Terminal(page))
            sides[-1].begin()
        for turn in range(-1, -(-keys // ROUND)):
            for side in sides:
                side.round(counted=turn >= 0)
    one, other = ([sum(echo) for echo in side.found] for side in sides)
    more = statistics.median(one) - statistics.median(other)
    later = p95(one) - p95(other)
    for name, side, took in (("ours", sides[0], one), ("wetty", sides[1], other)):
        report.row(f"key to paint, {name} ({len(took)} keys)", milliseconds(took))
        report.row(f"key to paint, {name}: where p50 goes", _hops(side.found))
    report.row("key to paint, p50: ours above wetty's", f"{more:+.1f} ms", f"<= {FRAME:.0f} ms", more <= FRAME)
    report.row("key to paint, p95: ours above wetty's", f"{later:+.1f} ms")


def _hops(found: list[Echo]) -> str:
    sent, answered, drawn, painted = (statistics.median(hop) for hop in zip(*found, strict=True))
    return f"sent {sent:.1f}, answered +{answered:.1f}, drawn +{drawn:.1f}, painted +{painted:.1f} ms"
