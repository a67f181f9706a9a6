"""The servers of an etcd cluster: calls go to one of them, and to the next when it does not answer.

Each server has a channel of its own, so that its certificate is checked against its own name. A call is repeated until
its deadline, so every call that changes something must be one that does nothing the second time (`slots` says how).
With a user, a token is asked for and sent with each call; when etcd forgot it (after five minutes without use, or a
restart) another is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from teleport.backend.etcd.refusals import Kind, explain, kind_of
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.interface import BackendClosed
from teleport.errors import BadRequest, TeleportError

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is told by exceptions; its own log lines are not ours

import grpc
import grpc.aio

from teleport.backend.etcd import messages as m

WITHIN: Final = 15.0  # seconds that a call is tried for
ATTEMPT: Final = 4.0  # seconds that one server is given; etcd itself gives up after seven
PAUSE: Final = 0.05  # seconds between rounds at first, doubling
PAUSE_MOST: Final = 1.0
LOGINS: Final = 3  # for one call
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),  # etcd takes offence below five seconds
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # certificates of their own for each channel, also when two look alike
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    request: Any
    response: Any


RANGE: Final = Method("/etcdserverpb.KV/Range", m.RangeRequest, m.RangeResponse)
TXN: Final = Method("/etcdserverpb.KV/Txn", m.TxnRequest, m.TxnResponse)
COMPACT: Final = Method("/etcdserverpb.KV/Compact", m.CompactionRequest, m.CompactionResponse)
LEASE_GRANT: Final = Method("/etcdserverpb.Lease/LeaseGrant", m.LeaseGrantRequest, m.LeaseGrantResponse)
WATCH: Final = Method("/etcdserverpb.Watch/Watch", m.WatchRequest, m.WatchResponse)
AUTHENTICATE: Final = Method("/etcdserverpb.Auth/Authenticate", m.AuthenticateRequest, m.AuthenticateResponse)


class Refused(Exception):
    """etcd's answer, where the caller knows what to do about that kind. Never leaves this package."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(slots=True)
class Answer:
    """`unsure`: an attempt before the one that was answered may have been carried out as well, or may yet be."""

    message: m.Message
    unsure: bool = False


