"""What every test gets: coroutine tests run in a loop of their own, and nothing may be left running.

A coroutine test gets a fresh event loop. When it ends, a task, a child process or an open async generator that it
left behind fails it. Slow callbacks are not asserted (machines are noisy); blocking calls are found by the linter.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from teleport.launcher import LauncherEnd
    from teleport.testing.s3 import S3Server


async def _run_and_check(test: Coroutine[Any, Any, None]) -> None:
    await test
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    if left:
        await asyncio.sleep(0.05)  # tasks that were cancelled on the last line get their turn
        left = [task for task in left if not task.done()]
    assert not left, f"tasks left running: {[task.get_name() for task in left]}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def` tests, so that no plugin is needed for it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_run_and_check(pyfuncitem.obj(**arguments)))
    return True


# Sessions of the tests are the login's own shells, with its start-up files. Where those run `pyenv init`, a shell that
# a test kills at that moment leaves a lock behind, for which every later shell would wait a minute.
_SHELLS_LOCK = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "shims" / ".pyenv-shim"
_LOCK_SECONDS = 2.0  # a living shell holds it for less


def pytest_runtest_setup(item: pytest.Item) -> None:
    with contextlib.suppress(OSError):
        if time.time() - _SHELLS_LOCK.stat().st_mtime > _LOCK_SECONDS:
            _SHELLS_LOCK.unlink()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Some tests run only when asked for: long forms with TELEPORT_LONG=1 (`make test-long`), those that need a real
    Kubernetes cluster with TELEPORT_TEST_KUBE=1 (`make test-kube`)."""
    asked = {"long": "TELEPORT_LONG", "real_kube": "TELEPORT_TEST_KUBE"}
    left_out = [marker for marker, variable in asked.items() if not os.environ.get(variable)]
    selected = [item for item in items if not any(item.get_closest_marker(marker) for marker in left_out)]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    """Forked before the test's loop; ended with every session when the test is over."""
    from teleport.testing.launching import forked_launcher  # most tests need none

    with forked_launcher() as end:
        yield end


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """A real one, for a file of tests. What is asked of it within the test's process needs `s3_login`."""
    from teleport.testing import s3

    if s3.program() is None:
        pytest.skip(s3.MISSING)
    with s3.S3Server() as started:
        yield started


@pytest.fixture
def s3_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This process has the S3 server's credentials, and nothing that this machine has."""
    from teleport.testing import s3

    if s3.program() is None:
        pytest.skip(s3.MISSING)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**s3.LOGIN, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module", autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The file that left a thread behind fails, and not every later test that forks a launcher."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while left := [thread.name for thread in threading.enumerate() if thread not in before]:
        assert time.monotonic() < deadline, f"threads left running: {left}"
        time.sleep(0.01)  # one that was told to end takes a moment


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as several Unix users")
