"""The client, loaded when recordings are configured to be in S3: nobody else needs aiobotocore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.recording.s3.bucket import Bucket


def bucket_class() -> type[Bucket]:
    """The class. Raises `TeleportError` when what it needs is not installed."""
    try:
        import aiobotocore.session  # noqa: F401
    except ImportError:
        raise TeleportError(
            "recordings are configured to be in S3, but aiobotocore is not installed",
            hint="pip install 'teleport-access[s3]'",
        ) from None
    from teleport.recording.s3.bucket import Bucket

    return Bucket
