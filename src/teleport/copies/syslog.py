"""Events to a syslog receiver over TLS: RFC 5424 messages, counted as RFC 5425 asks.

Syslog has no acknowledgements. So each stretch has a connection of its own that we end, and that counts only once the
receiver has closed it in turn, without a reset: by then it has read all. What a receiver that is killed had read
and not stored is brought again, when it was brought within the last minute.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from teleport.copies.settings import SyslogCopy
from teleport.copies.tls import context_of
from teleport.errors import ConnectionProblem

FACILITY: Final = 13  # log audit
SEVERITIES: Final = {"I": 6, "W": 4, "E": 3}  # by the last letter of an event's code
WITHIN: Final = 30.0  # seconds for each step with the receiver
CONNECT: Final = 10.0  # seconds at most for a connection
DOUBTFUL: Final = 60.0
_CLOSED: Final = 7  # a state of TCP, as Linux counts them
_NAMES: Final = frozenset(map(chr, range(33, 127)))


class _About(msgspec.Struct):
    time: str = ""
    event: str = ""
    code: str = ""


_ABOUT = msgspec.json.Decoder(_About)


def message(line: bytes, host: str) -> bytes:
    """An event as a syslog message: the event's time, its name as MSGID, the stored line as MSG."""
    try:
        about = _ABOUT.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        about = _About()
    return header(FACILITY, SEVERITIES.get(about.code[-1:], 6), about.time, host, "-", about.event) + line


def header(facility: int, severity: int, when: str, host: str, process: str, name: str) -> bytes:
    """What stands before the text of a message (RFC 5424, 6): `when` is RFC 3339 in UTC, `name` becomes the MSGID.
    Letters that have no place there are left out."""
    stamp = _plain(when, 64) if when.endswith("Z") else "-"
    places = f"{_plain(host, 255)} teleport {_plain(process, 128)} {_plain(name, 32)}"
    return f"<{facility * 8 + severity}>1 {stamp} {places} - ".encode()


def counted(line: bytes) -> bytes:
    """As it goes over TLS."""
    return b"%d %s" % (len(line), line)


def _plain(text: str, most: int) -> str:
    return "".join(sign for sign in text[:most] if sign in _NAMES) or "-"


class SyslogPlace:
    """One receiver."""

    doubtful = DOUBTFUL

    def __init__(
        self,
        settings: SyslogCopy,
        host: str,
        *,
        within: float = WITHIN,
        form: Callable[[bytes, str], bytes] = message,
        what: str = "events",
    ) -> None:
        """`host`: what messages name as the sender. `form` makes a message of a line and the host."""
        self._settings = settings
        self._host = host
        self._within = within
        self._form = form
        self._what = what
        self._open: socket.socket | None = None

    async def write(self, lines: Sequence[bytes]) -> None:
        block = b"".join(counted(self._form(line, self._host)) for line in lines)
        try:
            await asyncio.to_thread(self._bring, block)
        except (OSError, ValueError) as error:
            raise ConnectionProblem(
                f"the syslog receiver {self._settings.address} did not take {self._what}: {_said(error)}",
                hint="see whether it runs, and whether its certificate names this address",
            ) from None
        finally:
            self._cut()

    async def close(self) -> None:
        self._cut()

    def _cut(self) -> None:
        """Ends what a thread waits for."""
        if self._open is not None:
            with suppress(OSError):
                self._open.shutdown(socket.SHUT_RDWR)

    def _bring(self, block: bytes) -> None:
        address = self._settings.address
        context = context_of(self._settings.tls)
        with (
            socket.create_connection((address.host, address.port), timeout=min(self._within, CONNECT)) as plain,
            context.wrap_socket(plain, server_hostname=address.host, do_handshake_on_connect=False) as tls,
        ):
            self._open = tls
            try:
                tls.settimeout(self._within)
                tls.do_handshake()
                tls.sendall(block)
                self._end(tls)
            finally:
                self._open = None

    def _end(self, tls: ssl.SSLSocket) -> None:
        """Ends our side, and waits until the receiver has read all and ended its own.

        Who closes without having read resets the connection, sooner or later: only then is it known, so what was sent
        counts once the other kernel has acknowledged the last byte and no reset came.
        """
        try:
            tls.unwrap()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
            pass  # it closed the connection without a word, as many do
        except OSError as error:
            if error.errno not in (0, None) or isinstance(error, TimeoutError):
                raise
        deadline = time.monotonic() + self._within
        while (left := _unread(tls)) != 0:
            if left is None:
                raise ConnectionResetError("it closed the connection before it had read everything")
            if time.monotonic() > deadline:
                raise TimeoutError("it does not acknowledge what was sent")
            time.sleep(0.002)


def _unread(open_socket: socket.socket) -> int | None:
    """How many segments the other side has not acknowledged; None once it has reset the connection."""
    state, unacked = struct.unpack_from("=B23xI", open_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32))
    return None if state == _CLOSED else int(unacked)


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error) or type(error).__name__
