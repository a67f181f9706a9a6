"""What failed connections are called in messages and logs."""

from __future__ import annotations

import os

import aiohttp


def said(error: Exception) -> str:
    """The cause in one line, without the objects that aiohttp shows around it. The caller names the address."""
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, ConnectionError) and cause.errno:
            return os.strerror(cause.errno)
        return cause.strerror or str(cause) or type(cause).__name__
    return str(error) or type(error).__name__
