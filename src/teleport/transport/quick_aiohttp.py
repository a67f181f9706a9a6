"""Imports aiohttp without what it loads for others: time at the start of a daemon, and memory as long as it runs.

- It makes two default TLS contexts from the machine's store of certificates, 80 ms each. Every connection of ours is
  made with a context of its own (`transport.tls`). The defaults made here know no authority: a client that is given
  no context trusts nobody.
- `html.escape` brings the table of all entities, `aiohttp.web` the parser of its own command line, the cookie jar
  pickle, for files that only others ask it to read, proxies of the environment (`trust_env`, which nothing here
  sets) `urllib.request`, and attrs the validators that aiohttp declares none of: 1.7 MB, in whose places there are
  stand-ins.
- It reads the parameters of a content type with the parsers of `email`, by a policy that knows all headers of letters.
  These parameters are found in the same way by every policy: the older one spares 0.6 MB.
- For files that it serves (none here) it reads the machine's table of their types: 0.4 MB.
- Its frozen lists are compiled C++, whose run-time library nothing else needs (1 MB). They hold a few callbacks: those
  in Python do.

To be imported before anything that imports aiohttp; afterwards it changes nothing. `quick_web` does the same for
`aiohttp.web`, which a node has no use for.
"""

from __future__ import annotations

import mimetypes
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import _policybase  # what `email.message` has loaded anyway
from typing import Final

from teleport.standins import TYPING_EXTENSIONS, standing_in

UNUSED: Final[dict[str, dict[str, object]]] = {
    "html.entities": {"html5": {}},
    "argparse": {},
    "pickle": {},
    "urllib.request": {},
    "attr.validators": {},
    "email.policy": {"HTTP": _policybase.compat32},
    **TYPING_EXTENSIONS,
}
_PLAIN_LISTS = "FROZENLIST_NO_EXTENSIONS"  # its own switch, read while it is imported


def _load_nothing(context: ssl.SSLContext) -> None:
    """In place of `set_default_verify_paths`."""


@contextmanager
def lean() -> Iterator[None]:
    """What is imported in this context gets none of that."""
    set_by_others = os.environ.get(_PLAIN_LISTS)
    os.environ[_PLAIN_LISTS] = "1"
    tables_of_types = mimetypes.knownfiles
    mimetypes.knownfiles = []
    ssl.SSLContext.set_default_verify_paths = _load_nothing  # type: ignore[assignment]
    try:
        with standing_in(UNUSED, forget=("html",)):
            yield
    finally:
        mimetypes.knownfiles, mimetypes.inited = tables_of_types, False  # whoever asks for a type first reads them
        del ssl.SSLContext.set_default_verify_paths  # the C class below has the real one
        if set_by_others is None:
            del os.environ[_PLAIN_LISTS]
        else:
            os.environ[_PLAIN_LISTS] = set_by_others


with lean():
    import aiohttp as _aiohttp  # noqa: F401 (the import itself is the point)
