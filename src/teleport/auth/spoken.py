"""What a host says within its watch: announcements, each of them judged as a call of its own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from teleport.api.codec import encode_error
from teleport.api.messages import Answer, Document, Message
from teleport.auth.caller import Caller
from teleport.auth.watching import Watching
from teleport.errors import TeleportError
from teleport.identity import Identity

log = logging.getLogger(__name__)

Identify = Callable[[bytes | None], Awaitable[Identity]]
Announce = Callable[[Caller, bytes], Awaitable[Message]]


class Spoken:
    """An announcement within a watch costs no connection, of which ten thousand hosts would make a hundred and more
    each second."""

    def __init__(self, identify: Identify, announce: Announce) -> None:
        """`announce`: judges an announcement and does what it says."""
        self._identify = identify
        self._announce = announce

    def by(self, caller: Caller, watching: Watching) -> Callable[[bytes], Awaitable[bytes]]:
        """Answers a line that a caller says in its watch."""

        async def answer(line: bytes) -> bytes:
            status, body = 200, b""
            try:
                now = caller
                watching.look()
                if watching.found is None:
                    # what was proved as the watch began may have ended since
                    now = replace(caller, identity=await self._identify(caller.certificate or None))
                body = msgspec.json.encode(await self._announce(now, line))
            except TeleportError as error:
                status, body = encode_error(error)
            except Exception:
                log.exception("auth API: an announcement within a watch failed")
                status, body = encode_error(mistake())
            revision, within = watching.sign()
            answered = Answer(status=status, body=Document(body))
            return msgspec.json.encode({"revision": revision, "within": within, "answer": answered}) + b"\n"

        return answer


def mistake() -> TeleportError:
    """What a caller is told of a mistake of ours."""
    return TeleportError("auth failed to do this", hint="the log of the auth service names the reason")
