"""After a restore nothing is pruned for a week.

The state is that of the backup: a legal hold that was placed after it is not in it. People need time to see that, and
to place it again, before what it held is removed for good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from teleport.audit.restored import Restored
from teleport.errors import TeleportError

REST: Final = timedelta(days=7)

FindRestored = Callable[[], Awaitable[Restored | None]]
"""The restore that the state came from; None when it came from none."""


async def check_rest(find: FindRestored, now: datetime) -> None:
    """Raises `TeleportError` within a week after a restore."""
    restored = await find()
    if restored is not None and now < restored.when + REST:
        raise TeleportError(
            f"this cluster was restored from a backup on {_said(restored.when)}, which lacks the legal holds that were "
            f"placed after it: nothing is removed before {_said(restored.when + REST)}",
            hint="see what is held: tctl hold ls. Place again what is missing: tctl hold add",
        )


def _said(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d at %H:%M} UTC"
