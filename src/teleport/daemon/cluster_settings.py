"""The cluster's settings as the configuration file decides them (`resources.md` 8): from its keys to the resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from teleport.daemon.config.values import AuthConfig, ManagedResource, StorageConfig
from teleport.errors import TeleportError
from teleport.resources.cluster import (
    U2F,
    AuditConfig,
    AuditSpec,
    AuthPreference,
    AuthPreferenceSpec,
    NetworkingConfig,
    NetworkingSpec,
    RecordingSpec,
    SessionRecordingConfig,
    Singleton,
    Webauthn,
)


def settings_of(config: AuthConfig, storage: StorageConfig) -> tuple[Singleton, ...]:
    """Those that the file decides; what it does not name is left to tctl."""
    found: list[Singleton] = []
    if ManagedResource.AUTHENTICATION in config.managed:
        found.append(AuthPreference(spec=_authentication(config)))
    if ManagedResource.NETWORKING in config.managed:
        found.append(NetworkingConfig(spec=_networking(config)))
    if ManagedResource.RECORDING in config.managed:
        mode = config.recording_mode
        spec = RecordingSpec(mode=mode, proxy_checks_host_keys=config.proxy_checks_host_keys)
        found.append(SessionRecordingConfig(spec=spec))
    if storage.audit_events_uri or storage.audit_sessions_uri or storage.region:
        audit = AuditSpec(
            region=storage.region,
            audit_events_uri=storage.audit_events_uri,
            audit_sessions_uri=storage.audit_sessions_uri,
        )
        found.append(AuditConfig(spec=audit))
    return tuple(found)


def _authentication(config: AuthConfig) -> AuthPreferenceSpec:
    said = config.authentication
    u2f, webauthn = said.u2f, said.webauthn
    return AuthPreferenceSpec(
        second_factor=said.second_factor,
        connector_name=said.connector_name,
        u2f=U2F(app_id=u2f.app_id, facets=u2f.facets, device_attestation_cas=_certificates(u2f.device_attestation_cas))
        if u2f is not None
        else None,
        webauthn=Webauthn(
            rp_id=webauthn.rp_id,
            attestation_allowed_cas=_certificates(webauthn.attestation_allowed_cas),
            attestation_denied_cas=_certificates(webauthn.attestation_denied_cas),
            disabled=webauthn.disabled,
        )
        if webauthn is not None
        else None,
        allow_local_auth=said.local_auth,
        passwordless=said.passwordless,
        require_session_mfa=said.require_session_mfa,
        disconnect_expired_cert=config.session_limits.disconnect_expired_cert,
        message_of_the_day=config.message_of_the_day,
        locking_mode=said.locking_mode,
    )


def _certificates(named: Sequence[str]) -> tuple[str, ...]:
    """PEM texts, those that the configuration names as files being read. Raises `TeleportError`."""
    found = []
    for text in named:
        if not text.lstrip().startswith("-----BEGIN"):
            try:
                text = Path(text).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise TeleportError(
                    f"the authority of hardware keys {text!r} cannot be read: {error}",
                    hint="name a file that holds a certificate in PEM, or write the PEM itself into the configuration",
                ) from None
        found.append(text)
    return tuple(found)


def _networking(config: AuthConfig) -> NetworkingSpec:
    limits = config.session_limits
    return NetworkingSpec(
        client_idle_timeout=limits.client_idle_timeout,
        client_idle_timeout_message=limits.client_idle_timeout_message,
        web_idle_timeout=limits.web_idle_timeout,
        keep_alive_interval=limits.keep_alive_interval,
        keep_alive_count_max=limits.keep_alive_count_max,
        session_control_timeout=limits.session_control_timeout,
        routing_strategy=config.routing_strategy,
        tunnel_strategy=config.tunnel_strategy,
        proxy_listener_mode=config.proxy_listener_mode,
    )
