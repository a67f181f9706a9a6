"""A channel that was opened long before: what it starts is decided when it starts (threats T31, T40)."""

from __future__ import annotations

import asyncio
import contextlib
import getpass

import pytest
from asyncssh.channel import SSHClientChannel

from teleport.authz.decision import ClusterDefaults
from teleport.errors import TeleportError
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.ssh.client import SshClient, connect
from teleport.ssh.client_connection import ClientKey
from teleport.ssh.client_session import RemoteSession
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()


class Waiting:
    """A client whose channel is open and who asks for a command only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.go = asyncio.Event(), asyncio.Event()
        ask = SSHClientChannel._make_request

        async def later(channel: SSHClientChannel[bytes], request: bytes, *arguments: bytes) -> bool:
            if request == b"exec":
                self.open.set()
                await self.go.wait()
            return bool(await ask(channel, request, *arguments))

        monkeypatch.setattr(SSHClientChannel, "_make_request", later)

    async def begin(self, lab: Lab) -> tuple[SshClient, asyncio.Task[RemoteSession]]:
        user = lab.authorities.user([ME])
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
        client = await connect(("127.0.0.1", lab.node_port), login=ME, key=key, check=lambda certificate: None)
        task = asyncio.create_task(client.start(command="echo secret", on_output=lambda data, stderr: None))
        await self.open.wait()
        return client, task


async def test_a_locked_user_starts_nothing_in_the_last_moments(
    launcher_end: LauncherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        waiting = Waiting(monkeypatch)
        client, task = await waiting.begin(lab)
        lab.rules.locked = [Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="alice")))]
        lab.node.reconsider()
        await lab.events.wait_for("client.disconnect")
        waiting.go.set()
        with contextlib.suppress(TeleportError, OSError):
            session = await task
            assert (await session.wait()).status != 0
        assert not lab.events.named("session.start")
        await client.close()


async def test_whether_it_is_recorded_is_decided_when_it_starts(
    launcher_end: LauncherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.cluster = ClusterDefaults(record_sessions=False)
        waiting = Waiting(monkeypatch)
        client, task = await waiting.begin(lab)
        lab.rules.cluster = ClusterDefaults(record_sessions=True)
        waiting.go.set()
        assert (await (await task).wait()).status == 0
        assert [bytes(one.stdout) for one in lab.recordings.all] == [b"secret\n"]
        await client.close()
