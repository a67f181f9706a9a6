"""A real auth service for tests: storage, audit store, TLS listener, and callers of every sort with real certificates.

    async with running_auth(tmp_path) as auth:
        admin = auth.client(await auth.admin())
        await auth.in_thread(lambda: admin.call(routes.STATUS, m.Empty()))

Certificates are checked by OpenSSL against the machine's time, so a `FakeClock` starts near it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.api.routes import Route
from teleport.api.sync_client import SyncAuthClient, direct
from teleport.audit.emitter import Emitter
from teleport.auth.authorities.keys import AuthorityKeys
from teleport.auth.config import AuthConfig
from teleport.auth.factors import passwords
from teleport.auth.service import AuthService
from teleport.backend.interface import Backend, PutOp
from teleport.backend.memory import MemoryBackend
from teleport.backend.sqlite import SqliteBackend
from teleport.clock import Clock
from teleport.copies.settings import CopySettings
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.x509cert import auth_server_name
from teleport.recording.s3.settings import S3Settings
from teleport.resources.cluster import AuthPreference, AuthPreferenceSpec, SecondFactor, Webauthn
from teleport.resources.codec import to_json
from teleport.resources.token import Token
from teleport.store import records
from teleport.store.records import UserSecret
from teleport.testing.clock import FakeClock
from teleport.transport.tls import MutualServer, cluster_client_context

T = TypeVar("T")
CLUSTER = "example.com"
PASSWORD = "correct horse battery"


def present_clock() -> FakeClock:
    """A clock that stands still half an hour before the machine's time: what is issued after it was moved on by less
    is valid for OpenSSL, too."""
    return FakeClock(datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30))


@dataclass(frozen=True, slots=True)
class Credentials:
    """A caller: files of a certificate and its key; none for an anonymous one."""

    cert: Path | None = None
    key: Path | None = None
    host_id: str = ""


ANONYMOUS = Credentials()


@dataclass(slots=True)
class RunningAuth:
    """A running auth service. Use `running_auth`."""

    service: AuthService
    backend: Backend
    clock: Clock
    directory: Path
    address: tuple[str, int]
    host_id: str
    tls_cas: list[str]
    ssh_cas: list[str]
    server_context: MutualServer
    _contexts: dict[Credentials, ssl.SSLContext] = field(default_factory=dict)
    _admin: Credentials | None = None

    async def follow_rotation(self) -> None:
        """What a daemon does when an authority goes into another phase: certificates of its own from the keys that
        sign now, for the listener and for the administrator; and callers trust what is trusted now."""
        own = await self.host(SystemRole.AUTH, host_id=self.host_id, name="auth", names=["127.0.0.1"])
        assert own.cert is not None
        assert own.key is not None
        self.server_context.load_cert_chain(own.cert, own.key)
        host = await self.service.state.authority("host")
        self.tls_cas, self.ssh_cas = list(host.trusted_tls_certs), list(host.trusted_ssh_keys)
        self._contexts.clear()
        self._admin = None

    @property
    def cluster(self) -> str:
        """Its name."""
        return self.service.state.cluster

    # callers

    async def host(
        self, role: SystemRole, *, host_id: str = "", name: str = "host", names: Sequence[str] = ()
    ) -> Credentials:
        """A host with a certificate of `role`, as if it had joined."""
        host_id = host_id or str(uuid.uuid4())
        key = generate_p256()
        found = await self.service.local_host(
            host_id, name, role, names, key.public.line(), key.public.spki_pem().decode()
        )
        return self.keep(key, found.tls_cert, host_id)

    async def admin(self) -> Credentials:
        """The administrator of the auth host."""
        if self._admin is None:
            self._admin = await self.host(SystemRole.ADMIN, host_id=self.host_id, name="auth")
        return self._admin

    async def user(
        self, name: str, roles: Sequence[str], *, traits: Mapping[str, list[str]] | None = None, ttl: float = 3600
    ) -> Credentials:
        """A user, made when there is none, with a certificate."""
        with contextlib.suppress(Exception):
            await self.call(
                await self.admin(),
                routes.ADD_USER,
                m.AddUserRequest(name=name, roles=list(roles), traits=dict(traits or {})),
            )
        key = generate_p256()
        certs = await self.call(
            await self.admin(), routes.SIGN_USER, m.SignUserRequest(name=name, public_key=key.public.line(), ttl=ttl)
        )
        return self.keep(key, certs.tls_cert)

    def keep(self, key: PrivateKey, tls_cert: str, host_id: str = "") -> Credentials:
        """Writes a certificate and its key where TLS contexts find them."""
        folder = self.directory / "callers" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        (folder / "tls.crt").write_text(tls_cert)
        (folder / "tls.key").write_bytes(key.pkcs8_pem().reveal())
        return Credentials(folder / "tls.crt", folder / "tls.key", host_id)

    # calling

    def context(self, who: Credentials) -> ssl.SSLContext:
        """TLS for a caller."""
        if who not in self._contexts:
            self._contexts[who] = cluster_client_context(self.tls_cas, who.cert, who.key)
        return self._contexts[who]

    def client(self, who: Credentials, *, headers: Mapping[str, str] | None = None) -> SyncAuthClient:
        """A blocking client, for a thread."""
        connect = direct(*self.address, self.context(who), auth_server_name(self.cluster))
        return SyncAuthClient(connect, f"{self.address[0]}:{self.address[1]}", headers=headers)

    def async_client(self, who: Credentials) -> AuthClient:
        """A client as services have it."""
        return AuthClient([self.address], lambda: self.context(who), auth_server_name(self.cluster))

    async def call(
        self, who: Credentials, route: Route[Any, Any], request: m.Request, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """One call over a connection of its own; raises what auth answers with."""

        def work() -> object:
            with self.client(who, headers=headers) as client:
                return client.call(route, request)

        return await asyncio.to_thread(work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Blocking work beside the service."""
        return await asyncio.to_thread(work)

    # people

    async def person(
        self,
        name: str,
        roles: Sequence[str] = ("access",),
        *,
        password: str = PASSWORD,
        logins: Sequence[str] = ("root",),
    ) -> str:
        """A user who followed the invitation; returns the secret of the second factor."""
        admin = await self.admin()
        link = await self.call(
            admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=list(roles), traits={"logins": list(logins)})
        )
        proxy = await self.host(SystemRole.PROXY, name="proxy")
        info = await self.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        await self.call(
            proxy,
            routes.FINISH_USER_TOKEN,
            m.FinishUserTokenRequest(token=link.token, password=password, otp_token=self.code(info.totp_secret)),
        )
        return str(info.totp_secret)

    async def set_password(self, name: str, password: str = PASSWORD) -> None:
        """A password for a user that has none, and no second factor."""
        secret = UserSecret(password_hash=passwords.hash_password(password))
        await self.service.state.commit([PutOp(records.USER_SECRETS + name, secret.encode())], events=[])

    async def set_second_factor(self, setting: str, *, passwordless: bool = True, **webauthn: Any) -> None:
        """The cluster's setting, as if the configuration said so; hardware keys are for `localhost`."""
        spec = AuthPreferenceSpec(
            second_factor=SecondFactor(setting),
            passwordless=passwordless,
            webauthn=Webauthn(**{"rp_id": "localhost", **webauthn}),
        )
        key = records.CLUSTER + "cluster-auth-preference"
        await self.service.state.commit([PutOp(key, to_json(AuthPreference(spec=spec)))], events=[])

    def code(self, secret: str, *, periods: int = 0) -> str:
        """The code of now, or of some periods later or earlier."""
        return passwords.totp_code(secret, int(self.clock.now().timestamp()) // passwords.TOTP_PERIOD + periods)

    # evidence

    async def events(
        self,
        *types: str,
        wait_for: int = 1,
        seconds: float = 10,
        where: Callable[[dict[str, Any]], bool] = lambda event: True,
    ) -> list[dict[str, Any]]:
        """The audit events of some types for which `where` is true, oldest first, once there are `wait_for` of them."""
        admin = await self.admin()
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            page = await self.call(
                admin, routes.SEARCH_EVENTS, m.SearchEventsRequest(types=list(types), oldest_first=True, limit=10_000)
            )
            found = [event for event in map(json.loads, page.lines) if where(event)]
            if len(found) >= wait_for:
                return found
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{len(found)} events of {types}, wanted {wait_for}")
            await asyncio.sleep(0.02)

    # tctl

    async def local_config(self) -> Path:
        """What tctl on the auth host finds: a configuration file and the administrator's identity in `data_dir`."""
        admin = await self.admin()
        assert admin.cert is not None
        assert admin.key is not None
        proc = self.directory / "data" / "proc"
        (proc / "admin").mkdir(parents=True, exist_ok=True)
        (proc / "admin" / "tls.crt").write_bytes(admin.cert.read_bytes())
        (proc / "admin" / "tls.key").write_bytes(admin.key.read_bytes())
        (proc / "admin" / "tls.key").chmod(0o600)
        cas = {"cluster": self.cluster, "tls_ca_certs": self.tls_cas, "ssh_ca_keys": self.ssh_cas}
        (proc / "cas.json").write_bytes(msgspec.json.encode(cas))
        path = self.directory / "teleport.yaml"
        path.write_text(
            f"teleport:\n  data_dir: {self.directory / 'data'}\n  auth_servers: [{self.address[0]}:{self.address[1]}]\n"
        )
        return path


@asynccontextmanager
async def running_auth(
    directory: Path,
    *,
    clock: Clock | None = None,
    sqlite: bool = False,
    host_id: str = "",
    static_tokens: Sequence[Token] = (),
    epoch: int = 1,
    keys: AuthorityKeys | None = None,
    cluster: str = CLUSTER,
    storage: Backend | None = None,
    shared: Path | None = None,
    copies: Sequence[CopySettings] = (),
    s3: S3Settings | None = None,
    searched: CopySettings | None = None,
) -> AsyncIterator[RunningAuth]:
    """A first start in `directory` (a later one with the same directory, `sqlite` and another epoch).

    `storage` is one that the caller opened, and closes afterwards; auth servers that share it share their records in
    the folder `shared`. Recordings go to `s3`.
    """
    clock = clock or present_clock()
    host_id = host_id or str(uuid.uuid4())
    backend: Backend
    if storage is not None:
        backend = storage
    else:
        backend = own_backend = SqliteBackend(directory / "backend", clock) if sqlite else MemoryBackend(clock)
        await own_backend.open()
    log = directory / "data" / "log"
    log.mkdir(parents=True, exist_ok=True)
    emitters: list[Emitter] = []

    def open_emitter(name: str) -> Emitter:
        emitters.append(Emitter.open(log / "spool", host_id, epoch, clock, cluster=name))
        return emitters[0]

    async with contextlib.AsyncExitStack() as stack:
        if storage is None:
            stack.push_async_callback(backend.close)
        kept = log if shared is None else shared
        config = AuthConfig(
            cluster,
            host_id,
            f"auth-{host_id[:8]}" if shared is not None else "auth",
            kept,
            kept / "records",
            static_tokens=tuple(static_tokens),
            copies=tuple(copies),
            recordings_s3=s3,
            searched=searched,
            shared_storage=shared is not None,
        )
        service = await AuthService.open(config, backend, clock, open_emitter, keys=keys)
        stack.callback(emitters[0].close)
        key = generate_p256()
        try:
            own = await service.local_host(
                host_id,
                config.node_name,
                SystemRole.AUTH,
                ["127.0.0.1"],
                key.public.line(),
                key.public.spki_pem().decode(),
            )
        except TeleportError:
            service.abandon()
            raise
        (directory / "auth.crt").write_text(own.tls_cert)
        (directory / "auth.key").write_bytes(key.pkcs8_pem().reveal())
        context = MutualServer(directory / "auth.crt", directory / "auth.key", await service.client_authorities())
        listener = socket.create_server(("127.0.0.1", 0))
        ready = asyncio.Event()
        serving = asyncio.create_task(service.run(listener, context, ready.set), name="auth under test")
        waiting = asyncio.create_task(ready.wait(), name="auth under test starts")
        try:
            await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            yield RunningAuth(
                service,
                backend,
                clock,
                directory,
                listener.getsockname()[:2],
                host_id,
                own.tls_ca_certs,
                own.ssh_ca_keys,
                context,
            )
        finally:
            waiting.cancel()
            await _stop(serving)
            listener.close()


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancels until it ends: in Python 3.11 `asyncio.wait_for`, which the outbox waits with, can lose a cancellation,
    and a group of tasks cancels its own only once."""
    task.cancel()
    while not task.done():
        await asyncio.wait([task], timeout=1)
        for other in asyncio.all_tasks() if not task.done() else ():
            if other.get_name() == "audit outbox":
                other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
