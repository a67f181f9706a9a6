"""What DynamoDB answers when it does not do what was asked: whether to try again, and what a person reads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from teleport.aws import answers
from teleport.aws.answers import Kind, Words
from teleport.errors import ConnectionProblem, LimitExceeded, TeleportError

_BY_CODE: Final = {
    "ConditionalCheckFailedException": Kind.CONDITION,
    "ProvisionedThroughputExceededException": Kind.SLOWER,
    "ProvisionedThroughputExceeded": Kind.SLOWER,
    "RequestLimitExceeded": Kind.SLOWER,
    "ThrottlingException": Kind.SLOWER,
    "ThrottlingError": Kind.SLOWER,
    "Throttling": Kind.SLOWER,
    "LimitExceededException": Kind.SLOWER,
    "TransactionConflictException": Kind.SLOWER,
    "TransactionConflict": Kind.SLOWER,
    "ReplicatedWriteConflictException": Kind.SLOWER,
    "TransactionInProgressException": Kind.AGAIN,
    "InternalServerError": Kind.AGAIN,
    "InternalFailure": Kind.AGAIN,
    "ServiceUnavailable": Kind.AGAIN,
    "ServiceUnavailableException": Kind.AGAIN,
    "UnrecognizedClientException": Kind.NO_LOGIN,
    "InvalidClientTokenId": Kind.NO_LOGIN,
    "ExpiredTokenException": Kind.NO_LOGIN,
    "ExpiredToken": Kind.NO_LOGIN,
    "MissingAuthenticationTokenException": Kind.NO_LOGIN,
    "MissingAuthenticationToken": Kind.NO_LOGIN,
    "IncompleteSignatureException": Kind.NO_LOGIN,
    "InvalidSignatureException": Kind.NO_LOGIN,
    "RequestExpired": Kind.CLOCK,
    "AccessDeniedException": Kind.NOT_ALLOWED,
    "AccessDenied": Kind.NOT_ALLOWED,
    "OptInRequired": Kind.NOT_ALLOWED,
    "ResourceNotFoundException": Kind.ABSENT,
    "TableNotFoundException": Kind.ABSENT,
    "ResourceInUseException": Kind.EXISTS,
    "TableInUseException": Kind.EXISTS,
    "ItemCollectionSizeLimitExceededException": Kind.TOO_LARGE,
    "ItemCollectionSizeLimitExceeded": Kind.TOO_LARGE,
}
_WORDS: Final = Words("table", "teleport.storage", "aws sts get-caller-identity")
_WORST_FIRST: Final = (Kind.CONDITION, Kind.NOT_ALLOWED, Kind.TOO_LARGE, Kind.SLOWER)


def kind_of(code: str, status: int, details: str, reasons: Sequence[str] = ()) -> Kind:
    """What an error means; `reasons`: the codes of the parts of a transaction that was given up."""
    if code == "TransactionCanceledException":
        found = {_of_reason(reason) for reason in reasons} - {None}
        return next((kind for kind in _WORST_FIRST if kind in found), Kind.SLOWER if not found else Kind.REFUSED)
    told = details.lower()
    if code == "InvalidSignatureException" and ("expired" in told or "not yet current" in told):
        return Kind.CLOCK
    if code == "ValidationException" and "size" in told and "exceed" in told:
        return Kind.TOO_LARGE
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == 429:
        return Kind.SLOWER
    return Kind.AGAIN if status >= 500 else Kind.REFUSED


def _of_reason(reason: str) -> Kind | None:
    if reason in ("", "None"):
        return None
    if reason == "ConditionalCheckFailed":
        return Kind.CONDITION
    return _BY_CODE.get(reason, Kind.REFUSED)


def explain(doing: str, where: str, kind: Kind, details: str) -> TeleportError:
    """The error for what cannot be mended by trying again, or was tried long enough."""
    what = f"cannot {doing} the storage in DynamoDB ({where})"
    if (known := answers.explain(what, kind, details, _WORDS)) is not None:
        return known
    match kind:
        case Kind.ABSENT:
            return TeleportError(
                f"{what}: the table is not there any more: {details}",
                hint="restore it from a backup, or start all auth servers anew: the table is then made, empty",
            )
        case Kind.TOO_LARGE:
            return LimitExceeded(
                f"{what}: the request is larger than DynamoDB takes: {details}", hint="do it in smaller steps"
            )
        case Kind.SLOWER:
            return ConnectionProblem(
                f"{what}: it is asked more than its capacity allows: {details}",
                hint="raise the table's capacity or its bounds (read_max_capacity, write_max_capacity), or let it be "
                "on demand: aws dynamodb update-table --billing-mode PAY_PER_REQUEST",
            )
        case Kind.REGION:
            return TeleportError(f"{what}: no region is named", hint="set region of teleport.storage, or AWS_REGION")
        case Kind.AGAIN:
            return ConnectionProblem(
                f"{what}: {details}",
                hint="check that the service is reached from here (TCP 443): aws dynamodb describe-table --table-name "
                "NAME",
            )
        case _:
            return TeleportError(
                f"{what}: {details}", hint="see what AWS knows of it: aws dynamodb describe-table --table-name NAME"
            )
