"""Frames of SPDY/3.1 as Kubernetes uses it for commands in pods: a stream for each channel, opened by the client. Pure.

Heads of streams are compressed, all of one direction together and with a dictionary that everybody knows; they say
what a stream is for. What the readers behind us might take in another way is refused: a stream of the same name twice,
a name written with capitals or several times, bytes left over in a block, control frames of a length that is not
theirs, a stream that the server opens, a version that is not 3.
"""

from __future__ import annotations

import zlib
from typing import Final

from teleport.kube.exec_channels import FROM_CLIENT, FROM_SERVER, BadStream, Channel, Pieces

MOST_HEAD: Final = 16 * 1024  # bytes of a control frame
MOST_BLOCK: Final = 64 * 1024  # bytes of a block of headers, unpacked
MOST_HEADERS: Final = 64
_VERSION: Final = 3
_FIN: Final = 1
_SYN_STREAM, _SYN_REPLY, _RST, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW = 1, 2, 3, 4, 6, 7, 8, 9
_LENGTHS: Final = {_RST: 8, _PING: 4, _GOAWAY: 8, _WINDOW: 8}
_KIND: Final = b"streamtype"

# SPDY draft 3, section 2.6.10.1: words with their lengths, then text
_NAMES: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges "
    "age allow authorization cache-control connection content-base content-encoding content-language "
    "content-length content-location content-md5 content-range content-type date etag expect expires from "
    "host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location "
    "max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te "
    "trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status"
)
_WORDS: Final = (
    *_NAMES.split(),
    *("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"),
)
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = b"".join(len(word).to_bytes(4) + word.encode() for word in _WORDS) + _TEXT.encode()


class SpdyStreams:
    """The streams of one connection, by number: both of its directions know them."""

    def __init__(self) -> None:
        self.channels: dict[int, Channel] = {}

    def reader(self, *, client: bool) -> SpdyReader:
        return SpdyReader(self, client=client)

    def opened(self, number: int, block: bytes) -> None:
        """The client opens a stream. Raises `BadStream`."""
        if not number % 2 or number <= max(self.channels, default=0):
            raise BadStream("a stream has a number that it must not have")
        kinds = [value for name, value in _headers(block) if name == _KIND]
        if len(kinds) != 1 or kinds[0] not in _BY_NAME:
            raise BadStream("a stream is for nothing that is known")
        channel = _BY_NAME[kinds[0]]
        if channel in self.channels.values():
            raise BadStream(f"there are two streams for {channel}")
        self.channels[number] = channel


_BY_NAME: Final = {channel.value.encode(): channel for channel in Channel}


