"""The server's half of SOCKS: what a client on this machine asks of `-D`. Bytes in, bytes and a destination out.

SOCKS5 without authentication (RFC 1928), and SOCKS4 and 4a, which old programs speak; CONNECT only. The answer is given
when it is known whether the destination was reached, so that a program sees a refusal as one.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

_MAX_TEXT = 255  # bytes: a user's or a host's name
_PORT = struct.Struct(">H")


class NotSocks(Exception):
    """What came is no request that can be met; `answer` is sent before the connection is closed."""

    def __init__(self, what: str, answer: bytes = b"") -> None:
        super().__init__(what)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where to, and the two answers."""

    host: str
    port: int
    granted: bytes
    refused: bytes


class SocksRequest:
    """`feed` until it gives a `Wanted`; `rest` is what came after the request."""

    def __init__(self) -> None:
        self._data = b""
        self._greeted = False

    @property
    def rest(self) -> bytes:
        return self._data

    def feed(self, data: bytes) -> tuple[bytes, Wanted | None]:
        """What to answer now, and the request once it is whole. Raises `NotSocks`."""
        self._data += data
        if not self._data:
            return b"", None
        if self._data[0] == 4:
            return b"", self._four()
        if self._data[0] != 5:
            raise NotSocks("the client does not speak SOCKS")
        answer = b""
        if not self._greeted:
            if len(self._data) < 2 or len(self._data) < 2 + self._data[1]:
                return b"", None
            methods = self._take(2 + self._data[1])[2:]
            if 0 not in methods:
                raise NotSocks("the client wants to authenticate", b"\x05\xff")
            self._greeted, answer = True, b"\x05\x00"
        return answer, self._five()

    def _take(self, size: int) -> bytes:
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _five(self) -> Wanted | None:
        data = self._data
        if len(data) < 5:
            return None
        if data[0] != 5 or data[2] != 0:
            raise NotSocks("a damaged request")
        sizes = {1: 4, 4: 16, 3: 1 + data[4]}
        if data[1] != 1:
            raise NotSocks(f"command {data[1]} is not CONNECT", _five_answer(7))
        if data[3] not in sizes:
            raise NotSocks(f"an address of type {data[3]}", _five_answer(8))
        end = 4 + sizes[data[3]]
        if len(data) < end + 2:
            return None
        packet = self._take(end + 2)
        address = packet[4:end]
        host = _text(address[1:]) if data[3] == 3 else str(ipaddress.ip_address(address))
        return Wanted(host, _PORT.unpack(packet[end:])[0], _five_answer(0), _five_answer(5))

    def _four(self) -> Wanted | None:
        data = self._data
        if len(data) < 9:
            return None
        if data[1] != 1:
            raise NotSocks(f"command {data[1]} is not CONNECT", b"\0\x5b" + bytes(6))
        user_end = data.find(b"\0", 8)
        end, host = user_end, str(ipaddress.ip_address(data[4:8]))
        if data[4:7] == b"\0\0\0" and data[7] and user_end >= 0:  # 4a: a name follows
            end = data.find(b"\0", user_end + 1)
            host = _text(data[user_end + 1 : end]) if end >= 0 else ""
        if end < 0:
            if len(data) > 8 + 2 * (_MAX_TEXT + 1):
                raise NotSocks("a request without an end")
            return None
        packet = self._take(end + 1)
        return Wanted(host, _PORT.unpack(packet[2:4])[0], b"\0\x5a" + bytes(6), b"\0\x5b" + bytes(6))


def _five_answer(code: int) -> bytes:
    return bytes((5, code, 0, 1)) + bytes(6)


def _text(name: bytes) -> str:
    try:
        host = name.decode("ascii")
    except UnicodeDecodeError:
        raise NotSocks("a host's name that is not ASCII", _five_answer(1)) from None
    if not host or len(host) > _MAX_TEXT or not host.isprintable() or " " in host:
        raise NotSocks("a host's name that cannot be one", _five_answer(1))
    return host
