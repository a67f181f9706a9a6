"""The answer to a list or a watch of which a part is shown, on its way from the API server to the client.

A list begins with its first 256 KiB, so that what cannot be read is a refusal that kubectl prints; one of which that
comes out later ends with its connection, never as if it were whole. A watch begins at once.
"""

from __future__ import annotations

from typing import Final

import h11

from teleport.kube.filtering import for_client
from teleport.kube.heads import forwarded
from teleport.kube.http import Client, Server
from teleport.kube.list_filter import ListFilter, UnreadableList, WatchFilter

HELD: Final = 256 * 1024  # bytes of a list before its answer begins


async def relay(client: Client, server: Server, answer: h11.Response, part: ListFilter | WatchFilter) -> None:
    """Gives the client what is shown. Raises `UnreadableList` while nothing was answered, `h11.RemoteProtocolError`
    afterwards."""
    held: list[bytes] = []
    size = 0
    begun = False

    async def give(data: bytes, *, now: bool = False) -> None:
        nonlocal size, begun
        if begun:
            if data:
                await client.part(data)
            return
        held.append(data)
        size += len(data)
        if now or size > HELD:
            begun = True
            await client.begin(200, for_client(forwarded(list(answer.headers))))
            if size:
                await client.part(b"".join(held))
            held.clear()

    try:
        if isinstance(part, WatchFilter):
            await give(b"", now=True)
        async for data in server.body():
            await give(part.feed(data))
        await give(part.feed(b"", last=True), now=True)
    except UnreadableList as error:
        if begun:
            raise h11.RemoteProtocolError(error.message) from None
        raise
    await client.end()
