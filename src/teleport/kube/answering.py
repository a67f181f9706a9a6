"""Answers that are ours, without an API server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import h11

from teleport.kube import refusals
from teleport.kube.http import Client, Request
from teleport.kube.status import Refusal

MOST_THROWN_AWAY: Final = 1 << 20  # bytes of the body of a refused request
THROWN_AWAY_WITHIN: Final = 2.0  # seconds


async def answer(client: Client, code: int, body: bytes, kind: bytes = b"application/json") -> None:
    """Answers by itself, without an API server."""
    headers = [(b"Content-Type", kind), (b"Content-Length", str(len(body)).encode())]
    await client.begin(code, headers)
    if not client.bodiless:
        await client.part(body)
    await client.end()


async def refuse(client: Client, request: Request, refusal: Refusal) -> None:
    """Answers with a Status; of the request's body so much is thrown away that the client comes to read it."""
    told = refusals.worded(request, refusal)
    await answer(client, told.code, told.body, told.kind)
    thrown = 0
    with contextlib.suppress(TimeoutError, h11.ProtocolError):
        async with asyncio.timeout(THROWN_AWAY_WITHIN):
            async for part in client.body():
                thrown += len(part)
                if thrown > MOST_THROWN_AWAY:
                    return
