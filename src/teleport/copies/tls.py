"""Whom a receiver of events must be, and what proves us to it. There is no way to check less."""

from __future__ import annotations

import ssl

from teleport.copies.settings import TlsFiles
from teleport.errors import TeleportError


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 at least, with the receiver's name checked. Raises `TeleportError` when a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files.cert_file is not None:
            context.load_cert_chain(files.cert_file, files.key_file, password=lambda: b"")
    except (OSError, ValueError) as error:  # an SSLError, too
        named = ", ".join(str(path) for path in (files.ca_file, files.cert_file, files.key_file) if path is not None)
        raise TeleportError(
            f"the TLS files of a receiver cannot be used ({named}): {error}",
            hint="check the files that auth_service.ship_events or teleport.log.ship names, and that the daemon's user "
            "may read them",
        ) from None
    return context
