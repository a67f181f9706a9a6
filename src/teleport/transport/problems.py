"""What failed connections are called in messages and logs."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from typing import Final

import aiohttp

_BY_THE_CLOCK: Final = {
    9: "is not valid yet",
    10: "has expired",
}  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED


def said(error: Exception) -> str:
    """The cause in one line, without the objects that aiohttp shows around it. The caller names the address."""
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _refused_certificate(cause)
        if isinstance(cause, ConnectionError) and cause.errno:
            return os.strerror(cause.errno)
        return cause.strerror or str(cause) or type(cause).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        refused = error.certificate_error
        return _refused_certificate(refused) if isinstance(refused, ssl.SSLCertVerificationError) else str(refused)
    return str(error) or type(error).__name__


def _refused_certificate(error: ssl.SSLCertVerificationError) -> str:
    """Times are named with the clock that judged: on a host whose clock is off every certificate is wrong."""
    when = _BY_THE_CLOCK.get(error.verify_code)
    if when is None:
        return f"its certificate is refused: {error.verify_message}"
    return (
        f"its certificate {when} by the clock of this host, which says {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: "
        "if that is wrong, set it (timedatectl set-ntp true)"
    )
