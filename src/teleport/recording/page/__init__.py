"""A recording as one HTML file that plays it: no network, nothing to install, nothing of the session's but text.

The screens are made here, by the model of `recording.screen`; the page's script only shows rows of text in colours. The
policy in the page lets one script and one style sheet run, named by their hashes, and nothing be fetched. Data stands
in a block that is no script, as ASCII JSON without `<`, `>` and `&`, so no text of a session ends it (threat T44).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Final

from teleport.recording.format import BrokenRecording, Frame, FrameKind, RecordingHeader
from teleport.recording.sanitise import one_line
from teleport.recording.screen.lines import LineReader, Shown
from teleport.recording.screen.model import Screen
from teleport.recording.screen.paint import runs
from teleport.recording.screen.row import PLAIN, RGB, Row, colours, flags

STEP: Final = 33_000  # microseconds between two screens
MAX_DATA: Final = 128 * 1024 * 1024  # bytes of a page
WITHOUT_TERMINAL: Final = (120, 40)
TOO_LONG: Final = (
    "The session goes on: it is too long for one page. tctl recordings export --format=cast has all of it."
)
BROKEN: Final = "The recording is broken after this point."

_BODY = """\
<main>
<h1>{title}</h1>
<dl id="facts"></dl>
<p id="problem" role="alert" hidden></p>
<div id="frame" tabindex="0" aria-label="the recorded screen"><pre id="screen"></pre></div>
<div class="bar">
<button id="play" type="button">Play</button>
<input id="seek" type="range" min="0" max="0" step="1" value="0" aria-label="time">
<span id="clock"></span>
<label>Speed <select id="speed"><option value="0.5">0.5</option><option value="1" selected>1</option>
<option value="2">2</option><option value="5">5</option><option value="10">10</option><option value="50">50</option>
</select></label>
<label><input id="skip" type="checkbox"> Skip pauses</label>
</div>
<form class="bar" id="search">
<input id="query" type="search" placeholder="Search what was shown" aria-label="search" autocomplete="off">
<button id="previous" type="button">Previous</button>
<button id="next" type="button">Next</button>
<button id="copy" type="button">Copy screen</button>
<button id="copy-all" type="button">Copy all text</button>
<button id="theme" type="button">Light or dark</button>
</form>
<p id="note" role="status"></p>
<ol id="found"></ol>
</main>
"""


def export_html(header: RecordingHeader, frames: Iterable[Frame]) -> Iterator[bytes]:
    """The page, in pieces. Of a broken recording it has what is before the break, and then the error is raised."""
    script, style = _asset("player.js"), _asset("player.css")
    title = html.escape(one_line(f"{header.login}@{header.node_name or header.node_id}"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n'
        f"<body>\n{_BODY.format(title=title)}"
        '<script type="application/json" id="data">'
    ).encode()
    pages = _Steps(header)
    error: BrokenRecording | None = None
    begun = {"facts": _facts(header), "size": pages.size, "order": pages.order}
    yield f'{_json(begun)[:-1]},"steps":['.encode()
    size, between = 0, ""
    source = pages.read(frames)
    while True:
        try:
            step = next(source)
        except StopIteration:
            break
        except BrokenRecording as broken:
            error, pages.problem = broken, BROKEN
            break
        piece = f"{between}{_json(step)}".encode()
        size, between = size + len(piece), ",\n"
        yield piece
        if size + pages.text_size > MAX_DATA:
            pages.problem = TOO_LONG
            break
    yield (
        f'],"lines":{_json(pages.lines)},"styles":{_json(pages.styles)},"end":{pages.end},'
        f'"problem":{_json(pages.problem)}}}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    ).encode()
    if error is not None:
        raise error


class _Steps:
    """What the page is told: rows that changed, by number, and in which order they stand."""

    def __init__(self, header: RecordingHeader) -> None:
        self._reader = LineReader(header, once=True, size=None if header.interactive else WITHOUT_TERMINAL)
        self.size = [self._screen.columns, self._screen.rows]
        self.order = [row.number for row in self._screen.lines]
        self.lines: list[tuple[int, str, str]] = []
        self.styles: list[list[object]] = [[0, 0, 0]]
        self._known = {PLAIN: 0}
        self.end = 0  # milliseconds
        self.problem = ""
        self.text_size = 0
        self._order, self._size = self.order, self.size

    @property
    def _screen(self) -> Screen:
        return self._reader.screen

    def read(self, frames: Iterable[Frame]) -> Iterator[list[object]]:
        """The screens, no more than thirty for a second."""
        begun: int | None = None
        last = 0
        for frame in frames:
            if begun is not None and frame.time - begun >= STEP:
                yield self._step(last)
                begun = None
            self._take(self._reader.take(frame))
            if frame.kind in (FrameKind.OUTPUT, FrameKind.STDERR, FrameKind.RESIZE):
                begun = frame.time if begun is None else begun
                last = frame.time
            if self.text_size > MAX_DATA:
                self.problem = TOO_LONG
                break
            self.end = -(-frame.time // 1000)
        self._take(self._reader.finish())
        if begun is not None:
            yield self._step(last)

    def _take(self, found: Iterable[Shown]) -> None:
        for line in found:
            self.lines.append((line.time // 1000, line.kind, line.text))
            self.text_size += len(line.text) + 30

    def _step(self, time: int) -> list[object]:
        screen = self._screen
        changed: list[list[object]] = []
        for row in screen.lines:
            if row.changed:
                row.changed = False
                changed.append([row.number, self._runs(row), int(row.wrapped)])
        x = min(screen.x, screen.columns - 1)
        step: list[object] = [-(-time // 1000), x, screen.y, int(screen.visible), changed]
        order, size = [row.number for row in screen.lines], [screen.columns, screen.rows]
        if order != self._order or size != self._size:
            step.append(order)
        if size != self._size:
            step.append(size)
        self._order, self._size = order, size
        return step

    def _runs(self, row: Row) -> object:
        found = runs(row)
        if not found:
            return ""
        if len(found) == 1 and found[0][1] == PLAIN:
            return found[0][0]
        return [[text, self._style(style)] for text, style in found]

    def _style(self, style: int) -> int:
        index = self._known.get(style)
        if index is None:
            foreground, background = colours(style)
            index = self._known[style] = len(self.styles)
            self.styles.append([_colour(foreground), _colour(background), flags(style)])
        return index


def _colour(colour: int) -> object:
    return f"#{colour & 0xFFFFFF:06x}" if colour & RGB else colour


def _facts(header: RecordingHeader) -> list[tuple[str, str]]:
    found = [
        ("Session", header.sid),
        ("Started", f"{header.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("User", header.user),
        ("Login", header.login),
        ("Host", header.node_name or header.node_id),
        ("Cluster", header.cluster),
        ("Command", header.command),
        ("From", header.client),
    ]
    return [(name, one_line(value, 1000)) for name, value in found if value]


def _json(value: object) -> str:
    """ASCII JSON that no HTML parser sees an end, a tag or an entity in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
