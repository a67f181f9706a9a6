"""Events about the settings of a cluster (`resources.md` 8). Ours, from T9150 on."""

from __future__ import annotations

from msgspec import field

from teleport.audit.events.base import ResourceEvent


class SettingsUpdate(ResourceEvent, frozen=True, kw_only=True):
    """Settings of the cluster were changed, by a person or by a start of auth."""

    origin: str = ""  # who decides them now: defaults, config-file or dynamic
    changed: list[str] = field(default_factory=list)  # each changed field, its value before and after


class AuthPreferenceUpdate(SettingsUpdate, frozen=True, kw_only=True, tag="auth_preference.update"):
    """How users prove themselves was changed."""


class NetworkingUpdate(SettingsUpdate, frozen=True, kw_only=True, tag="cluster_networking_config.update"):
    """What ends or watches over connections was changed."""


class RecordingUpdate(SettingsUpdate, frozen=True, kw_only=True, tag="session_recording_config.update"):
    """Whether and where sessions are recorded was changed."""


class AuditConfigUpdate(SettingsUpdate, frozen=True, kw_only=True, tag="cluster_audit_config.update"):
    """Where audit events and recordings go was changed."""
