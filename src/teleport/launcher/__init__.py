"""The launcher: the small process that starts sessions as Unix users (docs/launcher.md).

`start` is called first in a daemon's main, before threads, an event loop or large imports. The asyncio side is
`teleport.launcher.client`, which is not imported here: the launcher's own process never loads asyncio.
"""

from teleport.launcher.environment import filter_environment
from teleport.launcher.starting import LauncherEnd, start
from teleport.launcher.values import Exit, Kind, LauncherRefused, Pty, Reason, SpawnRequest

__all__ = [
    "Exit",
    "Kind",
    "LauncherEnd",
    "LauncherRefused",
    "Pty",
    "Reason",
    "SpawnRequest",
    "filter_environment",
    "start",
]
