"""The only importer of asyncssh: SSH servers and clients whose sharp edges are covered here (`docs/proxy-to-node.md`).

Importing this package imports asyncssh, so commands that need no SSH must not import it. asyncssh looks for two
optional libraries, liboqs and nettle, with `ctypes.util.find_library`, which starts compilers and linkers and costs a
good part of the whole import. We use neither (cryptography has ML-KEM; UMAC is not offered), so during the import these
searches, and only these, answer "not found"; other names go to the real function.

asyncssh also brings SFTP and SCP, server and client. File transfers of ours are programs that run as the user; the
connections here carry bytes. Stand-ins for the two modules save every daemon 1 MB and `tsh ssh` some of its start.
So does hiding fido2 from it: keys that live in a FIDO device come from the agent or as WebAuthn, never from asyncssh.
"""

from __future__ import annotations

import ctypes.util
import sys
from typing import Final

from teleport.standins import standing_in

UNUSED: Final[dict[str, dict[str, object]]] = {"asyncssh.sftp": {}, "asyncssh.scp": {}}

_find_library = ctypes.util.find_library


def _find_library_that_we_use(name: str) -> str | None:
    return None if name.removeprefix("lib").startswith(("oqs", "nettle")) else _find_library(name)


ctypes.util.find_library = _find_library_that_we_use
# what asyncssh would load because it happens to be installed, and never needs here
_hidden = [name for name in ("fido2", "pkcs11") if name not in sys.modules]
for _name in _hidden:
    sys.modules[_name] = None  # type: ignore[assignment]  # importlib reads None as "there is no such module"
try:
    with standing_in(UNUSED):
        import asyncssh as _asyncssh  # noqa: F401 (the import itself is the point)
finally:
    ctypes.util.find_library = _find_library
    for _name in _hidden:
        del sys.modules[_name]

from teleport.ssh import names as _names  # noqa: E402, F401 (it takes the place of a part of asyncssh)
