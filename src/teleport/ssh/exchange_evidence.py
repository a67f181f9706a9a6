"""What a session id is the hash of, as the server saw it: with a client's signature it proves to others who came.

The hash is that of RFC 4253 section 8, over the server's host key: a signature over it counts for the one connection.
What is hashed ends with the secret of the exchange, so it is kept for who wants evidence and for nobody else.
"""

from __future__ import annotations

from typing import Any, cast

from asyncssh import KeyExchangeFailed
from asyncssh.connection import SSHServerConnection
from asyncssh.packet import String


def hashed_exchange(connection: SSHServerConnection, k: bytes, h: bytes) -> tuple[bytes, str]:
    """What was hashed in the key exchange that `connection` finishes, and the name of the hash.

    `k` is the shared secret as it is hashed, `h` what asyncssh made of it. Raises `KeyExchangeFailed` when the hash is
    another one.
    """
    kex: Any = connection._kex
    hashed = b"".join(
        (
            connection.get_hash_prefix(),
            String(cast(Any, connection.get_server_host_key()).public_data),
            kex._format_client_key(),
            kex._format_server_key(),
            k,
        )
    )
    made = kex._hash_alg(hashed)
    if made.digest() != h:
        raise KeyExchangeFailed("the exchange was hashed otherwise than RFC 4253 says")
    return hashed, made.name
