"""The servers of a database: a session is with the one that takes writes, and with the next when it goes away.

What a session is asked is bounded in time and never cancelled on the server: the session is cut off instead. (A
commit that waits for a standby and is cancelled says that it succeeded, although the standby has it not.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from teleport.backend.interface import BackendClosed
from teleport.backend.postgresql.refusals import Kind, explain, kind_of
from teleport.backend.postgresql.settings import PostgresqlSettings, Server, SslMode, mistake
from teleport.errors import BadRequest, TeleportError

WITHIN: Final = 15.0  # seconds that something is tried for
ATTEMPT: Final = 5.0  # seconds that one server is given to answer
LONG: Final = 60.0  # seconds for reading all there is
COMMITTING: Final = 10.0  # seconds that COMMIT is waited for: a standby may have to confirm it
PAUSE: Final = 0.05  # seconds between rounds at first, doubling
PAUSE_MOST: Final = 1.0
READERS: Final = 8  # sessions for reading at once
LEAST_VERSION: Final = 130000

_SETTINGS: Final = {
    "statement_timeout": "60s",
    "lock_timeout": "4s",
    # who holds the lock of all writes and is heard of no more keeps it no longer than this
    "idle_in_transaction_session_timeout": "5s",
    "default_transaction_isolation": "read committed",
    "client_encoding": "UTF8",
    "bytea_output": "hex",
    "jit": "off",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "5s",  # since 14
}
# of our end: seconds of silence, seconds between questions, how many of these; milliseconds until sent bytes are missed
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
_GREET: Final = """
    SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS standby,
           current_setting('server_encoding') AS encoding,
           current_setting('server_version_num')::int AS version,
           current_setting('synchronous_commit') AS durable
"""
_APPLY: Final = """
    SELECT set_config(name, wanted, false) FROM unnest($1::text[], $2::text[]) AS w (name, wanted)
    JOIN pg_settings USING (name)
"""
# Up to version 14 everybody may make functions in the schema `public`: whatever is called before the path is ours alone
# could be theirs, and would be run as us.
_NOTHING_OF_OTHERS: Final = "SELECT pg_catalog.set_config('search_path', '', false)"
_SEARCH: Final = "SELECT set_config('search_path', quote_ident($1), false)"

T = TypeVar("T")
log = logging.getLogger(__name__)


class Refused(Exception):
    """What a server, or the way to it, answered. Never leaves this package."""

    def __init__(self, kind: Kind, details: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.details = details


class Session:
    """One connection. Whatever goes wrong ends it, and is raised as `Refused`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, query: str, *values: object, within: float = ATTEMPT) -> list[Any]:
        """What one statement finds."""
        found: list[Any] = await self._bounded(self._connection.fetch(query, *values), within)
        return found

    async def row(self, query: str, *values: object, within: float = ATTEMPT) -> Any:
        return await self._bounded(self._connection.fetchrow(query, *values), within)

    async def run(self, script: str, *, within: float = ATTEMPT) -> str:
        """Statements without values; what the server says about the last of them."""
        said: str = await self._bounded(self._connection.execute(script), within)
        return said

    async def listen(self, channel: str, heard: Callable[[], None]) -> None:
        """`heard` is called for each notice on `channel`, and when the session ends."""
        self._connection.add_termination_listener(lambda *about: heard())
        await self._bounded(self._connection.add_listener(channel, lambda *about: heard()), ATTEMPT)

    @property
    def ended(self) -> bool:
        return bool(self._connection.is_closed())

    def cut(self) -> None:
        """End it at once, whatever it is doing."""
        self._connection.terminate()

    async def close(self) -> None:
        """End it as the server likes it: what was not committed is given up."""
        if not self.ended:
            try:
                await self._bounded(self._connection.close(), 1.0)
            except Refused as error:
                log.debug("a session did not end well error=%s", error.details)

    async def _bounded(self, call: Coroutine[Any, Any, Any], within: float) -> Any:
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait((task,), timeout=within)
        finally:
            late = not task.done()
            if late:
                self.cut()
                task.add_done_callback(_forget)
                task.cancel()
        if late:
            raise Refused(Kind.AGAIN, "no answer in time")
        try:
            return task.result()
        except Exception as error:
            self.cut()
            raise refused(error) from error


