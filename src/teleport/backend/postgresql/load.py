"""The engine, loaded when it is asked for: nobody else needs asyncpg, and it may not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.backend.postgresql.engine import PostgresqlBackend


def postgresql_backend() -> type[PostgresqlBackend]:
    """The class. Raises `TeleportError` when what it needs is not installed."""
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        raise TeleportError(
            "the storage is configured to be in PostgreSQL, but asyncpg is not installed",
            hint="pip install 'teleport-access[postgresql]'",
        ) from None
    from teleport.backend.postgresql.engine import PostgresqlBackend

    return PostgresqlBackend
