"""Who sits at a local tctl. Auth knows it as the host's administrator only; the audit log shall name the person."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path
from typing import Final

HEADERS: Final = {
    "unix_user": "X-Teleport-Unix-User",
    "login_uid": "X-Teleport-Login-Uid",
    "terminal": "X-Teleport-Terminal",
}
"""As auth reads them."""
_NO_LOGIN: Final = str(2**32 - 1)  # what the kernel shows for processes that nobody's login started
_LOGIN_UID: Final = Path("/proc/self/loginuid")


def actor_headers() -> dict[str, str]:
    """The headers that say who acts."""
    return {HEADERS[name]: _header_text(value) for name, value in actor_facts().items()}


def actor_facts() -> dict[str, str]:
    """Who acts: Unix user, login uid (survives sudo), terminal. What is unknown is left out."""
    uid = os.getuid()
    found = {"unix_user": str(uid), "login_uid": "", "terminal": ""}
    with contextlib.suppress(KeyError):
        found["unix_user"] = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(OSError):
        text = _LOGIN_UID.read_text().strip()
        found["login_uid"] = "" if text == _NO_LOGIN else text
    for descriptor in (2, 0):
        with contextlib.suppress(OSError):
            found["terminal"] = found["terminal"] or os.ttyname(descriptor)
    return {name: value for name, value in found.items() if value}


def _header_text(value: str) -> str:
    """What may stand in a header: printable ASCII."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in value)[:256]
