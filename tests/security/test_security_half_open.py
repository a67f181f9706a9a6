"""Connections that never authenticate keep nobody else out (threat T17)."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path

import pytest

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.node.service import NodeService
from teleport.ssh.listener import Slots
from teleport.testing.ssh_lab import run_client, running_lab


def test_the_address_with_most_silent_connections_loses_its_oldest() -> None:
    closed: list[str] = []
    slots = Slots(4)
    for name in ("a1", "a2", "b1", "a3"):
        slots.take(name[0], lambda name=name: closed.append(name))  # type: ignore[misc]
    release = slots.take("c", lambda: closed.append("c1"))
    assert closed == ["a1"]
    assert slots.taken == 4
    release()
    release()
    assert slots.taken == 3
    slots.take("d", lambda: closed.append("d1"))
    assert closed == ["a1"]
    for _ in range(3):
        slots.take("e", lambda: closed.append("e"))
    assert slots.taken == 4
    assert slots.turned_away == 4


async def test_silent_connections_above_the_bound_do_not_keep_a_user_out(
    launcher_end: LauncherEnd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = getpass.getuser()
    monkeypatch.setattr("teleport.node.service.Slots", lambda bound: Slots(20))
    async with running_lab(Launcher(launcher_end)) as lab:
        assert isinstance(lab.node, NodeService)
        silent = [await asyncio.open_connection("127.0.0.1", lab.node_port) for _ in range(40)]
        config = lab.client_config(tmp_path, lab.authorities.user([me]), me)
        ran = await run_client("ssh", "-F", str(config), "direct", "echo in")
        for _, writer in silent:
            writer.close()
    assert ran.stdout == b"in\n", ran.stderr
