"""A short name for what a client of a cluster needs to know of its authorities, so that a change is noticed cheaply.

Two sides compute it: a proxy from the authorities as they are (`/webapi/ping`), a client from what it holds. When they
differ, the client asks auth for certificates and authorities, over a connection that what it holds proves. The digest
itself proves nothing and is never taken for trust.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable


def trust_digest(ssh_keys: Iterable[str], tls_pems: Iterable[str], user_signer: bytes) -> str:
    """64 hex digits for host keys (OpenSSH lines), host certificates (PEM), and the key (SSH blob) that signs users.

    Order, comments and line breaks make no difference.
    """
    parts = sorted({b"ssh " + _blob(line) for line in ssh_keys} | {b"tls " + _der(pem) for pem in tls_pems})
    digest = hashlib.sha256()
    for part in (*parts, b"user " + user_signer):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _blob(line: str) -> bytes:
    words = line.split()
    return _unbase64(words[1] if len(words) > 1 else "")


def _der(pem: str) -> bytes:
    return _unbase64("".join(line for line in pem.split("\n") if line and not line.startswith("-----")))


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b"unreadable " + text.encode()
