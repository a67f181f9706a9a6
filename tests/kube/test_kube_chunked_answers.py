"""Answers in chunks, relayed from an API server to a client."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from pathlib import Path

import pytest
from tests.kube.test_kube_upstream import odd_server

from teleport.testing.kube_lab import kube_lab


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"00a\r\n0123456789\r\n1\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n", b"0123456789x"),
        (b"1\r\na\r\n3;name=value\r\nbcd\r\n2\r\nef\r\n0\r\n\r\n", b"abcdef"),
        (b"0\r\n\r\n", b""),
    ],
)
async def test_chunks_of_every_form_are_read_and_the_connection_serves_on(
    tmp_path: Path, body: bytes, read: bytes
) -> None:
    """Cut in two at any place; the client reads a body that it can read in one way only, and the next answer after it.
    A call for the head alone has no body."""
    cuts = itertools.cycle(range(len(body) + 1))
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()) != b"":
            heard.append(line)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            if line.startswith(b"HEAD"):
                continue
            at = next(cuts)
            for part in (body[:at], body[at:]):
                await asyncio.sleep(0)
                writer.write(part)
                await writer.drain()

    async with kube_lab(tmp_path) as lab, odd_server(lab, serve) as pair, lab.connected(pair) as wire:
        for _ in range(len(body) + 1):
            assert (await wire.ask("GET /version")).body == read
        assert (await wire.ask("HEAD /version")).body == b""
        assert (await wire.ask("GET /version")).body == read
        assert len(heard) == len(body) + 3
        assert len(lab.clusters["odd"]._idle) == 1, "it was kept"


@pytest.mark.parametrize("bad", [b"5\r\nhelloxx", b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"5\r\nhello\r\n"])
async def test_chunks_that_break_break_the_answer(tmp_path: Path, bad: bytes) -> None:
    """The client does not take what came for the whole, and nothing else is read on that connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n" + bad)
        await writer.drain()
        writer.close()

    async with kube_lab(tmp_path) as lab, odd_server(lab, serve) as pair:
        for _ in range(2):
            async with lab.connected(pair) as wire:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)):
                    await wire.ask("GET /version")
        assert not lab.clusters["odd"]._idle
