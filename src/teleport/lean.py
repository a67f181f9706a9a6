"""Imports what every daemon loads first without what it loads for others: memory as long as the daemon runs.

- msgspec knows decimal numbers, of which no message of ours has any, and prefers typing_extensions to typing.
- `shutil` loads the compressions of archives that it can make; none is made here.
- `logging.handlers` loads pickle for logs that are sent to another Python, none of ours.

To be imported before anything that imports these; afterwards it changes nothing. `transport.quick_aiohttp` and
`teleport.ssh` do the same for aiohttp and asyncssh.
"""

from __future__ import annotations

from typing import Final

from teleport.standins import TYPING_EXTENSIONS, hidden, standing_in

UNUSED: Final[dict[str, dict[str, object]]] = {"decimal": {}, **TYPING_EXTENSIONS}

with standing_in(UNUSED):
    import msgspec as _msgspec  # noqa: F401 (the import itself is the point)
with standing_in({"pickle": {}}):
    import logging.handlers as _handlers  # noqa: F401 (likewise)
with hidden("bz2", "lzma"):
    import shutil as _shutil  # noqa: F401 (likewise)
