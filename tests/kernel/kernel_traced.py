"""The kernel's tracepoints in a test, where this process may use them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from teleport.kernel.bpf import BpfWatcher
from teleport.kernel.watcher import Buffers, Unavailable

Test = Callable[..., Coroutine[Any, Any, None]]


def open_watcher() -> BpfWatcher:
    """In the running loop. Skips the test, with the reason, where the kernel gives none."""
    try:
        return BpfWatcher.open(Buffers())
    except Unavailable as error:
        pytest.skip(f"this host does not give it: {error.message}")


def traced(test: Test) -> Test:
    """The test's first argument is a watcher, closed when it ends."""

    async def run(**fixtures: Any) -> None:
        watcher = open_watcher()
        try:
            await test(watcher, **fixtures)
        finally:
            watcher.close()

    _, *others = inspect.signature(test).parameters.values()
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
    return run
