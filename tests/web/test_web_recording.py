"""The exported page in a real browser: it plays, seeks, searches and copies, in light and dark, without any network."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.recording.recording_samples import header
from tests.web.chromium import Browser, browser, missing

from teleport.recording.export import ExportFormat, export
from teleport.recording.format import Frame, FrameKind

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

OUT = FrameKind.OUTPUT
HOUR = 3_600_000_000
FRAMES = [
    Frame(0, OUT, b"$ make\r\n"),
    Frame(1_000_000, OUT, b"\x1b[1;31mer\x1b[0mror: </script><script>document.title='owned'</script>\r\n"),
    Frame(2_000_000, OUT, "日本 \x1b[38;2;1;2;3mtext\x1b[0m\r\n".encode()),
    Frame(HOUR, OUT, b"\x1b[?1049h\x1b[Hfull screen"),
    Frame(HOUR + 1_000_000, OUT, b"\x1b[?1049l$ done\r\n"),
    Frame(HOUR + 1_000_001, FrameKind.FILE, b'{"action":"write","path":"/tmp/x"}'),
]


def opened(window: Browser, folder: Path) -> None:
    path = folder / "session.html"
    path.write_bytes(b"".join(export(header(node_name="<b>db1</b>"), FRAMES, ExportFormat.HTML)))
    window.go(path.as_uri())
    window.wait("return document.body.dataset.state === 'paused'", "the page")


def clicks(window: Browser, css: str) -> None:
    window.run(f"document.querySelector({css!r}).click()")


def seek(window: Browser, milliseconds: int) -> None:
    window.run(
        f"const s = document.getElementById('seek'); s.value = '{milliseconds}'; s.dispatchEvent(new Event('input'))"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_plays_without_any_network(tmp_path: Path, dark: bool) -> None:
    with browser(tmp_path, dark=dark) as window:
        opened(window, tmp_path)
        assert window.text("h1") == "root@<b>db1</b>", "text, not markup"
        assert window.run("return document.title") == "root@<b>db1</b>"
        assert window.run("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
        assert "$ make" in window.text("#screen")
        assert "error" not in window.text("#screen")

        window.run("document.getElementById('speed').value = '50'")
        window.click("#skip")
        window.click("#play")
        window.wait("return document.body.dataset.state === 'ended'", "the end, an hour later")
        shown = window.text("#screen")
        assert "$ done" in shown
        assert "</script><script>" in shown
        assert "日本 text" in shown
        assert "full screen" not in shown
        assert "60:01" in window.text("#clock") or "1:00:01" in window.text("#clock")

        seek(window, 3_600_500)
        assert window.text("#screen").strip() == "full screen"
        seek(window, 500)
        assert "error" not in window.text("#screen"), "back again"

        window.type("#query", "ERROR: <")
        window.wait("return document.querySelectorAll('#found li').length === 1", "the find")
        assert window.text("#found").startswith("0:01")
        window.click("#found button")
        assert "error" in window.text("#screen")
        window.type("#query", "/tmp/x")
        window.wait("return document.querySelector('#found').textContent.includes('[file] write /tmp/x')", "the file")

        window.click("#copy")
        window.wait("return document.getElementById('note').textContent === 'Copied.'", "the copy")
        window.click("#theme")
        assert window.run("return document.documentElement.dataset.theme") == ("light" if dark else "dark")
        red = "[...document.querySelectorAll('#screen span')].find(s => s.textContent === 'er')"
        colour = f"return getComputedStyle({red}).color"
        assert window.run(colour) != window.run("return getComputedStyle(document.querySelector('#screen')).color")
        window.screenshot(tmp_path / "page.png")

        assert window.run("return performance.getEntriesByType('resource').length") == 0
        assert window.complaints() == []
        refused = "return fetch('http://127.0.0.1:9/').then(() => 'fetched', () => 'refused')"
        assert window.run(refused) == "refused"
        assert "Content Security Policy" in " ".join(window.complaints()), (
            "what asks the network is refused by the page"
        )
