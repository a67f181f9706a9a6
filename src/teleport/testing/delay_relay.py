"""A relay that makes a path long: what comes is passed on after a while, both ways, at any speed. A program:

    python -m teleport.testing.delay_relay PORT SECONDS

listens on a free port of loopback, prints it, and leads to PORT. Kernels without netem are delayed this way.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

from teleport.testing.loopback import LOOPBACK

_MOST = 64 * 1024 * 1024  # bytes on the way in one direction; a path holds no more


class _OneWay:
    """Bytes on their way, each piece with the time at which it arrives."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def take(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await reader.read(1024 * 1024)
            except OSError:
                data = b""
            self._pieces.append((loop.time() + self._delay, data))
            self._size += len(data)
            self._changed.set()
            if not data:
                return
            if self._size > _MOST:
                self._room.clear()
                await self._room.wait()

    async def give(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._pieces:
                self._changed.clear()
                await self._changed.wait()
            due, data = self._pieces.popleft()
            await asyncio.sleep(due - loop.time())
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            self._size -= len(data)
            self._room.set()
            writer.write(data)
            await writer.drain()


async def relay(port: int, delay: float) -> asyncio.Server:
    """Listens; every connection leads to `port`, each way `delay` seconds long."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, port, limit=16 * 1024 * 1024)
        up, down = _OneWay(delay), _OneWay(delay)
        await asyncio.gather(
            up.take(reader), up.give(back), down.take(there), down.give(writer), return_exceptions=True
        )
        back.close()
        writer.close()

    return await asyncio.start_server(connected, LOOPBACK, 0, limit=16 * 1024 * 1024)


async def main(port: int, delay: float) -> None:
    server = await relay(port, delay)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  # the program's one answer
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
