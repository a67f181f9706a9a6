"""The log at a receiver: every line that the spool had room for arrives, and the daemon waits for none of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.copies.test_copies_https import Receiver
from tests.copies.test_copies_syslog import Lab, needs_rsyslog

from teleport.copies.copier import Place
from teleport.copies.settings import HttpsCopy, SyslogCopy, TlsFiles
from teleport.daemon import logs
from teleport.daemon.config.values import ShippedLog
from teleport.daemon.log_shipping import shipping as shipping_module
from teleport.daemon.log_shipping.form import Entry, line_of, message
from teleport.daemon.log_shipping.handler import shipper_of
from teleport.daemon.log_shipping.shipping import QUEUE, QUEUE_BYTES, Shipper
from teleport.daemon.log_shipping.spool import LogSpool
from teleport.daemon.monitoring.metrics import Metrics
from teleport.errors import ConnectionProblem
from teleport.resources.values import HostPort
from teleport.testing.loopback import LOOPBACK
from teleport.testing.processes import wait_until

SECRET = "c2VzYW1lIG9wZW4gc2VzYW1lIDEyMw"


def entry(text: str, level: str = "info") -> Entry:
    return Entry(1_619_863_200.5, level, "auth", "service:7", text)


def told(lines: Sequence[bytes]) -> list[str]:
    return [json.loads(line)["message"] for line in lines]


# The form


def test_a_line_says_when_where_and_what_and_no_secret() -> None:
    found = json.loads(line_of(entry(f"token={SECRET} from a\nb"), "web-1", 42))
    assert found == {
        "timestamp": "2021-05-01T10:00:00.500000Z",
        "level": "info",
        "component": "auth",
        "caller": "service:7",
        "host": "web-1",
        "pid": 42,
        "message": "token=(hidden) from a\nb",
    }
    assert b"\n" not in line_of(entry("a\nb\u2028"), "web-1", 42)


def test_a_syslog_message_has_the_form_of_rfc_5424() -> None:
    line = line_of(entry("two\nlines \u202e \u00e9", "error"), "web-1", 42)
    assert message(line, "web 1") == (
        "<27>1 2021-05-01T10:00:00.500000Z web1 teleport 42 auth - two\\nlines \\u202e \u00e9".encode()
    )
    assert message(line_of(entry("", "debug"), "h", 1), "h").startswith(b"<31>1 ")
    assert message(b"torn", "h") == b"<30>1 - h teleport - - - torn"


# The spool


def lines_in(spool: LogSpool) -> list[bytes]:
    found: list[bytes] = []
    while (batch := spool.next()) is not None:
        found += spool.lines(batch)
        assert spool.done(batch)
    return found


def test_lines_wait_in_order_and_their_files_are_closed_to_others(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path / "ship" / "siem", 10_000, batch=100)
    assert spool.open() == 0
    lines = [b"line %03d" % number for number in range(50)]
    assert spool.append(lines[:30]) == 0
    assert spool.append(lines[30:]) == 0
    assert spool.waiting == 450
    modes = {path.stat().st_mode & 0o777 for path in spool.folder.iterdir()}
    assert (modes, spool.folder.stat().st_mode & 0o777) == ({0o600}, 0o700)
    assert lines_in(spool) == lines
    assert spool.waiting == 0
    spool.close()
    assert list(spool.folder.iterdir()) == []


def test_beyond_the_bound_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path, 1000, batch=100)
    spool.open()
    lines = [b"line %03d" % number for number in range(300)]
    gone = spool.append(lines)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.lines")) == spool.waiting <= 1000
    assert spool.waiting > 800
    assert lines_in(spool) == lines[gone:]
    spool.close()


def test_what_a_dead_process_left_is_the_next_ones_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """The dead one was killed in the middle of a line."""
    first = LogSpool(tmp_path, 10_000, batch=20)
    first.open()
    first.append([b"one", b"two", b"twenty letters or more", b"three"])
    living = LogSpool(tmp_path, 10_000)
    living.open()
    living.append([b"mine"])
    assert living.waiting == 5
    newest = max(tmp_path.glob("*.lines"))
    os.close(first._lock)  # as when its process dies
    os.close(first._file)
    with next(path for path in tmp_path.glob("*.lines") if b"three" in path.read_bytes()).open("ab") as file:
        file.write(b"to")
    assert newest.exists()
    second = LogSpool(tmp_path, 10_000)
    second.open()
    assert lines_in(second) == [b"one", b"two", b"twenty letters or more", b"three"]
    assert lines_in(living) == [b"mine"]
    living.append([b"more"])
    assert living.adopt() == 0
    assert lines_in(living) == [b"more"]
    second.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_and_is_too_much_is_counted(tmp_path: Path) -> None:
    first = LogSpool(tmp_path, 10_000, batch=100)
    first.open()
    first.append([b"line %03d" % number for number in range(300)])
    first.close()
    second = LogSpool(tmp_path, 500, batch=100)
    gone = second.open()
    rest = lines_in(second)
    assert rest == [b"line %03d" % number for number in range(gone, 300)]
    assert 400 < 9 * len(rest) <= 500


# Bringing


class Taking:
    """A receiver in memory."""

    doubtful = 0.0

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.problem: Exception | None = None
        self.let = threading.Event()
        self.let.set()
        self.closed = False

    async def write(self, lines: Sequence[bytes]) -> None:
        await asyncio.to_thread(self.let.wait)
        if self.problem is not None:
            raise self.problem
        self.lines += lines

    async def close(self) -> None:
        self.closed = True


@contextmanager
def shipping(place: Place, folder: Path, *, most: int = 1 << 20) -> Iterator[Shipper]:
    shipper = Shipper("siem", lambda: place, LogSpool(folder, most, batch=2000), "web-1", gather=0.01)
    shipper.start()
    try:
        yield shipper
    finally:
        shipper.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr("teleport.copies.copier.MOST_PAUSE", 0.1)


def test_lines_arrive_in_order_and_are_counted(tmp_path: Path) -> None:
    place = Taking()
    texts = [f"line {number}" for number in range(500)]
    with shipping(place, tmp_path) as shipper:
        for text in texts:
            shipper.add(entry(text))
        wait_until("all arrived", lambda: shipper.sent == 500)
        assert (shipper.waiting, shipper.dropped, told(place.lines)) == (0, 0, texts)
    assert place.closed
    assert list(tmp_path.iterdir()) == []


def test_a_receiver_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    """What is logged takes no longer, more than memory holds is dropped and counted, and the end is not held up."""
    place = Taking()
    place.let.clear()
    with shipping(place, tmp_path) as shipper:
        try:
            begun = time.monotonic()
            for number in range(QUEUE):
                shipper.add(entry(f"{number}"))
            assert time.monotonic() - begun < 10.0
        finally:
            place.let.set()


def test_what_memory_has_no_room_for_is_dropped_and_counted(tmp_path: Path) -> None:
    place = Taking()
    shipper = Shipper("siem", lambda: place, LogSpool(tmp_path, 1 << 30), "web-1")
    for number in range(QUEUE + 5):
        shipper.add(entry(f"{number}"))
    shipper.start()
    try:
        wait_until("the others arrive", lambda: shipper.sent == QUEUE, 60)
        assert shipper.dropped == 5
    finally:
        shipper.close()


def test_what_waits_in_memory_is_bounded_in_bytes_for_each_receiver(tmp_path: Path) -> None:
    """Long lines reach it long before there are as many as may wait, wide letters sooner than others."""
    counts = []
    for letter in ("x", "\u2028"):
        shipper = Shipper("siem", Taking, LogSpool(tmp_path, 1 << 30), "web-1")
        for _ in range(1000):
            shipper.add(entry(letter * logs.MAX_MESSAGE))
        held = list(shipper._entries)
        assert sum(sys.getsizeof(one.message) for one in held) <= QUEUE_BYTES
        assert shipper._full == 1000 - len(held) > 0
        counts.append(len(held))
    assert counts[0] > 1.8 * counts[1] > 100


def test_entries_that_come_together_wake_the_thread(tmp_path: Path) -> None:
    """Another entry is made while one is added; the first of both tells the thread."""
    place = Taking()
    with shipping(place, tmp_path) as shipper:
        shipper.add(entry("before"))
        wait_until("the thread rests", lambda: shipper.sent == 1)

        class Meanwhile(deque[Entry]):
            def append(self, one: Entry) -> None:
                super().append(one)
                if len(self) == 1:
                    shipper.add(entry("second"))

        shipper._entries = Meanwhile()
        shipper.add(entry("first"))
        wait_until("both arrive", lambda: shipper.sent == 3)
    assert sorted(told(place.lines)) == ["before", "first", "second"]


async def test_a_line_that_the_receiver_never_takes_keeps_no_others_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped and counted, which is said once; each of the others arrives once."""
    receiver = Receiver(tmp_path)
    receiver.most = 2000
    async with receiver.up():
        settings = HttpsCopy("cloud", f"https://{LOOPBACK}:{receiver.port}/logs", TlsFiles(receiver.ca), receiver.token)
        shipper = shipper_of(ShippedLog(settings, 1 << 20), tmp_path / "ship", "web-1")
        for number in range(60):
            shipper.add(entry(("long words " * 400 if number in (7, 30) else "") + f"line {number}"))
        with caplog.at_level(logging.INFO, "teleport.daemon.log_shipping"):
            shipper.start()
            try:
                await asyncio.to_thread(wait_until, "the others arrive", lambda: shipper.sent == 58, 30)
            finally:
                await asyncio.to_thread(shipper.close)
    assert shipper.dropped == 2
    assert shipper.waiting == 0
    assert told(receiver.lines) == [f"line {number}" for number in range(60) if number not in (7, 30)]
    assert [one.message for one in caplog.records if "is dropped" in one.message] == [
        next(one.message for one in caplog.records if "does not take one line of" in one.message)
    ]


