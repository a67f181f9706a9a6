"""How much memory asyncio gives to each TLS connection (trap T-9)."""

from __future__ import annotations

from asyncio import sslproto
from typing import Final

BYTES: Final = 64 * 1024  # read at once; a TLS record has 16 KiB at most


def keep_small() -> None:
    """For every TLS connection that this process makes from now on.

    asyncio allocates 256 KiB for each and asks nobody. Listeners for strangers have less still (`http_listener`).
    """
    sslproto.SSLProtocol.max_size = BYTES
