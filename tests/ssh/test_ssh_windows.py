"""Receive windows grow where the path asks for it, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from teleport.ssh.packets import DataPath

MIB = 1024 * 1024


class Path:
    """A connection with a known delay and a bound on memory."""

    def __init__(self, delay: float | None, room: int = 100 * MIB) -> None:
        self.delay = delay
        self.room = room

    def grant(self, size: int) -> bool:
        self.room -= size
        return self.room >= 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now


class Receiver(DataPath):
    """A channel's receiving half, without a connection."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._conn: Any = path
        self._loop: Any = clock
        self._init_recv_window = self._recv_window = 2 * MIB
        self._encoding = None
        self._session = None
        self.adjusted: list[int] = []

    @property
    def logger(self) -> Any:
        return self

    def debug2(self, *args: object) -> None:
        """asyncssh logs here."""

    def send_packet(self, pkttype: int, *args: bytes) -> None:
        self.adjusted.append(int.from_bytes(args[0], "big"))


def receive(delay: float | None, seconds_per_mib: float, mib: int, room: int = 100 * MIB) -> Receiver:
    """A peer sends `mib` MiB at a steady pace."""
    clock = Clock()
    receiver = Receiver(Path(delay, room), clock)
    for _ in range(mib * 32):
        receiver._recv_window -= 32768
        clock.now += seconds_per_mib / 32
        receiver._deliver_data(b"\0" * 32768, None)
    return receiver


@pytest.mark.parametrize(
    ("delay", "seconds_per_mib", "window"),
    [
        (0.1, 0.05, 32 * MIB),  # 100 ms away, the window's worth in each delay: the window is the limit
        (0.1, 1.0, 2 * MIB),  # 100 ms away, but the sender is slow
        (0.001, 0.005, 2 * MIB),  # near: large windows make OpenSSH clients stall
        (None, 0.001, 2 * MIB),  # not measured
    ],
    ids=["long and full", "long and slow", "near and fast", "unknown"],
)
def test_a_window_grows_only_when_the_path_fills_it(delay: float | None, seconds_per_mib: float, window: int) -> None:
    """Up to 32 MiB, from 2."""
    seconds = seconds_per_mib
    receiver = receive(delay, seconds, 8)
    if window > 2 * MIB:  # a wider window lets the sender be faster, which lets it grow on
        receiver = receive(delay, seconds / 8, 64)
    assert receiver._init_recv_window == window
    assert sum(receiver.adjusted) == receiver._recv_window - 2 * MIB + (64 if window > 2 * MIB else 8) * MIB


def test_the_memory_of_a_connection_bounds_its_windows() -> None:
    """A connection that has used up its room grows no more."""
    assert receive(0.1, 0.005, 64, room=2 * MIB)._init_recv_window == 4 * MIB


@pytest.mark.parametrize(
    ("delay", "part"),
    [(0.1, 256 * 1024), (0.001, MIB)],
    ids=["long", "near"],
)
def test_over_a_long_path_the_window_is_renewed_in_small_parts(delay: float, part: int) -> None:
    """The sender never stands still for half of a window; near by, fewer messages are worth more."""
    receiver = receive(delay, 1.0, 8)
    assert receiver.adjusted
    assert all(part < size <= part + 32768 for size in receiver.adjusted)