class Peers:
    """Open from construction until `close`; belongs to the running loop."""

    def __init__(self, settings: EtcdSettings, *, within: float = WITHIN) -> None:
        """Raises `TeleportError` when the settings do not go together or a file cannot be read."""
        check(settings)
        self._settings = settings
        self._within = within
        stored = b"" if settings.password_file is None else _read(settings.password_file, "password_file")
        self._password = stored.decode().strip("\r\n")
        credentials = _credentials(settings)
        options = (*_OPTIONS, ("grpc.max_send_message_length", settings.max_message))
        self._channels = [_channel(url, credentials, options) for url in settings.peers]
        self._count = len(self._channels)
        self._current = random.randrange(self._count)  # noqa: S311 (spreads the load)
        self._token = ""
        self._login = asyncio.Lock()
        self._closed = False

    @property
    def where(self) -> str:
        """The servers, for messages."""
        return ", ".join(self._settings.peers)

    async def call(self, method: Method, request: m.Message, doing: str, *, told: Sequence[Kind] = ()) -> Answer:
        """The answer of whichever server gives one.

        Kinds in `told` are raised as `Refused`, others as `TeleportError`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._within
        pause, logins, failures, unsure = PAUSE, 0, 0, False
        while True:
            at = self._current
            token = await self._token_now(doing)
            try:
                message = await self._once(at, method, request, token, min(ATTEMPT, max(0.1, deadline - loop.time())))
                return Answer(message, unsure)
            except grpc.aio.AioRpcError as error:
                kind, details = _read_error(error)
            if kind in told:
                raise Refused(kind)
            if kind is Kind.TOKEN and logins < LOGINS:
                logins += 1
                self._forget(token)
                continue
            if kind not in (Kind.AGAIN, Kind.TLS, Kind.TOKEN):
                raise self._explain(doing, kind, details)
            unsure = unsure or kind is Kind.AGAIN
            failures += 1
            self._next(at)
            everywhere = failures % self._count == 0
            if loop.time() >= deadline or (kind is Kind.TLS and everywhere):
                raise self._explain(doing, kind, details)
            if everywhere:
                await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, deadline - loop.time())))  # noqa: S311
                pause = min(2 * pause, PAUSE_MOST)

    async def open_watch(self, request: m.Message) -> Watching:
        """A stream of what is asked for, whose first answer was read. Raises `TeleportError`: then try again."""
        at = self._current
        token = await self._token_now("watch")
        # without a leader a server would be silent for ever; so it says so
        metadata = (("hasleader", "true"), *_token_metadata(token))
        call = self._stub(at, WATCH, "stream_stream")(metadata=metadata)
        watching = Watching(self, at, token, call)
        try:
            async with asyncio.timeout(ATTEMPT):
                await watching.send(m.WatchRequest(create_request=request))
                first = await watching.read()
        except BaseException as error:
            watching.close()
            if isinstance(error, TimeoutError):
                self._next(at)
                raise self._explain("watch", Kind.AGAIN, "no answer in time") from error
            raise
        watching.first = first
        return watching

    async def close(self) -> None:
        """Keeps no channel: the threads of grpc end with the last one, however long this object is referred to."""
        self._closed = True
        channels, self._channels = self._channels, []
        await asyncio.gather(*(channel.close() for channel in channels))

    # What is not for callers

    def failed(self, error: grpc.aio.AioRpcError, at: int, token: str) -> TeleportError:
        """A stream broke: what to raise, and where to go next."""
        kind, details = _read_error(error)
        if kind is Kind.TOKEN:
            self._forget(token)
            kind = Kind.AGAIN
        else:
            self._next(at)
        return self._explain("watch", kind, details)

    def closed(self) -> BackendClosed | None:
        """When a call was cut off: because all was closed, or (None) because its task was cancelled."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            return BackendClosed("the storage is not open")
        return None

    def _stub(self, at: int, method: Method, shape: str) -> Any:
        if self._closed:
            raise BackendClosed("the storage is not open")
        return getattr(self._channels[at], shape)(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    async def _once(self, at: int, method: Method, request: m.Message, token: str, timeout: float) -> m.Message:
        try:
            return await self._stub(at, method, "unary_unary")(
                request, timeout=timeout, metadata=_token_metadata(token)
            )
        except asyncio.CancelledError:
            if (closed := self.closed()) is not None:
                raise closed from None
            raise

    async def _token_now(self, doing: str) -> str:
        """The token to send, asked for when there is none; empty when the cluster asks nobody for one."""
        if self._token or not self._settings.username:
            return self._token
        async with self._login:
            deadline = asyncio.get_running_loop().time() + self._within
            request = m.AuthenticateRequest(name=self._settings.username, password=self._password)
            while not self._token:
                at = self._current
                try:
                    answer = await self._once(at, AUTHENTICATE, request, "", ATTEMPT)
                    self._token = str(answer.token)
                    break
                except grpc.aio.AioRpcError as error:
                    kind, details = _read_error(error)
                if kind is Kind.LOGIN_OFF:
                    log.warning("etcd asks nobody for a password: whoever reaches it reads and writes everything")
                    return ""
                self._next(at)
                if kind is not Kind.AGAIN or asyncio.get_running_loop().time() >= deadline:
                    raise self._explain(doing, kind, details)
                await asyncio.sleep(PAUSE * self._count)
        return self._token

    def _forget(self, token: str) -> None:
        if self._token == token:
            self._token = ""

    def _next(self, at: int) -> None:
        """Leave server `at`, unless somebody has already."""
        if self._current == at:
            self._current = (at + 1) % self._count

    def _explain(self, doing: str, kind: Kind, details: str) -> TeleportError:
        settings = self._settings
        return explain(doing, self.where, kind, details, prefix=settings.prefix, username=settings.username)


class Watching:
    """One open stream. Its errors are `TeleportError`s."""

    def __init__(self, peers: Peers, at: int, token: str, call: Any) -> None:
        self._peers = peers
        self._at = at
        self._token = token
        self._call = call
        self.first: m.Message | None = None

    async def send(self, request: m.Message) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._peers.failed(error, self._at, self._token) from error
        except asyncio.InvalidStateError as error:  # it ended meanwhile; reading says how
            await self.read()
            raise self._peers._explain("watch", Kind.AGAIN, "the stream ended") from error
        except asyncio.CancelledError:
            if (closed := self._peers.closed()) is not None:
                raise closed from None
            raise

    async def read(self) -> m.Message:
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._peers.failed(error, self._at, self._token) from error
        except asyncio.CancelledError:
            if (closed := self._peers.closed()) is not None:
                raise closed from None
            raise
        if answer is grpc.aio.EOF:
            raise self._peers._explain("watch", Kind.AGAIN, "the server ended the stream")
        return answer

    def canceled(self, reason: str) -> TeleportError:
        """The server does not go on with the watch: what to raise."""
        kind = kind_of("UNAVAILABLE", reason)
        if kind is Kind.TOKEN:
            self._peers._forget(self._token)
            kind = Kind.AGAIN
        return self._peers._explain("watch", kind, reason or "the server ended the watch")

    def close(self) -> None:
        self._call.cancel()


def _token_metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("token", token),) if token else ()


def _read_error(error: grpc.aio.AioRpcError) -> tuple[Kind, str]:
    details = (error.details() or error.code().name).strip()
    return kind_of(error.code().name, details), details


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TeleportError(
            f"cannot read {key} of teleport.storage, {path}: {error.strerror}",
            hint=f"check that it is there and that the user of this process may read it: ls -l {path}",
        ) from error


def _credentials(settings: EtcdSettings) -> Any:
    """What https is spoken with. The files are read once: another certificate needs a restart."""
    files = [
        None if path is None else _read(path, key)
        for path, key in (
            (settings.ca_file, "tls_ca_file"),
            (settings.key_file, "tls_key_file"),
            (settings.cert_file, "tls_cert_file"),
        )
    ]
    return grpc.ssl_channel_credentials(*files)


def _channel(url: str, credentials: Any, options: Sequence[tuple[str, int]]) -> Any:
    parts = urlsplit(url)
    name = parts.hostname or ""
    target = f"{f'[{name}]' if ':' in name else name}:{parts.port or 2379}"
    if parts.scheme == "https":
        return grpc.aio.secure_channel(target, credentials, options=options)
    return grpc.aio.insecure_channel(target, options=options)


def check(settings: EtcdSettings) -> None:
    """Raises `BadRequest` where servers would be spoken to in a way that nobody asked for."""
    for url in settings.peers:
        scheme = urlsplit(url).scheme
        if scheme == "https" and settings.insecure:
            raise BadRequest(
                f"insecure of teleport.storage goes with http:// only: {url} is checked like every https server",
                hint="name the servers' CA in tls_ca_file, and leave insecure out",
            )
        if scheme == "http" and not settings.insecure:
            raise BadRequest(
                f"etcd at {url} would be spoken to without TLS: all could read the keys of the cluster's authorities",
                hint="use https:// in peers, or say insecure: true where nobody else is on the network",
            )
        if scheme not in ("http", "https"):
            raise BadRequest(f"{url} is not the URL of an etcd server", hint="peers are such as https://etcd-1:2379")
