"""Bytes that were read already, or that no socket brings, for asyncio's protocols."""

from __future__ import annotations

import asyncio


def feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Gives bytes to a protocol as its transport would."""
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
    elif data:
        assert isinstance(protocol, asyncio.Protocol)
        protocol.data_received(data)
