"""What decisions are made of: the policy they rest on, and the denial they may end in.

A denial has a stable `code`, the `reasons` for operators and the audit log (one for each role that was looked at), and
`public`, the sentence for the caller, which says nothing that the caller's own certificate does not (T34).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from teleport.resources.cluster import (
    AuthPreference,
    LockingMode,
    NetworkingConfig,
    RecordingMode,
    SessionRecordingConfig,
)
from teleport.resources.role import Role


class DenialCode(StrEnum):
    """Why, in one word that programs may rely on."""

    ANONYMOUS = "anonymous"
    EXPIRED = "expired"
    WRONG_CLUSTER = "wrong_cluster"
    WRONG_ADDRESS = "wrong_address"
    LOCKED = "locked"
    LOCKS_UNKNOWN = "locks_unknown"
    BAD_REQUEST = "bad_request"
    LOGIN_NOT_IN_CERTIFICATE = "login_not_in_certificate"
    MFA_REQUIRED = "mfa_required"
    DENIED_BY_ROLE = "denied_by_role"
    NOT_GRANTED = "not_granted"


@dataclass(frozen=True, slots=True)
class AccessDenial:
    """No, and why."""

    code: DenialCode
    public: str
    reasons: tuple[str, ...]
    hint: str = ""  # the caller's next command, if there is one


@dataclass(frozen=True, slots=True)
class ClusterDefaults:
    """What the cluster's own settings add to every role. Zero: no limit."""

    client_idle_timeout: timedelta = timedelta(0)
    disconnect_expired_cert: bool = False
    require_session_mfa: bool = False
    record_sessions: bool = True
    client_idle_timeout_message: str = ""
    strict_locks: bool = False  # whoever may be locked counts as locked

    @classmethod
    def of(
        cls, preference: AuthPreference, networking: NetworkingConfig, recording: SessionRecordingConfig
    ) -> ClusterDefaults:
        """What these resources say."""
        return cls(
            client_idle_timeout=networking.spec.client_idle_timeout.timedelta,
            disconnect_expired_cert=preference.spec.disconnect_expired_cert,
            require_session_mfa=preference.spec.require_session_mfa,
            record_sessions=recording.spec.mode is not RecordingMode.OFF,
            client_idle_timeout_message=networking.spec.client_idle_timeout_message,
            strict_locks=preference.spec.locking_mode is LockingMode.STRICT,
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """The roles of the cluster by name, its defaults, and how old all that and the locks may be, in seconds: zero where
    it is read at its source. Without roles nothing is granted."""

    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    cluster: ClusterDefaults = ClusterDefaults()
    age: float = 0.0
