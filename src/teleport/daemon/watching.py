"""Which facility of the kernel enhanced recording uses here; none that can do it: the node does not start."""

from __future__ import annotations

import logging

from teleport.daemon.config.values import EnhancedRecording
from teleport.errors import TeleportError
from teleport.kernel.seen import Kind
from teleport.kernel.watcher import Buffers, Unavailable, Watcher

log = logging.getLogger(__name__)


def open_watcher(settings: EnhancedRecording | None) -> Watcher | None:
    """In the loop. None when enhanced recording is off; `TeleportError` when it is on and cannot be had."""
    if settings is None:
        return None
    from teleport.kernel.bpf import BpfWatcher  # only nodes that watch pay for it
    from teleport.kernel.proc import ProcWatcher

    buffers = Buffers(settings.command_pages, settings.disk_pages, settings.network_pages)
    reasons = []
    for open_one in (lambda: BpfWatcher.open(buffers), ProcWatcher.open):
        try:
            watcher: Watcher = open_one()
        except Unavailable as error:
            reasons.append(error.message)
            continue
        missing = ", ".join(sorted(frozenset(Kind) - watcher.kinds))
        if missing:
            log.warning(
                "enhanced recording of commands only (%s); sessions whose roles ask for %s are refused",
                "; ".join(reasons),
                missing,
            )
        else:
            log.info("enhanced recording by programs at the kernel's tracepoints")
        return watcher
    raise TeleportError(
        f"ssh_service.enhanced_recording is on, but this host does not give it to this process: {'; '.join(reasons)}",
        hint="it needs root and Linux 5.8 or newer with BPF, BTF and tracefs, outside containers; or set "
        "ssh_service.enhanced_recording.enabled: no",
    )
