"""teleport: the daemon, and what belongs to it on a host."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The entry point of `teleport`. The daemon goes a way of its own, to keep nothing that reads commands."""
    if sys.argv[1:2] == ["start"]:
        from teleport.cli.teleport import daemon

        daemon.main()
    from teleport.cli.teleport.command import main

    main()
