"""What comes and goes as the bodies of requests and answers: never more at once, and no longer, than was meant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from teleport.errors import BadRequest

MAX_OPEN_BODY = 64 * 1024  # bytes of a body from callers who have proved nothing
BODY_SECONDS = 20.0  # for their body to arrive
KNOWN_BODY_SECONDS = 120.0  # for the body of anybody else
UPLOAD_SECONDS = 600.0  # for a stream of bytes; what comes later is a request of its own


async def read_body(request: web.Request, most: int, seconds: float) -> bytes:
    """The body, of which never more than `most` bytes are kept; it has `seconds` to come."""
    too_large = BadRequest(f"the request's body is larger than {most} bytes")
    if (request.content_length or 0) > most:
        raise too_large
    body = bytearray()
    async for piece in pieces_of(request, seconds):
        body += piece
        if len(body) > most:
            raise too_large
    return bytes(body)


async def pieces_of(request: web.Request, seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes; raises `BadRequest` when it is not whole within `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    pieces = aiter(request.content.iter_any())
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise BadRequest(f"the request's body did not come within {seconds:g} s") from None
        if piece is None:
            return
        yield piece


async def stream_down(
    request: web.Request, parts: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[bytes]] | None = None
) -> web.StreamResponse:
    """Sends what the handler yields. A failure before the first part is an ordinary error reply. With `answer`, the
    lines of the request's body are answered meanwhile."""
    hearing: asyncio.Task[None] | None = None
    try:
        first = await anext(parts, None)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        if answer is not None and request.can_read_body:
            hearing = asyncio.create_task(_hear(request, response, answer), name="what is said in a watch")
        try:
            if first is not None:
                await response.write(first)
                del first  # of a watch, all that there was
                async for part in parts:
                    await response.write(part)
            await response.write_eof()
        except ConnectionResetError:
            pass  # whoever watched has left; that is how watches end
        return response
    finally:
        if hearing is not None:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()


async def _hear(
    request: web.Request, response: web.StreamResponse, answer: Callable[[bytes], Awaitable[bytes]]
) -> None:
    """Answers line by line, so that whoever says more than is heard waits. A line is written whole by one `write`."""
    begun = b""
    try:
        async for piece in request.content.iter_any():
            *lines, begun = (begun + piece).split(b"\n")
            for line in lines:
                if line:
                    await response.write(await answer(line))
            if len(begun) > MAX_OPEN_BODY and request.transport is not None:
                request.transport.abort()
    except ConnectionResetError:
        return
