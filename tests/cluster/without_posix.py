"""Runs tsh as a system without POSIX would: modules that cannot be imported, and functions that are not there.

    python without_posix.py COMMAND...

The hiding is for our own code; Python's and other libraries' modules have found what they need for this platform.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

HIDDEN_MODULES = frozenset({"fcntl", "termios", "pwd", "grp", "tty", "pty", "resource", "syslog", "spwd"})
HIDDEN_NAMES: dict[Any, tuple[str, ...]] = {
    os: (
        "fork", "getuid", "geteuid", "getgid", "getegid", "setuid", "setgid", "fchmod", "fchown", "chown", "ttyname",
        "uname", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK", "login_tty", "openpty", "setsid", "getloadavg",
        "pipe2", "mkfifo", "sync", "nice", "wait3", "wait4",
    ),
    signal: ("SIGWINCH", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGTSTP", "SIGALRM"),
    socket: ("AF_UNIX",),
}  # fmt: skip
LIBRARIES = ("asyncssh", "msgspec", "cryptography.x509", "wsproto", "click", "zstandard", "getpass", "tempfile", "ssl")


def _pair(*_: object) -> tuple[socket.socket, socket.socket]:
    """As Python makes one where there are no Unix sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _address = listener.accept()
    return one, other


def hide() -> None:
    """From here on. What is left of a hidden thing fails as a missing one does."""
    for name in LIBRARIES:
        importlib.import_module(name)
    found = builtins.__import__

    def import_(name: str, globals: Any = None, *rest: Any, **named: Any) -> Any:
        owner = str((globals or {}).get("__name__", ""))
        if name in HIDDEN_MODULES and owner.split(".")[0] in ("teleport", "__main__"):
            raise ImportError(f"No module named {name!r} (hidden from {owner})")
        return found(name, globals, *rest, **named)

    builtins.__import__ = import_
    socket.socketpair = _pair  # type: ignore[assignment]
    for module, names in HIDDEN_NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for support in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks"):
        getattr(os, support).clear()

    def missing(*_: Any) -> None:
        raise NotImplementedError

    for method in ("add_signal_handler", "add_reader", "add_writer"):
        base = asyncio.selector_events.BaseSelectorEventLoop if method != "add_signal_handler" else None
        setattr(base or asyncio.unix_events._UnixSelectorEventLoop, method, missing)
    asyncio.unix_events._UnixSelectorEventLoop.remove_signal_handler = lambda *_: False  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    hide()
    try:
        __import__("fcntl", {"__name__": "teleport.x"})
    except ImportError:
        from teleport.cli.tsh import main

        main()
    raise SystemExit("nothing is hidden")