class Servers:
    """Open from construction until `close`; belongs to the running loop."""

    def __init__(self, settings: PostgresqlSettings, *, within: float = WITHIN) -> None:
        """Raises `TeleportError` when the settings do not go together or a file cannot be read."""
        if wrong := mistake(settings):
            raise BadRequest(
                f"teleport.storage: {wrong}", hint="docs/operations.md shows what conn_string may be and what it means"
            )
        self._settings = settings
        self.within = within
        self._tls = None if settings.sslmode is SslMode.DISABLE else _context(settings)
        if settings.password_file is not None:
            _read_password(settings.password_file)
        self._current = 0
        self._free: list[Session] = []
        self._places = asyncio.Semaphore(READERS)
        self._closed = False

    @property
    def where(self) -> str:
        return self._settings.where

    @property
    def schema(self) -> str:
        return self._settings.schema

    @property
    def user(self) -> str:
        return self._settings.user

    async def session(self) -> Session:
        """With a server that takes writes. Raises `Refused` when none of them does now."""
        failure: Refused | None = None
        for _ in self._settings.servers:
            if self._closed:
                raise BackendClosed("the storage is not open")
            at = self._current
            try:
                return await self._greet(self._settings.servers[at])
            except Refused as error:
                if failure is None or failure.kind is Kind.AGAIN:  # what a server says tells more than its absence
                    failure = error
                if self._current == at:
                    self._current = (at + 1) % len(self._settings.servers)
        assert failure is not None
        raise failure

    async def lasting(self, work: Callable[[], Awaitable[T]], doing: str) -> T:
        """The result of `work`, begun again while the servers are away, and it raises `Refused` for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.within
        pause = PAUSE
        while True:
            try:
                return await work()
            except Refused as error:
                if error.kind not in (Kind.AGAIN, Kind.STANDBY) or loop.time() >= deadline:
                    raise self.explain(doing, error) from error
            if self._closed:
                raise BackendClosed("the storage is not open")
            await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, deadline - loop.time())))  # noqa: S311
            pause = min(2 * pause, PAUSE_MOST)

    async def read(self, work: Callable[[Session], Awaitable[T]], doing: str = "read") -> T:
        """What `work` makes of a session, perhaps on another try of another session."""

        async def once() -> T:
            async with self._reader() as session:
                return await work(session)

        return await self.lasting(once, doing)

    @asynccontextmanager
    async def _reader(self) -> AsyncGenerator[Session, None]:
        async with self._places:
            while self._free and self._free[-1].ended:
                self._free.pop()
            session = self._free.pop() if self._free else await self.session()
            try:
                yield session
            except BaseException as error:
                session.cut()
                if isinstance(error, Refused) and error.kind is Kind.AGAIN:  # then most likely the others are gone, too
                    free, self._free = self._free, []
                    for other in free:
                        other.cut()
                raise
            if self._closed:
                session.cut()
            else:
                self._free.append(session)

    def explain(self, doing: str, error: Refused) -> TeleportError:
        settings = self._settings
        return explain(doing, self.where, error.kind, error.details, user=settings.user, schema=settings.schema)

    async def close(self) -> None:
        self._closed = True
        free, self._free = self._free, []
        await asyncio.gather(*(session.close() for session in free))

    async def _greet(self, server: Server) -> Session:
        settings = self._settings
        password = settings.password
        if settings.password_file is not None:
            password = _read_password(settings.password_file)
        try:
            connection = await asyncpg.connect(
                host=server.host,
                port=server.port,
                user=settings.user,
                password=password,  # also when it is empty: neither variables nor files of libpq's are asked
                database=settings.database,
                ssl=self._tls or False,
                direct_tls=False,
                target_session_attrs="any",
                server_settings={"application_name": "teleport"},
                timeout=ATTEMPT,
            )
        except Exception as error:
            raise refused(error, str(server)) from error
        if not server.host.startswith("/"):
            _keep_alive(connection)
        session = Session(connection)
        try:
            await session.row(_NOTHING_OF_OTHERS)
            about = await session.row(_GREET)
            if about["standby"]:
                raise Refused(Kind.STANDBY, str(server))
            if about["encoding"] != "UTF8":
                raise Refused(
                    Kind.REFUSED, f"the database's encoding is {about['encoding']}, and only UTF8 can hold every key"
                )
            if about["version"] < LEAST_VERSION:
                raise Refused(Kind.REFUSED, f"{server} is PostgreSQL {about['version'] // 10000}; 13 is the least")
            wanted = dict(_SETTINGS)
            if about["durable"] == "off":
                wanted["synchronous_commit"] = "on"  # a write that returned is on disk, whatever the server's habit
            await session.rows(_APPLY, list(wanted), list(wanted.values()))
            await session.row(_SEARCH, settings.schema)
        except BaseException:
            session.cut()
            raise
        return session


def refused(error: BaseException, where: str = "") -> Refused:
    """What an exception of asyncpg's, or of the way to the server, means."""
    at = f"{where}: " if where else ""
    if isinstance(error, asyncpg.DataError):  # it may quote what could not be sent
        return Refused(Kind.REFUSED, f"{at}a value that the database cannot hold")
    if isinstance(error, asyncpg.PostgresError):
        state = str(getattr(error, "sqlstate", "") or "")
        return Refused(kind_of(state), f"{at}{_first_line(error)} ({state})")
    if isinstance(error, ssl.SSLError):
        verify = getattr(error, "verify_message", "")
        return Refused(Kind.TLS, f"{at}{verify or error.reason or _first_line(error)}")
    if isinstance(error, ConnectionError) and "SSL" in str(error):
        return Refused(Kind.TLS, f"{at}the server speaks no TLS")
    if isinstance(error, TimeoutError):
        return Refused(Kind.AGAIN, f"{at}no answer in time")
    if isinstance(error, OSError):
        return Refused(Kind.AGAIN, f"{at}{error.strerror or _first_line(error)}")
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Refused(Kind.AGAIN, f"{at}{_first_line(error)}")
    return Refused(Kind.REFUSED, f"{at}{type(error).__name__}")


