"""Imports aiohttp without reading the machine's store of certificates, twice, for contexts that nothing here uses.

aiohttp makes two default TLS contexts while it is imported, 80 ms each. Every connection of ours is made with a context
of its own (`transport.tls`). The defaults made here know no authority: a client that is given no context trusts nobody.
To be imported before anything that imports aiohttp; afterwards it changes nothing.
"""

from __future__ import annotations

import ssl


def _load_nothing(context: ssl.SSLContext) -> None:
    """In place of `set_default_verify_paths`."""


ssl.SSLContext.set_default_verify_paths = _load_nothing  # type: ignore[assignment]
try:
    import aiohttp as _aiohttp  # noqa: F401 (the import itself is the point)
finally:
    del ssl.SSLContext.set_default_verify_paths  # the C class below has the real one
