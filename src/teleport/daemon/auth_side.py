"""Auth as this daemon runs it: from the configuration to a service with its storage, identities and TLS context."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from teleport.api import messages as m
from teleport.audit.emitter import Emitter
from teleport.auth.service import AuthConfig, AuthService
from teleport.backend.sqlite import SqliteBackend
from teleport.backend.sqlite_file import refuse_migration
from teleport.clock import Clock
from teleport.daemon import credentials
from teleport.daemon.config import Config
from teleport.daemon.config.effective import AuthConfig as AuthSettings
from teleport.daemon.config.effective import ManagedResource
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.identities import names_of
from teleport.identity import SystemRole
from teleport.resources.cluster import (
    AuthPreference,
    AuthPreferenceSpec,
    LockingMode,
    NetworkingConfig,
    NetworkingSpec,
    RecordingMode,
    RecordingSpec,
    RoutingStrategy,
    SecondFactor,
    SessionRecordingConfig,
)
from teleport.resources.codec import Resource
from teleport.resources.metadata import ORIGIN_LABEL, Metadata
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, TokenRole
from teleport.transport.tls import mutual_server_context


def settings_of(config: AuthSettings) -> tuple[tuple[str, Resource], ...]:
    """The cluster's configuration resources that the file decides (`resources.md` 8)."""

    def metadata(name: str) -> Metadata:
        return Metadata(name=name, labels={ORIGIN_LABEL: "config-file"})

    limits = config.session_limits
    preference = AuthPreference(
        metadata=metadata("cluster-auth-preference"),
        spec=AuthPreferenceSpec(
            second_factor=SecondFactor(config.second_factor.value),
            allow_local_auth=config.authentication.local_auth,
            require_session_mfa=config.authentication.require_session_mfa,
            disconnect_expired_cert=limits.disconnect_expired_cert,
            message_of_the_day=config.message_of_the_day,
            locking_mode=LockingMode(config.locking_mode.value),
        ),
    )
    networking = NetworkingConfig(
        metadata=metadata("cluster-networking-config"),
        spec=NetworkingSpec(
            client_idle_timeout=limits.client_idle_timeout,
            client_idle_timeout_message=limits.client_idle_timeout_message,
            web_idle_timeout=limits.web_idle_timeout,
            keep_alive_interval=limits.keep_alive_interval,
            keep_alive_count_max=limits.keep_alive_count_max,
            session_control_timeout=limits.session_control_timeout,
            routing_strategy=RoutingStrategy(config.routing_strategy.value),
        ),
    )
    recording = SessionRecordingConfig(
        metadata=metadata("session-recording-config"),
        spec=RecordingSpec(
            mode=RecordingMode(config.recording_mode.value), proxy_checks_host_keys=config.proxy_checks_host_keys
        ),
    )
    every: dict[ManagedResource, Resource] = {
        ManagedResource.AUTHENTICATION: preference,
        ManagedResource.NETWORKING: networking,
        ManagedResource.RECORDING: recording,
    }
    return tuple((resource.metadata.name, resource) for kind, resource in every.items() if kind in config.managed)


async def open_auth(
    config: Config,
    settings: AuthSettings,
    host: Host,
    clock: Clock,
    open_emitter: Callable[[str], Emitter],
    *,
    beside: bool = False,
) -> tuple[AuthService, SqliteBackend]:
    """The service over the embedded storage; the caller closes the storage after the service ended.

    `beside`: another process of this host uses the storage, too; its schema is not changed then, but `TeleportError`.
    """
    if beside:
        refuse_migration(config.storage.path)
    backend = SqliteBackend(config.storage.path, clock)
    await backend.open()
    try:
        service = await AuthService.open(
            AuthConfig(
                # a name that nobody chose may change with the host's; what is stored then counts
                cluster_name="" if settings.cluster_name == config.nodename else settings.cluster_name,
                host_id=host.host_id,
                node_name=config.nodename,
                audit_directory=config.storage.events_path,
                recordings_directory=config.storage.recordings_path,
                static_tokens=tuple(
                    Token.from_secret(
                        SecretText(static.token.read()), tuple(TokenRole(role.value) for role in static.roles)
                    )
                    for static in settings.static_tokens
                ),
                settings=settings_of(settings),
                events_to_stdout=config.storage.events_to_stdout,
            ),
            backend,
            clock,
            open_emitter,
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
    ):
        return stored

    async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
        return await service.local_host(host.host_id, config.nodename, role, wanted, ssh_key, tls_key)

    return await credentials.obtain(host.proc_dir, role, ask)


async def api_context(service: AuthService, own: Credentials) -> ssl.SSLContext:
    """What the listener on 3025 proves itself with, and whom it believes."""
    return mutual_server_context(own.tls_cert_file, own.tls_key_file, await service.client_authorities())
