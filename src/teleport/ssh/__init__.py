"""The only importer of asyncssh: SSH servers and clients whose sharp edges are covered here (`docs/proxy-to-node.md`).

Importing this package imports asyncssh, so commands that need no SSH must not import it. asyncssh looks for two
optional libraries, liboqs and nettle, with `ctypes.util.find_library`, which starts compilers and linkers and costs a
good part of the whole import. We use neither (cryptography has ML-KEM; UMAC is not offered), so these searches, and
only these, answer "not found", and ctypes, which asyncssh has for these libraries alone, is not loaded for it.

asyncssh also brings SFTP and SCP, server and client, processes and devices of tunnels. Programs of ours
run in launchers of their own, as the user; the connections here carry bytes. Stand-ins for these modules save every
daemon 2 MB and `tsh ssh` some of its start. So does hiding fido2 from it: keys that live in a FIDO device come from the
agent or as WebAuthn, never from asyncssh.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from teleport.standins import TYPING_EXTENSIONS, hidden, standing_in

_SEARCH: Final = "ctypes.util"
Search = Callable[[str], str | None]


def _for_others(search: Search) -> Search:
    """What `search` finds, but for the libraries that we do not use."""
    return lambda name: None if name.removeprefix("lib").startswith(("oqs", "nettle")) else search(name)


UNUSED: Final[dict[str, dict[str, object]]] = {
    "ctypes": {},
    _SEARCH: {"find_library": _for_others(lambda _: None)},
    "asyncssh.sftp": {},
    "asyncssh.scp": {},
    "asyncssh.process": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "asyncssh.tuntap": {},
    **TYPING_EXTENSIONS,
}


@contextmanager
def _without_searching() -> Iterator[None]:
    """Where ctypes is loaded already."""
    if (loaded := sys.modules.get(_SEARCH)) is None:
        yield
        return
    search: Search = loaded.find_library
    loaded.find_library = _for_others(search)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        loaded.find_library = search  # type: ignore[attr-defined]


# hidden is what asyncssh would load because it happens to be installed, and never needs here
with _without_searching(), hidden("fido2", "pkcs11"), standing_in(UNUSED):
    import asyncssh as _asyncssh  # noqa: F401 (the import itself is the point)

from teleport.ssh import names as _names  # noqa: E402, F401 (it takes the place of a part of asyncssh)