def test_while_it_is_away_lines_wait_and_then_the_oldest_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The beginning of dropping is said once, and its end with the number."""
    place = Taking()
    place.problem = ConnectionProblem("the receiver is away")
    with (
        caplog.at_level(logging.INFO, "teleport.daemon.log_shipping"),
        shipping(place, tmp_path, most=20_000) as shipper,
    ):
        for number in range(1000):
            shipper.add(entry(f"line {number}"))
        wait_until("lines are dropped", lambda: shipper.dropped > 0 and shipper.problem == "the receiver is away")
        assert 0 < shipper.waiting <= 20_000
        place.problem = None
        wait_until("the rest arrives", lambda: shipper.waiting == 0 and not shipper.problem)
        wait_until("it is said", lambda: "were dropped" in caplog.text)
        found = told(place.lines)
        assert found == [f"line {number}" for number in range(1000 - len(found), 1000)]
        assert shipper.sent + shipper.dropped == 1000
    messages = [record.message for record in caplog.records]
    assert len([one for one in messages if "are dropped, the oldest first" in one]) == 1
    assert f"{shipper.dropped} log lines for siem were dropped" in messages
    assert "log lines arrive at siem again" in messages


def test_what_a_process_could_not_bring_the_next_one_brings(tmp_path: Path) -> None:
    place = Taking()
    place.problem = ConnectionProblem("away")
    with shipping(place, tmp_path) as shipper:
        for number in range(10):
            shipper.add(entry(f"line {number}"))
        wait_until("it is kept", lambda: shipper.waiting > 0 and shipper.problem)
        shipper.add(entry("the last"))
    assert place.lines == []
    place.problem = None
    with shipping(place, tmp_path) as shipper:
        wait_until("all arrived", lambda: shipper.sent == 11)
    assert told(place.lines) == [*(f"line {number}" for number in range(10)), "the last"]


def test_a_disk_that_cannot_be_written_is_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ship").write_text("no folder")
    with shipping(Taking(), tmp_path / "ship") as shipper:
        shipper.add(entry("one"))
        wait_until("it is counted", lambda: shipper.dropped == 1)
    assert "are dropped, the oldest first: log lines cannot be kept in" in caplog.text


CHILD = """
import os, sys, time
from pathlib import Path
from teleport.daemon.log_shipping.shipping import Shipper
from teleport.daemon.log_shipping.spool import LogSpool
from teleport.daemon.log_shipping.form import Entry

