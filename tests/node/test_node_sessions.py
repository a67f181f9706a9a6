"""Sessions on a node, reached with the real `ssh`."""

from __future__ import annotations

import asyncio
import getpass
import os
import random
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from msgspec.structs import replace as replace_fields

from teleport.audit.events import (
    AuthFailed,
    ClientDisconnect,
    Exec,
    Resize,
    SessionData,
    SessionEnd,
    SessionRejected,
    SessionRequestDenied,
    SessionStart,
    event_name,
)
from teleport.authz.decision import ClusterDefaults
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.testing.running import run_client, wait_until
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()


def ssh(lab: Lab, folder: Path, *options: str, login: str = ME, host: str = "direct") -> list[str]:
    """An ssh command line; the command to run is appended."""
    config = lab.client_config(folder, lab.authorities.user([ME, "nobody"]), login)
    return ["ssh", "-F", str(config), *options, host]


async def test_a_command_is_recorded_audited_and_its_end_comes_back(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The whole life of a session, in order, through the proxy."""
    async with running_lab(Launcher(launcher_end), labels={"env": "test"}) as lab:
        ran = await run_client(*ssh(lab, tmp_path, host="node1"), "cat; echo err >&2; exit 3", stdin=b"in\n")
        assert (ran.status, ran.stdout, ran.stderr) == (3, b"in\n", "err\n")
        start, executed, data, end = lab.events.all
        assert isinstance(start, SessionStart)
        assert (start.user, start.login, start.cluster_name) == ("alice", ME, "lab.test")
        assert start.server_id == str(lab.node_host.host_id)
        assert start.server_labels == {"env": "test"}
        assert start.initial_command == ["cat; echo err >&2; exit 3"]
        assert not start.interactive
        assert isinstance(executed, Exec)
        assert (executed.code, executed.exit_code) == ("T3002E", "3")
        assert isinstance(data, SessionData)
        assert (data.tx, data.rx) == (7, 3)
        assert isinstance(end, SessionEnd)
        assert (end.participants, end.reason) == (["alice"], "")
        assert end.session_start == start.time
        assert [event.ei for event in (start, executed, end)] == [0, 1, 2]
        assert len({getattr(event, "sid", "") for event in lab.events.all}) == 1
        (recording,) = lab.recordings.all
        assert recording.header.sid == start.sid
        assert (bytes(recording.stdout), bytes(recording.stderr)) == (b"in\n", b"err\n")
        assert recording.reason == "ended"


async def test_bytes_sent_are_the_bytes_recorded(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Threat T39: random bytes in random pieces on both streams, with input at the same time."""
    chance = random.Random(7)
    out, err = chance.randbytes(3_000_000), chance.randbytes(1_000_000)
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    script = (
        f"import os,random\nr=random.Random(3)\na=open({str(tmp_path / 'out')!r},'rb').read()\n"
        f"b=open({str(tmp_path / 'err')!r},'rb').read()\n"
        "def w(f,d):\n  n=os.write(f,d[:r.randrange(1,90000)]);return d[n:]\n"
        "while a or b:\n  if a and (not b or r.random()<.7): a=w(1,a)\n  elif b: b=w(2,b)\n"
    )
    (tmp_path / "script.py").write_text(script)
    async with running_lab(Launcher(launcher_end)) as lab:
        command = [*ssh(lab, tmp_path, host="node1"), f"python3 {tmp_path}/script.py"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        got_out, got_err = await process.communicate()
        assert process.returncode == 0
        (recording,) = lab.recordings.all
        assert got_out == out == bytes(recording.stdout)
        assert got_err == err == bytes(recording.stderr)


async def test_input_reaches_the_process_whole_and_its_end_too(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Back-pressure from a slow reader, then half-close: the process sees every byte and the end."""
    data = random.Random(1).randbytes(5_000_000)
    async with running_lab(Launcher(launcher_end)) as lab:
        ran = await run_client(*ssh(lab, tmp_path, host="jump"), "sleep 0.1; sha256sum", stdin=data)
    import hashlib

    assert ran.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_death_by_signal_comes_through(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Done-when 2: ssh itself answers 255 and names no status."""
    async with running_lab(Launcher(launcher_end)) as lab:
        ran = await run_client(*ssh(lab, tmp_path), "kill -TERM $$")
        end = (await lab.events.wait_for("exec"))[0]
    assert ran.status == 255
    assert isinstance(end, Exec)
    assert (end.exit_code, end.exit_error) == ("", "signal TERM")


async def test_a_terminal_has_the_clients_size_type_and_modes(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`ssh -tt`, and what is interactive is on record as such."""
    async with running_lab(Launcher(launcher_end)) as lab:
        ran = await run_client(*ssh(lab, tmp_path, "-tt"), "tty; echo $TERM; stty size; exit 5")
        end = (await lab.events.wait_for("session.end"))[0]
    assert ran.status == 5
    lines = ran.stdout.decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/")
    assert lines[1] == "xterm"
    assert isinstance(end, SessionEnd)
    assert end.interactive


async def test_the_session_knows_who_and_where_it_is(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`cli.md`, session environment; the id is the one of the events."""
    async with running_lab(Launcher(launcher_end)) as lab:
        ran = await run_client(*ssh(lab, tmp_path, "-o", "SetEnv LC_ALL=C BASH_ENV=/tmp/x LD_PRELOAD=/tmp/y"), "env")
        start = lab.events.named("session.start")[0]
        environment = dict(line.split("=", 1) for line in ran.stdout.decode().splitlines() if "=" in line)
        assert environment["SSH_SESSION_ID"] == getattr(start, "sid", None)
        assert environment["SSH_TELEPORT_USER"] == "alice"
        assert environment["SSH_TELEPORT_CLUSTER_NAME"] == "lab.test"
        assert environment["SSH_TELEPORT_HOST_UUID"] == str(lab.node_host.host_id)
        assert environment["SSH_CLIENT"].startswith("127.0.0.1 ")
        assert environment["LC_ALL"] == "C"
        assert not {"BASH_ENV", "LD_PRELOAD"} & set(environment), "threat T29"


async def test_a_client_does_not_choose_the_id_of_its_session(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """An id of a stored recording would leave the new session's recording with nowhere to go (threat T41)."""
    wanted = str(uuid4())
    async with running_lab(Launcher(launcher_end)) as lab:
        for _ in range(2):
            await run_client(*ssh(lab, tmp_path, "-o", f"SetEnv TELEPORT_SESSION={wanted}"), "true")
        ids = [getattr(event, "sid", "") for event in lab.events.named("session.start")]
    assert len(set(ids)) == 2
    assert wanted not in ids


@pytest.mark.parametrize(
    ("arguments", "denied"),
    [
        (["-s", "direct", "netconf"], "subsystem"),
    ],
    ids=["subsystem"],
)
async def test_what_the_table_refuses_is_refused_and_on_record(
    launcher_end: LauncherEnd, tmp_path: Path, arguments: list[str], denied: str
) -> None:
    """Threat T25, for the kinds that OpenSSH's client can ask for."""
    async with running_lab(Launcher(launcher_end)) as lab:
        command = ssh(lab, tmp_path)[:-1]
        ran = await run_client(*command, *arguments)
        event = (await lab.events.wait_for("session.request_denied"))[0]
    assert ran.status != 0
    assert isinstance(event, SessionRequestDenied)
    assert event.request == denied
    assert not lab.events.named("session.start")


async def test_agent_forwarding_is_refused_while_the_command_runs(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Trap T-5: no agent socket is ever made by the daemon."""
    async with running_lab(Launcher(launcher_end)) as lab:
        agent = tmp_path / "agent.sock"
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), str(agent))
        command = ssh(lab, tmp_path, "-o", f"IdentityAgent={agent}", "-o", f"ForwardAgent={agent}")
        ran = await run_client(*command, "echo agent:$SSH_AUTH_SOCK")
        event = (await lab.events.wait_for("agent.forward"))[0]
        server.close()
        await server.wait_closed()
    assert ran.stdout == b"agent:\n"
    assert (event.code, getattr(event, "error", "")) == ("T9211W", "no role has forward_agent: yes")


async def test_a_login_that_the_roles_do_not_give_is_refused_with_a_sentence(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Done-when 5: the user sees a clear sentence, the audit log the reason."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.role = type(lab.rules)(["somebody-else"]).role
        ran = await run_client(*ssh(lab, tmp_path, host="node1"), "id")
        event = (await lab.events.wait_for("auth"))[0]
    assert ran.status == 255
    assert ran.stdout == b""
    assert f"Your roles do not allow the login {ME!r} on this host." in ran.stderr
    assert isinstance(event, AuthFailed)
    assert (event.user, event.login) == ("alice", ME)
    assert f"does not give the login {ME!r}" in event.error


async def test_roles_say_which_commands_may_be_run(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """A list of commands leaves no shell beside it, and what a shell would understand differently is not on it."""
    async with running_lab(Launcher(launcher_end)) as lab:
        options = replace_fields(lab.rules.role.options, commands=("echo *",))
        lab.rules.role = replace_fields(lab.rules.role, spec=replace_fields(lab.rules.role.spec, options=options))
        line = ssh(lab, tmp_path)
        allowed = await run_client(*line, "echo hello")
        refused = [await run_client(*line, command) for command in ("echo hello; id", "echo $(id)", "id")]
        shell = await run_client(*line, "-T", stdin=b"id\n")
        events = await lab.events.wait_for("session.request_denied", count=4)
    assert (allowed.status, allowed.stdout) == (0, b"hello\n")
    for ran in (*refused, shell):
        assert (ran.status, ran.stdout) == (255, b"")
        assert "Your roles do not allow " in ran.stderr
    assert [getattr(event, "request", "") for event in events] == ["exec", "exec", "exec", "shell"]


async def test_a_login_that_is_not_in_the_certificate_is_refused(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The certificate's principals bound the roles."""
    async with running_lab(Launcher(launcher_end)) as lab:
        ran = await run_client(*ssh(lab, tmp_path, login="daemon"), "id")
    assert ran.status == 255
    assert "does not hold the login 'daemon'" in ran.stderr


async def test_nothing_starts_that_cannot_be_recorded_or_put_on_record(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Threat T40: first the recording, then the event, then the process."""
    mark = tmp_path / "mark"
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.recordings.failing = True
        ran = await run_client(*ssh(lab, tmp_path), f"touch {mark}")
        assert ran.status == 255
        assert "cannot record sessions now" in ran.stderr
        lab.recordings.failing = False
        lab.events.failing = True
        ran = await run_client(*ssh(lab, tmp_path), f"touch {mark}")
        assert ran.status == 255
        assert "cannot write its audit log now" in ran.stderr
    assert not mark.exists()


async def test_a_recording_that_fails_ends_its_session(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """What is not recorded is not sent, and the processes are killed."""
    from teleport.errors import TeleportError

    async with running_lab(Launcher(launcher_end)) as lab:
        running = asyncio.create_task(run_client(*ssh(lab, tmp_path), "echo begun; exec sleep 60"))
        await lab.events.wait_for("session.start")
        await wait_until(lambda: lab.recordings.all[0].stdout == b"begun\n")
        lab.recordings.all[0].failed.set_result(TeleportError("the disk is full"))
        ran = await running
        end = (await lab.events.wait_for("session.end"))[0]
    assert ran.status == 255
    assert "the recording failed" in ran.stderr
    assert getattr(end, "reason", "") == "the recording failed"


async def test_a_client_that_leaves_takes_its_processes_along(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """Also those in the background; the end is on record."""
    pid_file = tmp_path / "pid"
    async with running_lab(Launcher(launcher_end)) as lab:
        command = f"sh -c 'echo $$ > {pid_file}; exec sleep 60' & wait"
        client = await asyncio.create_subprocess_exec(*ssh(lab, tmp_path), command, stdin=asyncio.subprocess.DEVNULL)
        await wait_until(lambda: pid_file.exists() and bool(pid_file.read_text().strip()))
        client.kill()
        await client.wait()
        end = (await lab.events.wait_for("session.end"))[0]
        pid = int(pid_file.read_text())
        await wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert getattr(end, "reason", "") == "the client disconnected"


async def test_a_lock_ends_open_sessions_at_once(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """The permit is evaluated again when the rules change."""
    async with running_lab(Launcher(launcher_end)) as lab:
        running = asyncio.create_task(run_client(*ssh(lab, tmp_path), "exec sleep 60"))
        await lab.events.wait_for("session.start")
        lab.node.reconsider()
        assert lab.node.connections == 1
        target = LockTarget(user="alice")
        lab.rules.locked = [Lock(metadata=Metadata(name="l"), spec=LockSpec(target=target, message="stolen"))]
        lab.node.reconsider()
        ran = await running
        event = (await lab.events.wait_for("client.disconnect"))[0]
        await lab.events.wait_for("session.end")
    assert ran.status == 255
    assert "Access is locked." in ran.stderr
    assert isinstance(event, ClientDisconnect)
    assert "stolen" in event.reason


async def test_idle_clients_are_disconnected(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`client_idle_timeout`, with its event."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.cluster = ClusterDefaults(client_idle_timeout=timedelta(seconds=0.3))
        ran = await run_client(*ssh(lab, tmp_path), "exec sleep 60")
        event = (await lab.events.wait_for("client.disconnect"))[0]
    assert ran.status == 255
    assert getattr(event, "reason", "").startswith("idle for more than")


async def test_sessions_on_one_connection_are_limited(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """`max_sessions`: the second session of a shared connection is rejected, with its event."""
    async with running_lab(Launcher(launcher_end)) as lab:
        lab.rules.options(max_sessions=1)
        control = ["-o", f"ControlPath={tmp_path}/ctl"]
        first = await asyncio.create_subprocess_exec(
            *ssh(lab, tmp_path, *control, "-o", "ControlMaster=yes"),
            "echo here; cat",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert first.stdout is not None
        assert await first.stdout.readline() == b"here\n"
        second = await run_client(*ssh(lab, tmp_path, *control), "echo second")
        event = (await lab.events.wait_for("session.rejected"))[0]
        await first.communicate(b"")
    assert "Session open refused by peer" in second.stderr  # then ssh makes a connection of its own
    assert isinstance(event, SessionRejected)
    assert (event.reason, event.max) == ("max_sessions", 1)


async def test_window_changes_reach_the_terminal_and_the_record(launcher_end: LauncherEnd, tmp_path: Path) -> None:
    """With our own client, which can change its size."""
    from teleport.ssh.client import connect
    from teleport.ssh.client_connection import ClientKey
    from teleport.ssh.surface import TerminalRequest, TerminalSize

    output = bytearray()
    async with running_lab(Launcher(launcher_end)) as lab:
        user = lab.authorities.user([ME])
        key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())

        def check(certificate: bytes) -> None:
            lab.authorities.verify_host(certificate)

        client = await connect(("127.0.0.1", lab.node_port), login=ME, key=key, check=check)
        terminal = TerminalRequest("xterm", TerminalSize(90, 30))
        session = await client.start(
            command="stty size; read line; stty size; exit 4",
            terminal=terminal,
            on_output=lambda data, stderr: output.extend(data),
        )
        await wait_until(lambda: b"30 90" in output)
        session.resize(TerminalSize(120, 40))
        await lab.events.wait_for("resize")
        session.write(b"\n")
        ended = await session.wait()
        await client.close()
        resize = lab.events.named("resize")[0]
        (recording,) = lab.recordings.all
    assert ended.status == 4
    assert b"40 120" in output
    assert isinstance(resize, Resize)
    assert resize.size == "120:40"
    assert recording.sizes == [(120, 40)]
    assert [event_name(event) for event in lab.events.all] == [
        "session.start",
        "resize",
        "exec",
        "session.data",
        "session.end",
    ]


async def test_a_service_that_stops_ends_its_sessions_with_their_events(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """Stopping is cancelling: processes die, recordings are closed, ends are on record, before `run` returns."""
    pid_file = tmp_path / "pid"
    async with running_lab(Launcher(launcher_end)) as lab:
        command = f"echo $$ > {pid_file}; exec sleep 60"
        running = asyncio.create_task(run_client(*ssh(lab, tmp_path, host="node1"), command))
        await wait_until(lambda: pid_file.exists() and bool(pid_file.read_text().strip()))
    (end,) = lab.events.named("session.end")
    assert getattr(end, "reason", "") in {"the node's service stopped", "the client disconnected"}
    assert lab.recordings.all[0].reason is not None
    pid = int(pid_file.read_text())
    await wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert (await running).status == 255
