"""What a client sends only to see whether the other side is there: kubectl does so every few seconds. Pure."""

from __future__ import annotations

from typing import Final

_SPDY_PING: Final = b"\x80\x03\x00\x06\x00\x00\x00\x04"  # version 3, type 6, no flags, a number of four bytes
_WEBSOCKET: Final = (0x89, 0x8A)  # ping and pong, whole
_SMALL: Final = 125  # bytes that a control frame holds at most
_MASKED: Final = 0x80


def only_pings(protocol: bytes, data: bytes) -> bool:
    """Whether the bytes are such frames and nothing else. Frames that come in pieces are taken for something else."""
    while data:
        size = _websocket(data) if protocol == b"websocket" else _spdy(data)
        if not size or size > len(data):
            return False
        data = data[size:]
    return True


def _websocket(data: bytes) -> int:
    """How long the ping is that the bytes begin with; 0: with none."""
    if len(data) < 2 or data[0] not in _WEBSOCKET or data[1] & ~_MASKED > _SMALL:
        return 0
    return 2 + (4 if data[1] & _MASKED else 0) + (data[1] & ~_MASKED)


def _spdy(data: bytes) -> int:
    return len(_SPDY_PING) + 4 if data.startswith(_SPDY_PING) else 0
