"""`teleport healthcheck` against the listener that daemons have."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from teleport.cli.teleport.command import teleport
from teleport.daemon.monitoring.diag import Readiness, diagnostics
from teleport.testing.commands import Ran, run_command
from teleport.transport.listeners import address_of, bind


@asynccontextmanager
async def listener(readiness: Readiness) -> AsyncIterator[str]:
    with bind("127.0.0.1", 0, "the diag service", "teleport.diag_addr") as bound:
        async with diagnostics(readiness).serve(bound):
            yield f"127.0.0.1:{address_of(bound)[1]}"


async def check(*arguments: str) -> Ran:
    return await asyncio.to_thread(run_command, teleport, "teleport", "healthcheck", *arguments)


async def test_the_exit_status_says_whether_it_serves(tmp_path: Path) -> None:
    """While it starts, when it does, and when a part of it is degraded."""
    readiness, problem = Readiness(["node"]), [""]
    readiness.watch("tunnels", lambda: problem[0])
    async with listener(readiness) as address:
        config = tmp_path / "teleport.yaml"
        config.write_text(f"teleport: {{data_dir: {tmp_path}, diag_addr: '{address}'}}\n")
        ran = await check(f"--config={config}")
        assert (ran.status, ran.out) == (1, "")
        assert "starting: node" in ran.err
        assert (await check(f"--diag-addr={address}", "--live")).ok().out == "ok\n", "it lives all the same"
        readiness.ready("node")
        assert (await check(f"--config={config}")).ok().out == "ok\n"
        assert json.loads((await check(f"--config={config}", "--format=json")).ok().out)["status"] == "ok"
        problem[0] = "no proxy is reached\x1b[2J"
        ran = await check(f"--diag-addr={address}", "--format=json")
        assert (ran.status, json.loads(ran.err)["code"]) == (1, "failed")
        ran = await check(f"--diag-addr={address}")
        assert "degraded: tunnels: no proxy is reached" in ran.err
        assert "\x1b" not in ran.err


async def test_what_cannot_be_asked_has_a_status_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "teleport.yaml"
    config.write_text(f"teleport: {{data_dir: {tmp_path}}}\n")
    ran = await check(f"--config={config}")
    assert (ran.status, "diag_addr is not set" in ran.err) == (2, True)
    assert (await check("--diag-addr=a:b:c")).status == 2
    assert (await check(f"--config={tmp_path / 'none'}")).status == 3
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = f"--diag-addr=127.0.0.1:{bound.getsockname()[1]}"
        assert (await check(closed)).status == 6
        bound.listen()
        ran = await check(closed, "--timeout=0.2")
        assert (ran.status, "does not answer" in ran.err) == (6, True), "one that is silent"
