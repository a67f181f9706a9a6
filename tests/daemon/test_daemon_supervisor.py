"""What the daemon tells systemd, received on a real socket."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.daemon.restarts.supervisor import VARIABLE, Supervisor


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.settimeout(5)
        yield receiving


def supervisor(systemd: socket.socket) -> Supervisor:
    return Supervisor.of({VARIABLE: systemd.getsockname()})


def test_ready_is_said_once(systemd: socket.socket) -> None:
    """Later words change the line on how it stands only."""
    told = supervisor(systemd)
    told.status("starting")
    told.ready("waits")
    told.ready("serves")
    told.goes_on(42)
    said = [systemd.recv(4096) for _ in range(4)]
    assert said == [b"STATUS=starting", b"READY=1\nSTATUS=waits", b"STATUS=serves", b"MAINPID=42"]


def test_no_reason_of_a_failure_says_more_than_its_line(systemd: socket.socket) -> None:
    """Errors quote files; what stands in them is no word to systemd."""
    supervisor(systemd).status("failed: a\nMAINPID=1\nb\x00c" + "x" * 9999)
    said = systemd.recv(65_536)
    assert said.startswith(b"STATUS=failed: a MAINPID=1 b c")
    assert b"\n" not in said
    assert len(said) < 500


def test_a_socket_that_is_in_no_directory(tmp_path: Path) -> None:
    name = f"teleport-test-{tmp_path.name}-{tmp_path.parent.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(f"\0{name}")
        receiving.settimeout(5)
        Supervisor(f"@{name}").status("here")
        assert receiving.recv(100) == b"STATUS=here"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_without_a_socket_nothing_is_said(address: str, caplog: pytest.LogCaptureFixture) -> None:
    Supervisor.of({VARIABLE: address} if address else {}).ready("here")
    assert caplog.records == []


def test_a_supervisor_that_does_not_listen_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what could not be said."""
    with caplog.at_level(logging.WARNING):
        Supervisor(str(tmp_path / "nobody")).ready("here")
    assert "cannot be told READY, STATUS" in caplog.text
