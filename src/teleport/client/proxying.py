"""stdin and stdout through the proxy's subsystem, by our own SSH client."""

from __future__ import annotations

import asyncio
from datetime import datetime

from teleport.client import terminal
from teleport.client.access import Access
from teleport.client.session import NOT_KNOWN, way
from teleport.client.session_input import Typing
from teleport.errors import ConnectionProblem


async def lead(access: Access, login: str, subsystem: str, now: datetime) -> int:
    """Copies both ways until either side ends. Raises `TeleportError`."""
    said = bytearray()
    gone = asyncio.Event()

    def show(data: bytes, is_stderr: bool) -> None:
        if is_stderr:
            said.extend(data[:4096])
            return
        try:
            terminal.write_all(terminal.STDOUT, data)
        except OSError:
            gone.set()

    async with way(access, login, now) as found:
        session = await found.proxy.start(subsystem=subsystem, on_output=show)
        typing = asyncio.create_task(Typing(session, found.proxy, None, None, gone).run(), name="tsh input")
        over = asyncio.create_task(session.wait(), name="tsh proxy")
        left = asyncio.create_task(gone.wait(), name="tsh output")
        try:
            await asyncio.wait([over, left], return_when=asyncio.FIRST_COMPLETED)
            ended = over.result() if over.done() else None
        finally:
            session.close()
            for task in (typing, over, left):
                task.cancel()
            await asyncio.gather(typing, over, left, return_exceptions=True)
    if ended is not None and ended.status != 0:
        from teleport.recording.sanitise import one_line

        told = one_line(said.decode(errors="replace").strip(), 1000) or one_line(ended.message)
        what, _, then = told.partition(" Next: ")
        raise ConnectionProblem(what or "the proxy ended the connection", hint=then.rstrip(".") or "try again")
    return 0 if ended is not None else NOT_KNOWN
