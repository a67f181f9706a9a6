"""Reading ranges in pages: as much at once as is good for the servers, all of it as of one revision."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from teleport.backend.etcd import messages as m
from teleport.backend.etcd.peers import RANGE, Peers
from teleport.backend.etcd.refusals import Kind

FIRST: Final = 128  # items of a first page
MOST: Final = 2048
AIM: Final = 2 * 1024 * 1024  # bytes of a page


async def pages(
    peers: Peers, start: bytes, end: bytes, *, revision: int = 0, first: int = FIRST
) -> AsyncGenerator[m.Message, None]:
    """The answers that together have everything from `start` up to before `end`; at least one.

    All are of `revision`, or (0) of the one that is newest at the first page. Raises `Refused` with `COMPACTED` when
    that is not kept any more.
    """
    limit = first
    while True:
        request = m.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
        answer = (await peers.call(RANGE, request, "read", told=(Kind.COMPACTED,))).message
        revision = revision or int(answer.header.revision)
        yield answer
        if not answer.more:
            return
        start = answer.kvs[-1].key + b"\0"
        size = max(1, answer.ByteSize() // len(answer.kvs))
        limit = min(MOST, max(1, AIM // size))
