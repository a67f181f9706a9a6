"""The engine, loaded when it is asked for: nobody else needs aiobotocore, and it may not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.backend.dynamodb.engine import DynamoBackend


def dynamodb_backend() -> type[DynamoBackend]:
    """The class. Raises `TeleportError` when what it needs is not installed."""
    try:
        import aiobotocore.session  # noqa: F401 - whether it is there
    except ImportError:
        raise TeleportError(
            "the storage is configured to be in DynamoDB, but aiobotocore is not installed",
            hint="pip install 'teleport-access[dynamodb]'",
        ) from None
    from teleport.backend.dynamodb.engine import DynamoBackend

    return DynamoBackend
