"""Engines over a real PostgreSQL server, for the tests of this folder; each in a schema of its own unless named."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from secrets import token_hex

from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.servers import WITHIN
from teleport.backend.postgresql.settings import PostgresqlSettings, parse
from teleport.clock import SystemClock
from teleport.testing.postgresql import PostgresqlServer


def settings(server: PostgresqlServer, schema: str = "", *, port: int = 0) -> PostgresqlSettings:
    return replace(parse(server.url(port=port)), schema=schema or f"t_{token_hex(8)}")


def engine(
    server: PostgresqlServer, schema: str = "", *, port: int = 0, within: float = WITHIN, log_keep: int = 50_000
) -> PostgresqlBackend:
    return PostgresqlBackend(
        settings(server, schema, port=port), SystemClock(), sweep_every=None, within=within, log_keep=log_keep
    )


async def sql(server: PostgresqlServer, *statements: str) -> str:
    return await asyncio.to_thread(server.sql, *statements)
