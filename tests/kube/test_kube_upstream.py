"""Connections to API servers that are kept: what one call left behind, no other call reads."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from teleport.testing.kube_lab import Lab, kube_lab

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def wait_for(what: Callable[[], Any]) -> Any:
    """What it is once it is something; each turn of the loop comes nearer."""
    async with asyncio.timeout(10):
        for _ in itertools.count():
            if found := what():
                return found
            await asyncio.sleep(0)


@asynccontextmanager
async def odd_server(lab: Lab, serve: Serve) -> AsyncIterator[tuple[Path, Path]]:
    """An API server that does what `serve` does, named odd; the pair of somebody whom it serves."""
    async with lab.odd_server(serve):
        yield lab.pair(kube_cluster="odd")


async def test_what_a_server_says_unasked_answers_nobody(tmp_path: Path) -> None:
    """A balancer that tells an idle connection of its end: the next call, maybe another person's, must not read it."""
    told, connections = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while (await reader.readline()) != b"":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%d  " % connections)
            await writer.drain()
            if connections == 1:
                await told.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers")
                await writer.drain()

    async with kube_lab(tmp_path) as lab, odd_server(lab, serve) as pair, lab.connected(pair) as wire:
        assert (await wire.ask("GET /version")).body == b"1  "
        upstream = lab.clusters["odd"]
        (kept,) = await wait_for(lambda: list(upstream._idle))
        told.set()
        await wait_for(lambda: kept.reader._buffer)
        assert (await wire.ask("GET /version")).body == b"2  "