def _keep_alive(connection: Any) -> None:
    """Let the kernel end it when the network has lost the other end, also while much is waited for."""
    its_socket = connection._transport.get_extra_info("socket")
    its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:  # Linux has them all
            its_socket.setsockopt(socket.IPPROTO_TCP, option, value)


def _forget(task: asyncio.Task[Any] | asyncio.Future[Any]) -> None:
    """Nobody waits for it any more; what it failed with was told already."""
    if not task.cancelled():
        task.exception()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _read_password(path: Path) -> str:
    try:
        return path.read_bytes().decode().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TeleportError(
            f"cannot read password_file of teleport.storage, {path}: {getattr(error, 'strerror', 'it is not text')}",
            hint=f"check that it is there and that the user of this process may read it: ls -l {path}",
        ) from error


def _context(settings: PostgresqlSettings) -> ssl.SSLContext:
    """What TLS is spoken with. The files are read once: another certificate needs a restart."""
    for name, path in (
        ("sslrootcert", settings.ca_file),
        ("sslcert", settings.cert_file),
        ("sslkey", settings.key_file),
    ):
        if path is not None and not os.access(path, os.R_OK):
            raise TeleportError(
                f"cannot read {name} of conn_string of teleport.storage, {path}",
                hint=f"check that it is there and that the user of this process may read it: ls -l {path}",
            )
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = settings.sslmode is SslMode.VERIFY_FULL
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ValueError) as error:
        raise TeleportError(
            f"cannot use sslrootcert, sslcert and sslkey of teleport.storage: {_first_line(error)}",
            hint="PEM files, the key of that certificate and without a passphrase: openssl x509 -in FILE -text",
        ) from error
    return context
