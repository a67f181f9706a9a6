"""The terminal that a person sits at: raw while a remote session runs, and put back whatever happens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from teleport.client.system import HAS_TERMINAL, suspend, termios, tty

# What of our terminal's settings the other side is told (RFC 4254 section 8), by name in `termios`.
_CHARACTERS = {
    "VINTR": 1, "VQUIT": 2, "VERASE": 3, "VKILL": 4, "VEOF": 5, "VEOL": 6, "VEOL2": 7, "VSTART": 8, "VSTOP": 9,
    "VSUSP": 10, "VREPRINT": 12, "VWERASE": 13, "VLNEXT": 14, "VDISCARD": 18,
}  # fmt: skip
_FLAGS = {
    0: {"IGNPAR": 30, "PARMRK": 31, "INPCK": 32, "ISTRIP": 33, "INLCR": 34, "IGNCR": 35, "ICRNL": 36, "IXON": 38,
        "IXANY": 39, "IXOFF": 40, "IMAXBEL": 41, "IUTF8": 42},
    3: {"ISIG": 50, "ICANON": 51, "ECHO": 53, "ECHOE": 54, "ECHOK": 55, "ECHONL": 56, "NOFLSH": 57, "TOSTOP": 58,
        "IEXTEN": 59, "ECHOCTL": 60, "ECHOKE": 61, "PENDIN": 62},
    1: {"OPOST": 70, "ONLCR": 72, "OCRNL": 73, "ONOCR": 74, "ONLRET": 75},
    2: {"CS7": 90, "CS8": 91, "PARENB": 92, "PARODD": 93},
}  # fmt: skip
_EXTRA = {"IUTF8": 0o40000, "ECHOCTL": 0o1000, "ECHOKE": 0o4000, "PENDIN": 0o40000, "IMAXBEL": 0o20000}


def is_terminal(descriptor: int) -> bool:
    return os.isatty(descriptor)


def terminal_modes(descriptor: int) -> bytes:
    """The terminal's settings as SSH's encoded modes (RFC 4254 section 8); empty when it is no terminal."""
    if not HAS_TERMINAL:
        return b""
    try:
        settings = termios.tcgetattr(descriptor)
    except (termios.error, OSError):
        return b""
    encoded = bytearray()
    for name, opcode in _CHARACTERS.items():
        index = getattr(termios, name, None)
        if index is not None:
            character = settings[6][index]
            value = character[0] if isinstance(character, bytes) and character != b"\0" else 255
            encoded += bytes([opcode]) + value.to_bytes(4, "big")
    for field, flags in _FLAGS.items():
        for name, opcode in flags.items():
            bit = getattr(termios, name, _EXTRA.get(name, 0))
            if bit:
                encoded += bytes([opcode]) + int(bool(settings[field] & bit)).to_bytes(4, "big")
    return bytes(encoded) + b"\0"


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Columns and rows; 80 by 24 when nobody knows."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


class Raw:
    """A terminal whose every key goes through as it is."""

    def __init__(self, descriptor: int, before: object) -> None:
        self._descriptor = descriptor
        self._before = before

    def suspend(self) -> None:
        """Puts the terminal back, stops this program until it is continued, and goes on as before."""
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        suspend()
        tty.setraw(self._descriptor, termios.TCSADRAIN)


@contextmanager
def raw(descriptor: int) -> Iterator[Raw]:
    """Every key goes through as it is; restored at the end."""
    with _restored(descriptor) as before:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield Raw(descriptor, before)


@contextmanager
def keys_only(descriptor: int) -> Iterator[None]:
    """Keys come one by one and are not echoed; output and Ctrl-C work as usual."""
    with _restored(descriptor):
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield


@contextmanager
def as_before(descriptor: int) -> Iterator[None]:
    """Lines are read and echoed, as in a shell, within; afterwards keys come one by one again."""
    settings = termios.tcgetattr(descriptor)
    usual = termios.tcgetattr(descriptor)
    usual[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, usual)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)


@contextmanager
def _restored(descriptor: int) -> Iterator[object]:
    before = termios.tcgetattr(descriptor)
    try:
        yield before
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`; waits where the descriptor is not ready."""
    import select

    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


STDIN, STDOUT, STDERR = 0, 1, 2


def say(text: str) -> None:
    """For the person, not for what reads our output."""
    sys.stderr.write(text)
    sys.stderr.flush()
