"""Auth as this daemon runs it: from the configuration to a service with its storage, identities and TLS context."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teleport.api import messages as m
from teleport.audit.emitter import Emitter
from teleport.audit.events import AuthFailed, Event
from teleport.audit.retention import Retention
from teleport.auth.authorities.keys import AuthorityKeys, StoredKeys
from teleport.auth.authorities.trusting import whenever_authorities_change
from teleport.auth.config import AuthConfig
from teleport.auth.service import AuthService
from teleport.backend.measured import MeasuredBackend
from teleport.backend.moving import refuse_unfinished
from teleport.clock import Clock
from teleport.daemon import credentials
from teleport.daemon.cluster_settings import settings_of
from teleport.daemon.config.values import AuthConfig as AuthSettings
from teleport.daemon.config.values import Config, KeyToken
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.identities import names_of
from teleport.daemon.storages import engine_of
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.resources.codec import Resource
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, TokenRole
from teleport.resources.values import HostPort
from teleport.transport.balancers import Address, Balancers, Headers
from teleport.transport.limits import Heard
from teleport.transport.tls import MutualServer

if TYPE_CHECKING:
    from teleport.backend.dynamodb.engine import DynamoBackend
    from teleport.backend.etcd.engine import EtcdBackend
    from teleport.backend.postgresql.engine import PostgresqlBackend
    from teleport.backend.sqlite import SqliteBackend

log = logging.getLogger(__name__)

MAX_BOOTSTRAP: Final = 64 * 1024 * 1024  # bytes
AT_ONCE: Final = 100  # refused connections that wait to be put on record


def authority_keys(token: KeyToken | None) -> AuthorityKeys:
    """Where private keys of authorities are made and found. Raises `TeleportError` for a token that cannot be used."""
    if token is None:
        return StoredKeys()
    from teleport.auth.authorities.token_keys import TokenKeys, TokenSettings

    pin = token.pin
    if token.pin_path is not None:
        try:
            pin = token.pin_path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TeleportError(
                f"the file of the token's PIN {token.pin_path} cannot be read: {error}",
                hint="auth_service.ca_key_params.pkcs11.pin_path names a file that the daemon's user may read",
            ) from None
    return TokenKeys(TokenSettings(token.module, token.label, token.slot, pin))


def read_bootstrap(path: Path) -> list[Resource]:
    """The resources in the file of `--bootstrap`. Raises `TeleportError` with everything that is wrong with it."""
    from teleport.resources.parse import parse_resources

    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                log.warning("%s may be read by others, and holds what proves the cluster: chmod 600 %s", path, path)
            content = file.read(MAX_BOOTSTRAP + 1)
    except OSError as error:
        raise TeleportError(
            f"the file of --bootstrap {path} cannot be read: {error.strerror}",
            hint="give the path of a file that the daemon's user may read",
        ) from None
    if len(content) > MAX_BOOTSTRAP:
        raise TeleportError(
            f"the file of --bootstrap {path} is larger than {MAX_BOOTSTRAP} bytes",
            hint="use tctl backup create and tctl backup restore",
        )
    return parse_resources(content, str(path))


class Refused:
    """Connections to the auth API that were refused before they were any: in the log, and on record."""

    def __init__(self, emitter: Emitter, host: Host, hostname: str) -> None:
        self._emitter, self._host, self._hostname = emitter, host, hostname
        self._heard = Heard(rate=1.0, burst=20.0)
        self._events: asyncio.Queue[Event] = asyncio.Queue(AT_ONCE)

    def headers(self, settings: AuthSettings) -> Headers:
        """What balancers in front of the auth API say of who comes."""
        return Headers(Balancers.of(settings.balancers, "auth_service.proxy_protocol_from"), self._told)

    def _told(self, peer: Address, why: str) -> None:
        told = self._heard.told(why, asyncio.get_running_loop().time())
        if told is None or self._events.full():
            return
        log.warning("auth API: connection refused peer=%s: %s", HostPort(*peer), told)
        self._events.put_nowait(
            self._emitter.new(
                AuthFailed,
                server_id=self._host.host_id,
                server_hostname=self._hostname,
                addr_remote=str(HostPort(*peer)),
                error=told,
            )
        )

    async def run(self) -> None:
        """Puts them on record, until cancelled."""
        while True:
            event = await self._events.get()
            try:
                await self._emitter.emit(event)
            except TeleportError as error:
                log.error("a refused connection could not be put on record: %s", error)


async def open_auth(
    config: Config,
    settings: AuthSettings,
    host: Host,
    clock: Clock,
    open_emitter: Callable[[str], Emitter],
    *,
    beside: bool = False,
) -> tuple[AuthService, SqliteBackend | EtcdBackend | PostgresqlBackend | DynamoBackend]:
    """The service over its storage; the caller closes the storage after the service ended.

    `beside`: another process of this host uses the storage, too; its schema is not changed then, but `TeleportError`.
    """
    keys = await asyncio.to_thread(authority_keys, settings.key_token)
    backend = engine_of(config.storage, clock, beside=beside)
    await backend.open()
    try:
        await refuse_unfinished(backend)
        service = await AuthService.open(
            AuthConfig(
                # a name that nobody chose may change with the host's; what is stored then counts
                cluster_name="" if settings.cluster_name == config.nodename else settings.cluster_name,
                host_id=host.host_id,
                node_name=config.nodename,
                audit_directory=config.storage.events_path,
                recordings_directory=config.storage.recordings_path,
                recordings_s3=config.storage.recordings_s3,
                static_tokens=tuple(
                    Token.from_secret(
                        SecretText(static.token.read()), tuple(TokenRole(role.value) for role in static.roles)
                    )
                    for static in settings.static_tokens
                ),
                settings=settings_of(settings, config.storage),
                retention=Retention(settings.retention),
                recordings_retention=Retention(settings.recordings_retention),
                copies=(*config.storage.copies, *settings.ship_events),
                searched=config.storage.searched,
                shared_storage=bool(config.storage.shared),
                bootstrap=partial(read_bootstrap, config.bootstrap) if config.bootstrap is not None else None,
            ),
            MeasuredBackend(backend),
            clock,
            open_emitter,
            keys=keys,
        )
    except BaseException:
        await backend.close()
        raise
    return service, backend


async def local_credentials(
    service: AuthService, config: Config, host: Host, role: SystemRole, clock: Clock
) -> Credentials:
    """This host's own identity in `role`: the stored one, or a new one straight from the service."""
    wanted = names_of(config, role)
    stored = credentials.load(host.proc_dir, role)
    if (
        stored is not None
        and stored.cluster.cluster == service.state.cluster
        and not stored.wants_renewal(clock.now())
        and not credentials.names_changed(stored, wanted)
        and await service.has_role(host.host_id, role)
        and not await service.revoked(str(stored.ssh_cert.body.serial))
        and await service.signs_for_hosts(stored.ssh_cert.signer)
    ):
        return stored

    async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
        return await service.local_host(host.host_id, config.nodename, role, wanted, ssh_key, tls_key)

    return await credentials.obtain(host.proc_dir, role, ask)


async def api_context(service: AuthService, own: Credentials) -> MutualServer:
    """What the listener on 3025 proves itself with, and whom it believes."""
    return MutualServer(own.server_tls_cert_file, own.tls_key_file, await service.client_authorities())


async def tell_of_changes(service: AuthService, changed: Sequence[Callable[[], None]]) -> None:
    """Calls all of `changed` whenever any process changed an authority, until cancelled."""

    async def tell_all() -> None:
        for tell in changed:
            tell()

    await whenever_authorities_change(service.state, tell_all)
