"""What a host says that a rotation went on without: what happened, and what to run. Nothing when all is well."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.daemon.test_daemon_credentials import asking, config, host_in

from teleport.api import messages as m
from teleport.api import routes
from teleport.daemon import credentials, left_behind
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Cluster
from teleport.daemon.host import Host
from teleport.daemon.left_behind import LeftBehind
from teleport.identity import SystemRole
from teleport.testing.auth import RunningAuth, running_auth

ROLE = SystemRole.NODE
PHASES = ("init", "update_clients", "update_servers", "standby")


async def joined(auth: RunningAuth, folder: Path) -> tuple[Config, Host]:
    """A host with certificates of now."""
    host = host_in(folder)
    await credentials.obtain(host.proc_dir, ROLE, asking(auth, host.host_id))
    return settings(auth, folder), host


def settings(auth: RunningAuth, folder: Path) -> Config:
    address, port = auth.address
    return config(folder, f"  auth_servers: ['{address}:{port}']\n")


async def rotate(auth: RunningAuth, phase: str) -> None:
    request = m.RotateRequest(types=["host"], phase=phase, force=True)
    await auth.call(await auth.admin(), routes.ROTATE, request)
    if phase != "update_clients":  # its listener goes on showing a certificate of the former keys
        await auth.follow_rotation()
        return
    host = await auth.service.state.authority("host")
    auth.tls_cas = list(host.trusted_tls_certs)
    auth._contexts.clear()
    auth._admin = None


async def why(where: Config, host: Host) -> LeftBehind | None:
    return await asyncio.to_thread(left_behind.why, where, host, ROLE)


async def test_a_host_that_slept_through_the_phases_learns_in_each_how_it_stands(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        where, host = await joined(auth, tmp_path / "host")
        assert await why(where, host) is None
        for phase in ("init", "update_clients"):
            await rotate(auth, phase)
            assert await why(where, host) is None, f"it can still follow in {phase}"
        await rotate(auth, "update_servers")
        said = await why(where, host)
        assert said is not None
        assert "is being replaced" in said.message
        assert "tctl auth rotate --rollback" in said.hint
        await rotate(auth, "standby")
        said = await why(where, host)
        assert said is not None
        assert "it believes none of the keys that auth has now" in said.message
        for command in (f"tctl nodes rm {host.host_id}", "tctl nodes add --roles=node", f"rm -r {host.proc_dir}/node"):
            assert command in said.hint


async def test_a_host_that_learned_the_new_keys_and_nothing_more(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        where, host = await joined(auth, tmp_path / "host")
        for phase in PHASES:
            await rotate(auth, phase)
            if phase == "init":
                found = await auth.service.state.authority("host")
                both = Cluster(
                    cluster=found.name,
                    tls_ca_certs=list(found.trusted_tls_certs),
                    ssh_ca_keys=list(found.trusted_ssh_keys),
                )
                credentials.store_cluster(host.proc_dir, both)
            elif phase != "standby":
                assert await why(where, host) is None
        said = await why(where, host)
        assert said is not None
        assert "its certificates do not count any more" in said.message


async def test_nobody_and_strangers_say_nothing_about_it(tmp_path: Path) -> None:
    """Whoever answers in auth's place changes nothing but a message; another cluster not even that."""
    async with running_auth(tmp_path / "one") as auth:
        where, host = await joined(auth, tmp_path / "host")
        kept = credentials.load_cluster(host.proc_dir)
        assert kept is not None
        other = Cluster(cluster="other.example", tls_ca_certs=kept.tls_ca_certs, ssh_ca_keys=kept.ssh_ca_keys)
        credentials.store_cluster(host.proc_dir, other)
        await rotate(auth, "init")
        assert await why(where, host) is None
    credentials.store_cluster(host.proc_dir, kept)
    assert await why(where, host) is None, "nobody is there"
    assert await why(where, host_in(tmp_path / "nothing")) is None


async def test_what_becomes_ready_is_not_disturbed_and_what_does_not_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(left_behind, "FIRST", 0.01)
    monkeypatch.setattr(left_behind, "AGAIN", 0.01)
    ready, asked = asyncio.Event(), 0

    def ask() -> LeftBehind | None:
        nonlocal asked
        asked += 1
        if asked == 3:
            ready.set()
        return None

    loop = asyncio.get_running_loop()
    await left_behind.unless(ready.wait(), lambda: asyncio.run_coroutine_threadsafe(_of(ask), loop).result())
    assert asked >= 3
    with pytest.raises(LeftBehind, match="so it is"):
        await left_behind.unless(asyncio.Event().wait(), lambda: LeftBehind("so it is"))


async def _of(ask: object) -> LeftBehind | None:
    assert callable(ask)
    found = ask()
    assert found is None or isinstance(found, LeftBehind)
    return found
