"""`tsh scp`: connects the ends, and has the files copied."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from teleport.client import system
from teleport.client.access import Access
from teleport.client.session import CONNECT_SECONDS, Way, reached
from teleport.client.session import KEEPALIVE as KEEPALIVE
from teleport.client.transfer.copying import Copier
from teleport.client.transfer.copying import Ways as Ways
from teleport.client.transfer.here import Here
from teleport.client.transfer.there import There
from teleport.errors import SECOND_FACTOR_DUE, ConnectionProblem, TeleportError
from teleport.ssh.client import SshClient
from teleport.ssh.surface import KeepAlive
from teleport.transfer.sftp import Sftp
from teleport.wire.transfer_names import Place


class FactorDue(TeleportError):
    """A host asks for a second factor of its own; nothing was copied yet."""

    def __init__(self, end: Place, message: str) -> None:
        super().__init__(message, hint="tsh asks for it at a terminal")
        self.end = end


@dataclass(frozen=True, slots=True)
class Transfer:
    """What to copy. Every place of a host has its `user`."""

    sources: Sequence[Place]
    target: Place
    ways: Ways
    port: int = 0
    connect_seconds: float = CONNECT_SECONDS
    keepalive: KeepAlive = KEEPALIVE


async def run(
    transfer: Transfer,
    access: Callable[[Place], Access],
    now: datetime,
    moved: Callable[[int], None],
    failed: Callable[[str, TeleportError], None],
) -> int:
    """Copies; gives how many files. Raises `TeleportError` for what concerns all of it."""
    task = asyncio.current_task()
    assert task is not None
    system.on_signals(asyncio.get_running_loop(), ("SIGTERM", "SIGHUP"), task.cancel)
    async with AsyncExitStack() as stack:
        here = Here()
        there: dict[tuple[str, str], There] = {}
        hops: list[tuple[Way, SshClient, str]] = []
        for place in (*transfer.sources, transfer.target):
            key = (place.user, place.host)
            if place.host and key not in there:
                there[key] = await _reached(stack, transfer, place, access(place), now, hops)
        copier = Copier(_side(here, there, transfer.target), transfer.ways, moved, failed)
        sources = [(_side(here, there, place), place.path) for place in transfer.sources]
        try:
            await copier.copy(sources, transfer.target.path)
        except ConnectionProblem as error:
            for found, node, host in hops:
                if hop := await found.lost_hop(node, host):
                    raise ConnectionProblem(hop, hint="copy again what is missing") from error
            raise
        return copier.files


def _side(here: Here, there: Mapping[tuple[str, str], There], place: Place) -> Here | There:
    return there[place.user, place.host] if place.host else here


async def _reached(
    stack: AsyncExitStack,
    transfer: Transfer,
    place: Place,
    access: Access,
    now: datetime,
    hops: list[tuple[Way, SshClient, str]],
) -> There:
    try:
        found, node = await stack.enter_async_context(
            reached(
                access,
                place.host,
                transfer.port,
                place.user,
                now,
                seconds=transfer.connect_seconds,
                keepalive=transfer.keepalive,
            )
        )
    except TeleportError as error:
        if SECOND_FACTOR_DUE in error.message:
            raise FactorDue(place, error.message) from error
        raise
    sftp = Sftp(node, place.host)
    stack.push_async_callback(sftp.close)
    try:
        await sftp.begin()
    except TeleportError as error:
        if SECOND_FACTOR_DUE in error.message:
            raise FactorDue(place, error.message) from error
        raise
    hops.append((found, node, place.host))
    return There(sftp, place.host)


def total_size(transfer: Transfer) -> int:
    """Bytes of all sources, as far as they are known before anything is asked: files of this machine; else 0."""
    total = 0
    for place in transfer.sources:
        if place.host or not os.path.isfile(place.path):
            return 0
        total += os.path.getsize(place.path)
    return total
