"""Frames of a websocket (RFC 6455) with the channel protocols of Kubernetes, `v4.channel.k8s.io` and `v5`. Pure.

A message is a byte for the channel, then its bytes. API servers read each frame of a client as a message, browsers'
libraries read several frames as one: a client's message is one frame here, or it is refused. No extension is agreed on,
so a frame with a reserved bit is refused, as is one whose length is written in a longer way than it needs.
"""

from __future__ import annotations

from typing import Final

from teleport.kube.exec_channels import FROM_CLIENT, FROM_SERVER, BadStream, Channel, Pieces

MOST: Final = 32 * 1024 * 1024  # bytes of a frame, as API servers take them
_CHANNELS: Final = (Channel.STDIN, Channel.STDOUT, Channel.STDERR, Channel.ERROR, Channel.RESIZE)
_END_OF_CHANNEL: Final = 255  # of `v5`: the next byte names the channel that has ended
_CONTINUED, _BINARY, _CLOSE, _PING, _PONG = 0, 2, 8, 9, 10
_NORMAL: Final = (1000).to_bytes(2)  # why it is closed
_MOST_CONTROL: Final = 125


class WebsocketReader:
    """One direction."""

    def __init__(self, *, client: bool) -> None:
        """`client`: what a client sends, which is masked."""
        self.typed = 0
        self._client = client
        self._head = b""  # of the frame that comes
        self._in_frame = False
        self._left = 0  # bytes of the frame's payload that are still to come
        self._mask = b""
        self._at = 0  # in the payload
        self._operation = _BINARY
        self._last = True  # whether the frame ends its message
        self._continues = False  # whether a message goes on in a later frame
        self._channel = -1  # of the message; -1: not known yet
        self._ended: set[int] = set()  # channels that `v5` said the end of
        self.closed = False

    def feed(self, data: bytes) -> Pieces:
        found: Pieces = []
        at, end = 0, len(data)
        while at < end or (self._in_frame and not self._left):
            if not self._in_frame:
                if self.closed:
                    raise BadStream("something comes after the end of the websocket")
                taken = min(self._missing(), end - at)
                self._head += data[at : at + taken]
                at += taken
                if not self._missing():
                    self._begin()
            elif not self._left:
                self._end()
            else:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if self._operation < _CLOSE:
                    self._payload(part, found)
                self._at += len(part)
        return found

    @property
    def between(self) -> bool:
        return not self._in_frame and not self._head and not self._continues and not self.closed

    def last_word(self, status: bytes) -> bytes:
        return frame(bytes((_CHANNELS.index(Channel.ERROR),)) + status) + frame(_NORMAL, closes=True)

    def piece(self, channel: Channel, data: bytes) -> bytes:
        number = _CHANNELS.index(channel)
        return b"" if number in self._ended or self.closed else frame(bytes((number,)) + data, masked=self._client)

    def _missing(self) -> int:
        """Bytes of the head that are still to come, as far as is known."""
        head = self._head
        if len(head) < 2:
            return 2 - len(head)
        longer = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        return 2 + longer + (4 if head[1] & 0x80 else 0) - len(head)

    def _begin(self) -> None:
        head, self._head = self._head, b""
        self._operation, self._last = head[0] & 0x0F, bool(head[0] & 0x80)
        masked, length = bool(head[1] & 0x80), head[1] & 0x7F
        rest = head[2:]
        if head[0] & 0x70:
            raise BadStream("a frame has bits that no extension gave a meaning")
        if masked != self._client:
            raise BadStream("a frame is masked, or is not, as its side must not do it")
        if length == 126:
            length, rest = int.from_bytes(rest[:2]), rest[2:]
            shortest = length > 125
        elif length == 127:
            length, rest = int.from_bytes(rest[:8]), rest[8:]
            shortest = length > 0xFFFF
        else:
            shortest = True
        if not shortest or length > MOST:
            raise BadStream("a frame's length is too large, or written in a longer way than it needs")
        if self._operation in (_CLOSE, _PING, _PONG):
            if length > _MOST_CONTROL or not self._last:
                raise BadStream("a control frame is too long, or goes on")
        elif self._operation == _BINARY:
            if self._continues or (self._client and not self._last):
                raise BadStream("a message is in pieces")
            self._channel = -1
        elif self._operation != _CONTINUED or not self._continues:
            raise BadStream("a frame is none of bytes")
        self._in_frame, self._left, self._mask, self._at = True, length, rest, 0

    def _end(self) -> None:
        self._in_frame = False
        if self._operation == _CLOSE:
            self.closed = True
        elif self._operation < _CLOSE:
            self._continues = not self._last

    def _payload(self, part: bytes, found: Pieces) -> None:
        offset = self._at
        if self._channel < 0:
            self._channel = part[0] ^ self._mask[0] if self._mask else part[0]
            part, offset = part[1:], offset + 1
        if self._channel == _END_OF_CHANNEL:
            self._ended.update(_unmasked(part, self._mask, offset) if self._mask else part)
            return
        if self._channel >= len(_CHANNELS):
            raise BadStream("there is no such channel")
        channel = _CHANNELS[self._channel]
        if not part:
            return
        if channel not in (FROM_CLIENT if self._client else FROM_SERVER):
            raise BadStream(f"{channel} comes from the wrong side")
        if channel is Channel.STDIN:
            self.typed += len(part)
        else:
            found.append((channel, _unmasked(part, self._mask, offset) if self._mask else part))


def _unmasked(part: bytes, mask: bytes, offset: int) -> bytes:
    return bytes(byte ^ mask[(offset + place) % 4] for place, byte in enumerate(part))


def frame(payload: bytes, *, closes: bool = False, masked: bool = False) -> bytes:
    """One of bytes, or the last one; as a server sends it, or `masked` as a client does: the mask hides nothing from
    caches here, where everything is within TLS, and is nothing but zeros."""
    first = 0x80 | (_CLOSE if closes else _BINARY)
    size, bit = len(payload), 0x80 if masked else 0
    payload = bytes(4 if masked else 0) + payload
    if size <= _MOST_CONTROL:
        return bytes((first, bit | size)) + payload
    if size <= 0xFFFF:
        return bytes((first, bit | 126)) + size.to_bytes(2) + payload
    return bytes((first, bit | 127)) + size.to_bytes(8) + payload
