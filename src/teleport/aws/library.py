"""The library that speaks to AWS (botocore, by aiobotocore): what its exceptions mean, and what it may say in logs.

Loaded by whoever has a service to speak to, and by nobody else.
"""

from __future__ import annotations

import logging
import warnings
from typing import Final

import botocore.exceptions as away

from teleport.aws.answers import Kind

NO_LOGIN: Final = (
    away.NoCredentialsError,
    away.PartialCredentialsError,
    away.ProfileNotFound,
    away.CredentialRetrievalError,
)


def hush() -> None:
    """Lets only warnings of the library through: what else it logs may hold values and bodies."""
    for name in ("botocore", "aiobotocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # aiohttp's word about bodies of more than 1 MiB, which the library gives it whole
    warnings.filterwarnings("ignore", "Sending a large body directly", ResourceWarning)


def no_answer(error: BaseException) -> tuple[Kind, str] | None:
    """What an exception means that is not the service's answer, with details; None when it is nothing of these."""
    if isinstance(error, away.SSLError):
        return Kind.TLS, "its certificate is not of an authority that this machine knows, or of another name"
    if isinstance(error, away.NoRegionError):
        return Kind.REGION, "none is named"
    if isinstance(error, NO_LOGIN):
        return Kind.NO_LOGIN, type(error).__name__
    if isinstance(error, TimeoutError | away.ConnectTimeoutError | away.ReadTimeoutError):
        return Kind.AGAIN, "no answer in time"
    if isinstance(error, away.ConnectionError | away.HTTPClientError | OSError):
        return Kind.AGAIN, f"it is not reached, or the connection broke ({type(error).__name__})"
    return None


def first_line(said: str) -> str:
    """Of what a service says."""
    return next(iter(said.splitlines()), "")
