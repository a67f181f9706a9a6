"""Bytes that were read already, or that no socket brings, for asyncio's protocols."""

from __future__ import annotations

import asyncio


def feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Gives bytes to a protocol as its transport would."""
    if isinstance(protocol, asyncio.Protocol):  # also where it has a buffer for sockets: here are the bytes
        if data:
            protocol.data_received(data)
        return
    if isinstance(protocol, asyncio.BufferedProtocol):
        view = memoryview(data)
        while view:
            buffer = protocol.get_buffer(len(view))
            room = memoryview(buffer)
            size = min(len(room), len(view))
            room[:size] = view[:size]
            room.release()
            protocol.buffer_updated(size)
            view = view[size:]
