"""From settings to places; what a place needs is loaded when it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from teleport.audit.cursor import Cursor
from teleport.backend.interface import Backend
from teleport.clock import SystemClock
from teleport.copies.copier import Copier, Place, Source
from teleport.copies.searching import FirstSearched, Searched
from teleport.copies.searching import Place as SearchedPlace
from teleport.copies.settings import CopySettings, DynamoCopy, HttpsCopy, PostgresqlCopy, StdoutCopy, SyslogCopy
from teleport.errors import TeleportError


class Copies:
    """All places of an auth server."""

    def __init__(
        self,
        wanted: Sequence[CopySettings],
        source: Source,
        backend: Backend,
        lease: Callable[[], AbstractAsyncContextManager[object]],
        host: str,
    ) -> None:
        """`host` is how this server is named to them. Raises `TeleportError` when something is not installed."""
        self._copiers = [
            Copier(
                one.name,
                place_of(one, host),
                source,
                backend,
                None if isinstance(one, StdoutCopy) else lease,
                types=one.types,
            )
            for one in wanted
        ]

    async def begin(self) -> None:
        """Before anything is taken in."""
        for copier in self._copiers:
            await copier.begin()

    def first_searched(self, wanted: CopySettings, own: Searched) -> FirstSearched:
        """Who searches `wanted`, which is one of the places, and `own` when that does not serve."""
        copier = next(one for one in self._copiers if one.name == wanted.name)
        keep = wanted.keep if isinstance(wanted, DynamoCopy) else None
        return FirstSearched(own, search_of(wanted), copier, keep=keep)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for copier in self._copiers:
                tasks.create_task(copier.run(), name=f"copies of audit events to {copier.name}")

    async def finish(self) -> None:
        for copier in self._copiers:
            await copier.finish()

    async def cursors(self) -> Mapping[str, Cursor]:
        """How far each place has got that gets everything."""
        return {copier.name: await copier.cursor() for copier in self._copiers if copier.is_for_all}

    @property
    def problem(self) -> str:
        """Why events do not arrive somewhere; empty when they arrive everywhere."""
        return "; ".join(f"{copier.name}: {copier.problem}" for copier in self._copiers if copier.problem)

    def failing(self) -> Mapping[str, float]:
        """For each place how many seconds events have not arrived there."""
        return {copier.name: copier.failing() for copier in self._copiers}


def place_of(settings: CopySettings, host: str) -> Place:
    """The place; `host` is how this server is named there. Raises `TeleportError` when something is not installed."""
    match settings:
        case StdoutCopy():
            from teleport.copies.stdout import StreamPlace

            return StreamPlace(1)
        case PostgresqlCopy():
            try:
                import asyncpg  # noqa: F401
            except ImportError:
                raise TeleportError(
                    "audit events are to go to PostgreSQL, but asyncpg is not installed",
                    hint="pip install 'teleport-access[postgresql]'",
                ) from None
            from teleport.copies.postgresql import PostgresqlPlace

            return PostgresqlPlace(settings.settings)
        case DynamoCopy():
            try:
                import aiobotocore.session  # noqa: F401
            except ImportError:
                raise TeleportError(
                    "audit events are to go to DynamoDB, but aiobotocore is not installed",
                    hint="pip install 'teleport-access[dynamodb]'",
                ) from None
            from teleport.copies.dynamodb import DynamoPlace

            return DynamoPlace(settings, SystemClock())
        case SyslogCopy():
            from teleport.copies.syslog import SyslogPlace

            return SyslogPlace(settings, host)
        case HttpsCopy():
            from teleport.copies.https import HttpsPlace

            return HttpsPlace(settings)


def search_of(settings: CopySettings) -> SearchedPlace:
    """Who finds events there, where `place_of` has been. Raises `TeleportError` for a place that cannot be searched."""
    match settings:
        case PostgresqlCopy():
            from teleport.copies.postgresql_search import PostgresqlSearch

            return PostgresqlSearch(settings.settings)
        case DynamoCopy():
            from teleport.copies.dynamodb_search import DynamoSearch

            return DynamoSearch(settings)
        case _:
            raise TeleportError(f"{settings.name} takes events and finds none", hint="put another place first")
