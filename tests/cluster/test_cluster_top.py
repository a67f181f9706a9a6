"""`tctl top` at a real daemon and on a pseudo-terminal: pages, sizes, what ends it, and what is printed elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from teleport.testing.cluster import BIN, LOOPBACK, Cluster, Ran, at, free_port, plain_environment, run
from teleport.testing.terminal import Terminal

ENTER, LEAVE = rb"\x1b[?1049h", rb"\x1b[?1049l"
RESTORED = r"\x1b\[\?7h\x1b\[\?25h\x1b\[\?1049l"


def top(home: Path, *arguments: str) -> Ran:
    return run(BIN / "tctl", "top", *arguments, environment=plain_environment(home), seconds=30.0)


@contextlib.contextmanager
def screen(cluster: Cluster, home: Path, *arguments: str, columns: int = 110, rows: int = 40) -> Iterator[Terminal]:
    words = [str(BIN / "tctl"), "top", f"http://{at(cluster.diag_port, LOOPBACK)}", *arguments]
    with Terminal(words, plain_environment(home) | {"TERM": "xterm"}, home, columns=columns, rows=rows) as terminal:
        terminal.expect(r"\x1b\[\?1049h")
        yield terminal


def drawn(shown: bytes) -> list[str]:
    """The lines of the last whole drawing."""
    frames = re.findall(rb"\x1b\[H([^\x1b].*?)\x1b\[J", shown, re.DOTALL)
    return [line.rstrip("\r").removesuffix("\x1b[K") for line in frames[-1].decode().split("\r\n")]


def test_pages_are_turned_and_q_puts_the_terminal_back(cluster: Cluster, tmp_path: Path) -> None:
    with screen(cluster, tmp_path, "--refresh=200ms") as terminal:
        terminal.expect(r"<1> Common.*State +ok.*Memory.*MiB")
        terminal.expect(r"Processor +[0-9.]+ %")  # there are two samples
        terminal.type("2")
        terminal.expect(r"<2> Backend.*batch write +[0-9,]+ .* ms")
        terminal.type("\t")
        terminal.expect(r"<3> Cache.*proxy cache")
        terminal.type("\x1b[C")
        terminal.expect(r"<4> Sessions.*sessions with a terminal here")
        terminal.type("\x1b[D\x1b[D")
        terminal.expect(r"<2> Backend")
        terminal.type("5")
        terminal.expect(r"<5> Audit.*events that failed")
        terminal.type("\t")
        terminal.expect(r"<1> Common")
        terminal.type("q")
        terminal.expect(RESTORED)
        assert terminal.ended() == 0
        assert terminal.echoes(), "lines are read and echoed again"


@pytest.mark.parametrize(("how", "status"), [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_whatever_ends_it_the_terminal_is_put_back(
    cluster: Cluster, tmp_path: Path, how: str | signal.Signals, status: int
) -> None:
    with screen(cluster, tmp_path) as terminal:
        terminal.expect("<1> Common")
        if isinstance(how, str):
            terminal.type(how)
        else:
            os.kill(terminal.pid, how)
        terminal.expect(RESTORED)
        assert terminal.ended() == status
        assert terminal.echoes()
        assert b"Traceback" not in terminal.shown


def test_another_size_is_drawn_at_once_and_never_wider_or_longer(cluster: Cluster, tmp_path: Path) -> None:
    with screen(cluster, tmp_path, "1h") as terminal:
        terminal.expect("<1> Common")
        terminal.expect(r"q: quit\x1b\[K\x1b\[J")
        for columns, rows in ((50, 12), (20, 6), (120, 50), (3, 2)):
            terminal.resize(columns, rows)
            before = len(terminal.shown)
            terminal.expect(r"\x1b\[J")
            lines = drawn(terminal.shown[before:])
            assert len(lines) == rows
            assert max(map(len, lines)) <= columns
        terminal.resize(70, 10)
        terminal.expect("q: quit")
        terminal.type("jjjj")
        terminal.expect(r"Runs for")
        terminal.type("q")
        assert terminal.ended() == 0


def test_stopped_by_ctrl_z_it_leaves_the_terminal_as_it_was_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    with screen(cluster, tmp_path, "1h") as terminal:
        terminal.expect("q: quit")
        terminal.type("\x1a")
        terminal.expect(r"\x1b\[\?1049l")
        terminal.wait_stopped()
        assert terminal.echoes()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.expect(r"\x1b\[\?1049h.*q: quit")
        terminal.type("q")
        assert terminal.ended() == 0


def test_elsewhere_all_is_printed_once(cluster: Cluster, tmp_path: Path) -> None:
    address = at(cluster.diag_port, LOOPBACK)
    done = top(tmp_path, address).ok()
    assert [line for line in done.stdout.splitlines() if line.endswith(":")] == [
        "Common:", "Backend:", "Cache:", "Sessions:", "Audit:"
    ]  # fmt: skip
    assert "\x1b" not in done.stdout
    assert re.search(r"^State +ok$", done.stdout, re.MULTILINE)
    found = json.loads(top(tmp_path, f"http://{address}/", "1s", "--format=json").ok().stdout)
    assert found["address"] == address
    assert found["metrics"]["process_state"] == 0
    assert found["metrics"]["teleport_component_state"]["auth"] == 0


@contextlib.contextmanager
def answering(text: bytes) -> Iterator[str]:
    """A server that says this to everybody."""

    class Saying(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Saying) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield at(server.server_port, LOOPBACK)
        finally:
            server.shutdown()
            thread.join()


def test_errors_say_which_setting_is_missing(tmp_path: Path) -> None:
    refused = top(tmp_path, at(free_port(), LOOPBACK))
    assert refused.status == 6
    assert "does not answer" in refused.stderr
    assert "teleport.diag_addr" in refused.stderr
    assert "--diag-addr" in refused.stderr
    with answering(b"<html>hello</html>") as address:
        other = top(tmp_path, address)
    assert (other.status, "no numbers of a teleport daemon" in other.stderr) == (6, True)
    tls = top(tmp_path, "https://127.0.0.1:3000")
    assert (tls.status, "tctl top http://127.0.0.1:3000" in tls.stderr) == (2, True)
    assert top(tmp_path, "a:b:c").status == 2
    assert top(tmp_path, "--refresh=1ms").status == 2


def test_names_in_the_numbers_never_drive_the_terminal(tmp_path: Path) -> None:
    hostile = b'process_state 0\nteleport_connections_open{listener="\x1b]0;title\x07\xc2\x9b2J"} 1\n'
    with answering(hostile) as address:
        done = top(tmp_path, address).ok()
        assert "\\x1b]0;title\\x07\\x9b2J" in done.stdout
        assert not set(done.stdout) & {"\x1b", "\x07", "\x9b"}
        words = [str(BIN / "tctl"), "top", address]
        with Terminal(words, plain_environment(tmp_path), tmp_path, columns=100, rows=40) as terminal:
            terminal.expect(r"\\x1b\]0;title")
            terminal.type("q")
            assert terminal.ended() == 0
            assert b"\x1b]0;" not in terminal.shown


def test_a_daemon_that_goes_away_leaves_its_last_numbers(tmp_path: Path) -> None:
    """As in a restart: the screen stays, and says for how long nobody has answered."""
    with answering(b"process_state 0\nteleport_node_sessions 17\n") as address:
        words = [str(BIN / "tctl"), "top", address, "300ms"]
        terminal = Terminal(words, plain_environment(tmp_path), tmp_path, columns=160, rows=20)
        terminal.expect("<1> Common")
    with terminal:
        terminal.expect(r"NO ANSWER for \d+ s: the daemon does not answer")
        terminal.type("4")
        terminal.expect(r"all sessions here +17")
        terminal.type("q")
        assert terminal.ended() == 0
