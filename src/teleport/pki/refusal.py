"""Why a certificate, key or signature was not believed: one reason for the audit log, one sentence for people.

The sentence says nothing beyond what the presented certificate itself contains; `detail` is for the audit log only.
"""

from __future__ import annotations

from enum import StrEnum

from teleport.errors import AccessDenied


class Refusal(StrEnum):
    """What was wrong; written into audit events, so values are only ever added."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"  # a user certificate where a host is meant, or the reverse
    UNKNOWN_AUTHORITY = "unknown_authority"
    SIGNER_IS_CERTIFICATE = "signer_is_certificate"
    WEAK_KEY = "weak_key"
    WEAK_ALGORITHM = "weak_algorithm"
    BAD_SIGNATURE = "bad_signature"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    UNLIMITED = "unlimited"
    AUTHORITY_EXPIRED = "authority_expired"
    NO_PRINCIPALS = "no_principals"
    BAD_PRINCIPAL = "bad_principal"
    BAD_NAME = "bad_name"
    NO_ROLES = "no_roles"
    CRITICAL_OPTION = "critical_option"
    WRONG_CLUSTER = "wrong_cluster"
    WRONG_HOST = "wrong_host"
    IS_AUTHORITY = "is_authority"  # a CA certificate shown as somebody's own
    WRONG_USAGE = "wrong_usage"
    WRONG_PIN = "wrong_pin"


class CertificateRefused(AccessDenied):
    """A certificate, key or signature that is not believed.

    `reason` and `detail` belong in the audit log; the message may be shown to whoever presented it.
    """

    def __init__(self, reason: Refusal, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.detail = detail
