"""The only importer of asyncssh: SSH servers and clients whose sharp edges are covered here (`docs/proxy-to-node.md`).

Importing this package imports asyncssh, so commands that need no SSH must not import it. asyncssh looks for the
optional library liboqs with `ctypes.util.find_library`, which starts compilers and linkers and costs a sixth of the
whole import. We never use liboqs (cryptography has ML-KEM), so during the import that search, and only that search,
answers "not found"; other names go to the real function.
"""

from __future__ import annotations

import ctypes.util

_find_library = ctypes.util.find_library


def _find_library_but_liboqs(name: str) -> str | None:
    return None if name in {"oqs", "liboqs"} else _find_library(name)


ctypes.util.find_library = _find_library_but_liboqs
try:
    import asyncssh as _asyncssh  # noqa: F401 (the import itself is the point)
finally:
    ctypes.util.find_library = _find_library
