"""What Prometheus' own clients tell of a process and of its interpreter, and how late the event loop runs.

Names are those of https://prometheus.io/docs/instrumenting/writing_clientlibs/ and of its client for Python.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from teleport import __version__
from teleport.counted import Histogram
from teleport.daemon.collecting import resident
from teleport.daemon.monitoring.metrics import Gauge, Metrics

LAG: Final = Histogram(
    "teleport_event_loop_lag_seconds",
    "How much later than it was to, the event loop did what it does once a second.",
    "all",
    (0.005, 0.02, 0.1, 0.5, 1.0, 5.0),
)
CPU: Final = Gauge("process_cpu_seconds_total", "Processor time, user and system, in seconds.", counts=True)
RESIDENT: Final = Gauge("process_resident_memory_bytes", "Memory that is in use, in bytes.")
VIRTUAL: Final = Gauge("process_virtual_memory_bytes", "Address space, in bytes.")
OPEN: Final = Gauge("process_open_fds", "Open descriptors.")
MOST_OPEN: Final = Gauge("process_max_fds", "Descriptors that may be open.")
STARTED: Final = Gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")
THREADS: Final = Gauge("process_threads", "Threads of the interpreter.")
TASKS: Final = Gauge("teleport_event_loop_tasks", "Tasks of the event loop.")
COLLECTIONS: Final = Gauge(
    "python_gc_collections_total", "How often garbage was collected, by generation.", "generation", counts=True
)
COLLECTED: Final = Gauge("python_gc_objects_collected_total", "Objects that were collected.", "generation", counts=True)
UNCOLLECTABLE: Final = Gauge(
    "python_gc_objects_uncollectable_total", "Objects that could not be collected.", "generation", counts=True
)
PYTHON: Final = Gauge("python_info", "1, with the version of the interpreter.", "version")
BUILD: Final = Gauge("teleport_build_info", "1, with the version of this daemon.", "version")

_STARTED: Final = time.time()


def add(metrics: Metrics) -> None:
    """Of this process."""
    metrics.add(CPU, time.process_time)
    metrics.add(RESIDENT, resident)
    metrics.add(VIRTUAL, _virtual)
    metrics.add(OPEN, lambda: len(os.listdir("/proc/self/fd")) - 1)  # without the one that reads
    metrics.add(MOST_OPEN, lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    metrics.add(STARTED, lambda: _STARTED)
    metrics.add(THREADS, threading.active_count)
    metrics.add(TASKS, lambda: len(asyncio.all_tasks()))
    for gauge, name in ((COLLECTIONS, "collections"), (COLLECTED, "collected"), (UNCOLLECTABLE, "uncollectable")):
        metrics.add(gauge, _of_generations(name))
    metrics.add(PYTHON, lambda: {".".join(map(str, sys.version_info[:3])): 1})
    metrics.add(BUILD, lambda: {__version__: 1})
    metrics.count([LAG])


async def measure_lag() -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 1.0
        await asyncio.sleep(1.0)
        LAG.add(max(0.0, loop.time() - due))


def _of_generations(name: str) -> Callable[[], dict[str, float]]:
    return lambda: {str(number): one[name] for number, one in enumerate(gc.get_stats())}


def _virtual() -> float:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