class SpdyReader:
    """One direction."""

    def __init__(self, streams: SpdyStreams, *, client: bool) -> None:
        self.typed = 0
        self.closed = False
        self._streams = streams
        self._client = client
        self._head = b""  # of the frame that comes, with the whole of a control frame
        self._left = 0  # bytes of a data frame that are still to come
        self._channel = Channel.STDIN  # of that frame
        self._fin = False  # whether the frame ends its stream
        self._number = 0  # of its stream
        self._ended: set[int] = set()
        self._unpack = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Pieces:
        found: Pieces = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if self._channel is Channel.STDIN:
                    self.typed += len(part)
                else:
                    found.append((self._channel, part))
                if not self._left and self._fin:
                    self._ended.add(self._number)
                continue
            taken = min(self._missing(), end - at)
            self._head += data[at : at + taken]
            at += taken
            if not self._missing():
                head, self._head = self._head, b""
                if head[0] & 0x80:
                    self._control(head)
                else:
                    self._data(head)
        return found

    @property
    def between(self) -> bool:
        return not self._left and not self._head

    def last_word(self, status: bytes) -> bytes:
        numbers = {channel: number for number, channel in self._streams.channels.items()}
        if Channel.ERROR not in numbers:
            return b""
        ends = [data_frame(numbers[one], b"") for one in (Channel.STDOUT, Channel.STDERR) if one in numbers]
        return b"".join([data_frame(numbers[Channel.ERROR], status), *ends])

    def piece(self, channel: Channel, data: bytes) -> bytes:
        number = next((number for number, one in self._streams.channels.items() if one is channel), None)
        if number is None or number in self._ended:
            return b""
        return data_frame(number, data, last=False)

    def _missing(self) -> int:
        """Bytes that are still to come of a frame's head, of a control frame also of the rest, as far as is known."""
        head = self._head
        if len(head) < 8:
            return 8 - len(head)
        if not head[0] & 0x80:
            return 0
        length = int.from_bytes(head[5:8])
        if length > MOST_HEAD:
            raise BadStream("a control frame is too long")
        return 8 + length - len(head)

    def _data(self, head: bytes) -> None:
        number, flags, length = int.from_bytes(head[:4]), head[4], int.from_bytes(head[5:8])
        channel = self._streams.channels.get(number)
        if channel is None:
            raise BadStream("something comes on a stream that nobody opened")
        if flags & ~_FIN:
            raise BadStream("a frame has a flag that none has")
        if length and channel not in (FROM_CLIENT if self._client else FROM_SERVER):
            raise BadStream(f"{channel} comes from the wrong side")
        if length and self._client and number in self._ended:  # of a server's such bytes are recorded, too
            raise BadStream(f"something comes after the end of {channel}")
        self._left, self._channel, self._number, self._fin = length, channel, number, bool(flags & _FIN)
        if self._fin and not length:
            self._ended.add(number)

    def _control(self, head: bytes) -> None:
        version, kind, flags, body = int.from_bytes(head[:2]) & 0x7FFF, int.from_bytes(head[2:4]), head[4], head[8:]
        if version != _VERSION:
            raise BadStream("a frame is of another version of SPDY")
        if kind in _LENGTHS:
            if len(body) != _LENGTHS[kind] or flags:
                raise BadStream("a control frame has a length that is not its own")
            self.closed = self.closed or kind == _GOAWAY
        elif kind == _SETTINGS:
            if len(body) < 4 or len(body) != 4 + 8 * int.from_bytes(body[:4]):
                raise BadStream("settings have a length that is not theirs")
        elif kind == _SYN_STREAM and self._client:
            if len(body) < 10 or flags & ~_FIN or int.from_bytes(body[4:8]):
                raise BadStream("a stream is opened in a way that is not known")
            number = int.from_bytes(body[:4])
            self._streams.opened(number, self._unpacked(body[10:]))
            if flags & _FIN:
                self._ended.add(number)
        elif kind in (_SYN_REPLY, _HEADERS) and not (kind == _SYN_REPLY and self._client):
            number = int.from_bytes(body[:4])
            if len(body) < 4 or flags & ~_FIN or number not in self._streams.channels:
                raise BadStream("headers are of no stream")
            _headers(self._unpacked(body[4:]))
            if flags & _FIN:
                self._ended.add(number)
        else:
            raise BadStream("a control frame is of a kind that is not taken")

    def _unpacked(self, block: bytes) -> bytes:
        try:
            plain = self._unpack.decompress(block, MOST_BLOCK)
        except zlib.error:
            raise BadStream("a block of headers cannot be unpacked") from None
        if self._unpack.eof or self._unpack.unconsumed_tail or len(plain) >= MOST_BLOCK:
            raise BadStream("a block of headers ends early, or is too long")
        return plain


def _headers(block: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values of a block. Raises `BadStream`."""
    found: list[tuple[bytes, bytes]] = []
    count, rest = int.from_bytes(block[:4]), block[4:]
    if len(block) < 4 or count > MOST_HEADERS:
        raise BadStream("a block of headers is none")
    for _ in range(count):
        name, rest = _text(rest)
        value, rest = _text(rest)
        if name != name.lower() or not name.isascii() or any(name == other for other, _ in found):
            raise BadStream("a header's name is not as it has to be, or comes twice")
        if b"\0" in value:
            raise BadStream("a header has several values")
        found.append((name, value))
    if rest:
        raise BadStream("a block of headers goes on behind its end")
    return found


def _text(rest: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(rest[:4])
    if len(rest) < 4 + size:
        raise BadStream("a block of headers is none")
    return rest[4 : 4 + size], rest[4 + size :]


def data_frame(number: int, payload: bytes, *, last: bool = True) -> bytes:
    """A frame of a stream; the last one, unless that is said."""
    return number.to_bytes(4) + bytes((_FIN if last else 0,)) + len(payload).to_bytes(3) + payload
