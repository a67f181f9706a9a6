"""The page that plays a recording: right at every step, and nothing of a session leaves its data (T42, T44, T45)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import header, recording

from teleport.recording import page
from teleport.recording.export import ExportFormat, export
from teleport.recording.format import BrokenRecording, Frame, FrameKind, RecordingHeader, encode_size
from teleport.recording.page import export_html
from teleport.recording.sanitise import TerminalSanitiser
from teleport.recording.screen import Screen

OUT = FrameKind.OUTPUT
HOSTILE = "</script><script>alert(1)</script><!--<script>&lt;\u2028\u202e\"'\\u003c]]>"


class Found(HTMLParser):
    """What a browser makes of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts.setdefault(self.tags[-1][0], []).append(data)


def html_of(frames: list[Frame], of: RecordingHeader | None = None) -> str:
    return b"".join(export(of or header(), frames, ExportFormat.HTML)).decode()


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Viewer:
    """Does with the data what the page's script does."""

    def __init__(self, data: Any) -> None:
        self._steps = data["steps"]
        self._rows: dict[int, Any] = {}
        self._order, self._size = data["order"], data["size"]

    def at(self, count: int) -> list[str]:
        self._rows.clear()
        order, size = self._order, self._size
        for step in self._steps[:count]:
            for number, runs, _ in step[4]:
                self._rows[number] = runs
            order = step[5] if len(step) > 5 else order
            size = step[6] if len(step) > 6 else size
        rows = [self._rows.get(number, "") for number in order[: size[1]]]
        return ["".join(text for text, _ in row).rstrip() if isinstance(row, list) else row for row in rows]


PIECES = st.sampled_from(
    [b"word ", b"\r\n", b"\x1b[31mred\x1b[0m", b"\x1b[H", b"\x1b[2J", b"\x1b[?1049h", b"\x1b[?1049l",
     b"\x1b[3;5H\x1b[1L", b"\x1b[2;4r", b"\xe6\x97\xa5\xe6\x9c\xac", b"x" * 100, b"\x1bM", b"\x1b[44m\x1b[K",
     b"</script>"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 50_000), st.one_of(PIECES, st.tuples(st.integers(1, 90), st.integers(1, 30)))),
        max_size=30,
    )
)
def test_every_step_is_what_the_screen_was(parts: list[tuple[int, Any]]) -> None:
    """With a step for each frame, and with the usual ones, which end with the same screen."""
    frames, time = [], 0
    for delay, what in parts:
        time += delay
        kind, payload = (OUT, what) if isinstance(what, bytes) else (FrameKind.RESIZE, encode_size(*what))
        frames.append(Frame(time, kind, payload))
    usual = data_of(html_of(frames))
    before, page.STEP = page.STEP, 0  # type: ignore[misc]  # for a moment
    try:
        each = data_of(html_of(frames))
    finally:
        page.STEP = before  # type: ignore[misc]
    viewer = Viewer(each)
    screen, cleaner = Screen(80, 24), TerminalSanitiser()
    assert len(each["steps"]) == len(frames)
    for count, frame in enumerate(frames, 1):
        if frame.kind is OUT:
            screen.feed(cleaner.feed_text(frame.payload))
        else:
            screen.resize(frame.payload[0], frame.payload[1])
        assert viewer.at(count) == screen.text()
    assert Viewer(usual).at(len(usual["steps"])) == screen.text()
    times = [step[0] for step in usual["steps"]]
    assert times == sorted(times)
    assert usual["end"] >= (times[-1] if times else 0)


def test_what_a_session_says_stays_inside_the_data() -> None:
    """Names, commands, output, files: none of it is markup, and the only scripts are the page's own."""
    hostile = header(
        user=HOSTILE, login=HOSTILE, node_name=HOSTILE, command=HOSTILE, client=HOSTILE, cluster=HOSTILE,
        terminal=HOSTILE,
    )  # fmt: skip
    detail = json.dumps({"action": HOSTILE, "path": HOSTILE}).encode()
    text = html_of(
        [Frame(0, OUT, HOSTILE.encode()), Frame(1, FrameKind.FILE, detail), Frame(2, FrameKind.NOTE, HOSTILE.encode())],
        hostile,
    )
    found = Found()
    found.feed(text)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "alert(1)" not in "".join(found.texts["script"][1:])
    assert text.isascii() or "\u202e" not in text
    data = data_of(text)
    assert any("alert(1)" in line[2] for line in data["lines"])
    assert not any("\u202e" in line[2] for line in data["lines"])


def test_the_policy_lets_its_own_script_and_style_run_and_nothing_else() -> None:
    text = html_of([Frame(0, OUT, b"x")])
    found = Found()
    found.feed(text)
    (policy,) = [attributes["content"] for tag, attributes in found.tags if attributes.get("http-equiv")]
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    style = text.partition("<style>")[2].partition("</style>")[0]

    def digest(part: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"

    assert policy == (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>"), "it holds before anything runs"
    for attributes in (attributes for _, attributes in found.tags):
        assert not {"src", "href", "style", "srcset", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    for word in ("http://", "https://", "innerHTML", "eval(", "import(", "fetch(", "XMLHttpRequest", "document.write"):
        assert word not in script + style, word


def test_bulk_output_is_no_more_than_thirty_screens_a_second_and_its_lines_are_all_found() -> None:
    frames = [Frame(number * 100, OUT, b"line %d\r\n" % number) for number in range(10_000)]
    data = data_of(html_of(frames))
    assert 25 <= len(data["steps"]) <= 31
    assert len(data["lines"]) == 10_000
    assert data["lines"][5000] == [500, "screen", "line 5000"]


def test_what_is_no_output_is_a_line_of_its_own_and_typed_text_is_not_there() -> None:
    text = html_of(
        [Frame(0, FrameKind.EXEC, b'{"command":"ls"}'), Frame(1, FrameKind.INPUT, b"hunter2"), Frame(2, OUT, b"out\n")],
        header(interactive=False, width=0, height=0),
    )
    assert data_of(text)["lines"] == [[0, "exec", "ls"], [0, "screen", "out"]]
    assert "hunter2" not in text
    assert base64.b64encode(b"hunter2").decode() not in text


def test_a_page_that_grows_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_DATA", 5000)
    frames = [Frame(number * 100_000, OUT, b"line %d\r\n" % number) for number in range(1000)]
    text = html_of(frames)
    assert data_of(text)["problem"].startswith("The session goes on")
    assert len(text) < 60_000


def test_a_broken_recording_gives_a_whole_page_and_then_the_error() -> None:
    def frames() -> Any:
        yield Frame(0, OUT, b"before")
        raise BrokenRecording(_place(), "x")

    pieces: list[bytes] = []
    with pytest.raises(BrokenRecording):
        pieces.extend(export_html(header(), frames()))
    text = b"".join(pieces).decode()
    assert text.endswith("</html>\n")
    assert data_of(text)["problem"]


def _place() -> Any:
    from teleport.recording.format import BrokenPlace

    return BrokenPlace(1, 2, "torn")


def test_a_recording_without_anything_is_a_page() -> None:
    assert recording([]) is not None
    data = data_of(html_of([]))
    assert (data["steps"], data["lines"], data["end"]) == ([], [], 0)