class Away:
    doubtful = 0.0
    async def write(self, lines):
        raise OSError("away")
    async def close(self):
        pass

shipper = Shipper("siem", Away, LogSpool(Path(sys.argv[1]), 1 << 20), "h", gather=0.01)
shipper.start()
for number in range(20):
    shipper.add(Entry(0.0, "info", "auth", "x:1", f"line {number}"))
while shipper.waiting == 0 or shipper._entries:
    time.sleep(0.01)
print("kept", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_kept_the_next_one_brings(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"kept\n"
        place = Taking()
        with shipping(place, tmp_path) as shipper:
            shipper.add(entry("mine"))
            wait_until("what is its own arrives", lambda: shipper.sent == 1)
        assert told(place.lines) == ["mine"], "that process lives"
        child.kill()
        child.wait()
    with shipping(place, tmp_path) as shipper:
        wait_until("all arrived", lambda: shipper.sent == 20)
    assert told(place.lines)[1:] == [f"line {number}" for number in range(20)]


# Real receivers


@needs_rsyslog
def test_a_real_rsyslog_that_is_killed_and_comes_back_gets_the_log(tmp_path: Path) -> None:
    """By the daemon's own logging, without the secret that somebody logged."""
    lab = Lab(tmp_path)
    cert, key = lab.client
    receiver = SyslogCopy("siem", HostPort(LOOPBACK, lab.server.port), TlsFiles(lab.ca, cert, key))
    logger = logging.getLogger("teleport.auth.trial")
    logger.setLevel(logging.INFO)
    numbers = Metrics()
    root = logging.getLogger()
    before = list(root.handlers)
    logs.ship_to([ShippedLog(receiver, 1 << 20)], tmp_path, "web-1")
    try:
        logs.start_shipping()
        logs.add_metrics(numbers)
        with lab.server:
            logger.warning("first password=%s", SECRET)
            wait_until("the first arrives", lambda: any("first" in one for one in lab.server.messages()))
            lab.server.kill()
            for number in range(50):
                logger.info("while it is away %d\nand more", number)
            lab.server.start()
            wait_until("all arrive", lambda: sum("while it is away" in one for one in lab.server.messages()) >= 50, 60)
            found = lab.server.messages()
        assert SECRET not in str(found)
        assert found[0].startswith("<28>1 20")
        assert f" web-1 teleport {os.getpid()} auth - first password=(hidden)" in found[0]
        away = [one.partition(" auth - ")[2] for one in found if "while it is away" in one]
        assert list(dict.fromkeys(away)) == [f"while it is away {number}\\nand more" for number in range(50)]
        assert 'teleport_log_ship_sent_lines_total{receiver="siem"}' in numbers.text()
        assert 'teleport_log_ship_dropped_lines_total{receiver="siem"} 0' in numbers.text()
    finally:
        logs.finish_shipping()
        root.handlers[:] = before


async def test_a_real_https_receiver_gets_batches_and_is_tried_again(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    async with receiver.up():
        settings = HttpsCopy("cloud", f"https://{LOOPBACK}:{receiver.port}/logs", TlsFiles(receiver.ca), receiver.token)
        shipper = shipper_of(ShippedLog(settings, 1 << 20), tmp_path / "ship", "web-1")
        shipper.start()
        try:
            shipper.add(entry("up"))
            await asyncio.to_thread(wait_until, "the first arrives", lambda: shipper.sent == 1, 30)
        finally:
            await asyncio.to_thread(shipper.close)
    next_one = shipper_of(ShippedLog(replace(settings), 1 << 20), tmp_path / "ship", "web-1")
    next_one.start()
    try:
        for number in range(5):
            next_one.add(entry(f"away {number}"))
        await asyncio.to_thread(wait_until, "it is noticed", lambda: "did not take log lines" in next_one.problem, 30)
        async with receiver.up():
            await asyncio.to_thread(wait_until, "the rest arrives", lambda: next_one.sent == 5, 30)
    finally:
        await asyncio.to_thread(next_one.close)
    assert told(receiver.lines) == ["up", *(f"away {number}" for number in range(5))]
    assert receiver.requests[0]["Authorization"] == "Bearer sesame"
