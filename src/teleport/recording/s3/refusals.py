"""What S3 answers when it does not do what was asked: whether it may mend itself, and what a person reads. Pure."""

from __future__ import annotations

from typing import Final

from teleport.aws import answers
from teleport.aws.answers import Kind, Words
from teleport.errors import AccessDenied, ConnectionProblem, NotFound, TeleportError

_BY_CODE: Final = {
    "PreconditionFailed": Kind.EXISTS,
    "NoSuchKey": Kind.ABSENT,
    "NoSuchUpload": Kind.ABSENT,
    "NoSuchVersion": Kind.ABSENT,
    "NoSuchBucket": Kind.NO_BUCKET,
    "AccessDenied": Kind.NOT_ALLOWED,
    "AllAccessDisabled": Kind.NOT_ALLOWED,
    "AccountProblem": Kind.NOT_ALLOWED,
    "InvalidObjectState": Kind.REFUSED,  # it is archived
    "InvalidAccessKeyId": Kind.NO_LOGIN,
    "SignatureDoesNotMatch": Kind.NO_LOGIN,
    "ExpiredToken": Kind.NO_LOGIN,
    "InvalidToken": Kind.NO_LOGIN,
    "TokenRefreshRequired": Kind.NO_LOGIN,
    "RequestTimeTooSkewed": Kind.CLOCK,
    "PermanentRedirect": Kind.REGION,
    "AuthorizationHeaderMalformed": Kind.REGION,
    "IllegalLocationConstraintException": Kind.REGION,
    "SlowDown": Kind.AGAIN,
    "ServiceUnavailable": Kind.AGAIN,
    "InternalError": Kind.AGAIN,
    "RequestTimeout": Kind.AGAIN,
    "OperationAborted": Kind.AGAIN,
    "ConditionalRequestConflict": Kind.AGAIN,
    "BadDigest": Kind.AGAIN,  # it broke on the way
    "XAmzContentSHA256Mismatch": Kind.AGAIN,
}

_WORDS: Final = Words("bucket", "audit_sessions_uri")


def kind_of(code: str, status: int, details: str) -> Kind:
    """What an error means."""
    if code.startswith("KMS") or ("kms" in details.lower() and status != 403):
        return Kind.KMS
    if code in _BY_CODE:
        return _BY_CODE[code]
    match status:
        case 401 | 403:
            return Kind.NOT_ALLOWED
        case 404:
            return Kind.ABSENT
        case 412:
            return Kind.EXISTS
        case 429:
            return Kind.AGAIN
    return Kind.AGAIN if status >= 500 else Kind.REFUSED


def explain(doing: str, where: str, kind: Kind, details: str) -> TeleportError:
    """The error for whoever waits for it."""
    what = f"cannot {doing} the recordings in S3 ({where})"
    if (known := answers.explain(what, kind, details, _WORDS)) is not None:
        return known
    match kind:
        case Kind.AGAIN:
            return ConnectionProblem(
                f"{what}: {details}", hint="check that the service is reached from the auth server, and try again"
            )
        case Kind.ABSENT:
            return NotFound(f"{what}: it is not there: {details}", hint="look for it, and for older versions of it")
        case Kind.NO_BUCKET:
            return TeleportError(
                f"{what}: there is no such bucket", hint="make it, or name another one in audit_sessions_uri"
            )
        case Kind.KEPT:
            return AccessDenied(
                f"{what}: the bucket keeps it: {details}",
                hint="let the policy of this machine allow what docs/operations.md lists for removing; where object "
                "lock or a legal hold of the bucket keeps it, it goes once that has ended",
            )
        case Kind.KMS:
            return AccessDenied(
                f"{what}: the key with which it is to be encrypted cannot be used: {details}",
                hint="see sse_kms_key of audit_sessions_uri and the key's policy; disablesse=true leaves encryption to "
                "the bucket",
            )
        case Kind.REGION:
            return TeleportError(
                f"{what}: no region is named, or another one than the bucket's: {details}",
                hint="set region in audit_sessions_uri: aws s3api get-bucket-location --bucket NAME",
            )
        case _:
            return TeleportError(f"{what}: {details}", hint="see what the service's own log says of the request")
