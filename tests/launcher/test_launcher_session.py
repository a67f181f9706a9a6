"""What a session's program is given: identity, environment, descriptors, limits (T29, T53)."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from teleport.launcher import Kind, LauncherEnd, SpawnRequest
from teleport.launcher.client import Launcher

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as several Unix users")
pytestmark = needs_root
SESSION_ENV = (("SSH_TELEPORT_USER", "alice"), ("SSH_SESSION_ID", "1-2"), ("SSH_CLIENT", "192.0.2.1 5 3022"))


async def output(launcher: Launcher, request: SpawnRequest) -> str:
    process = await launcher.spawn(request)
    descriptor = process.pty if process.pty is not None else process.stdout
    assert descriptor is not None
    await process.wait()  # what it wrote is short, and waits in the pipe
    data = os.read(descriptor, 65_536).decode()
    process.close()
    for owned in (process.pty, process.stdin, process.stdout, process.stderr):
        if owned is not None:
            os.close(owned)
    return data


async def test_a_session_has_its_users_ids_and_groups_for_good(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """Real, effective, saved and file ids; exactly the account's groups; no capabilities."""
    text = await output(Launcher(end), SpawnRequest(person.pw_name, Kind.EXEC, "cat /proc/self/status"))
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(person.pw_uid)] * 4
    assert status["Gid"].split() == [str(person.pw_gid)] * 4
    expected = {str(group) for group in os.getgrouplist(person.pw_name, person.pw_gid)}
    assert set(status["Groups"].split()) == expected
    assert len(expected) == 2
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0
    of_libc = 0b11 << 31  # 32 and 33 belong to the C library, which resets them for nobody; a parent may ignore them
    assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) & ~of_libc == 0


LEAKING = """
import asyncio, json, os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
listener.set_inheritable(True)
from teleport import launcher
end = launcher.start()
from teleport.launcher.client import Launcher

async def main():
    client = Launcher(end)
    listings = []
    for pty in (None, launcher.Pty()):
        request = launcher.SpawnRequest(sys.argv[1], launcher.Kind.EXEC, "exec ls -l /proc/self/fd", pty=pty)
        process = await client.spawn(request)
        await process.wait()
        descriptor, data = process.stdout if pty is None else process.pty, b""
        os.set_blocking(descriptor, True)
        try:
            while part := os.read(descriptor, 65536):  # a terminal may hand over line by line
                data += part
        except OSError:
            pass  # the end of a terminal
        listings.append(data.decode())
        process.close()
    client.close()
    await client.wait_closed()
    print(json.dumps(listings))

asyncio.run(main())
"""


def test_a_session_gets_no_descriptors_but_its_streams(person: pwd.struct_passwd) -> None:
    """T53: with pipes and with a terminal, and also when the daemon had inheritable descriptors open."""
    arguments = [sys.executable, "-c", LEAKING, person.pw_name]
    with open("/etc/shadow", "rb") as leak:
        os.set_inheritable(leak.fileno(), True)
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=30, check=True, pass_fds=[leak.fileno()]
        )
    for listing, stream in zip(json.loads(done.stdout), (r"pipe:\[\d+\]", r"/dev/pts/\d+"), strict=True):
        lines = [line.split(None, 8)[8] for line in listing.splitlines() if "->" in line]
        assert len(lines) == 4, lines
        for number, line in enumerate(lines):
            # 3 is the folder that `ls` reads
            target = stream if number < 3 else r"/proc/\d+/fd"
            assert re.fullmatch(rf"{number} -> {target}", line), lines


async def test_the_environment_is_exactly_this(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """From the account, the node and the allow-list; nothing of the daemon's own."""
    request = SpawnRequest(
        person.pw_name,
        Kind.EXEC,
        "exec cat /proc/self/environ",
        client_env=(("LANG", "C.UTF-8"), ("LD_PRELOAD", "/tmp/x.so"), ("BASH_ENV", "/tmp/x"), ("LC_ALL", "C\nX=1")),
        session_env=SESSION_ENV,
    )
    found = dict(pair.split("=", 1) for pair in (await output(Launcher(end), request)).split("\0") if pair)
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):
        found.pop(name, None)  # set by bash itself
    path = found.pop("PATH")
    assert path.startswith("/usr/local/bin:")
    assert "sbin" not in path
    assert found == {
        "USER": person.pw_name,
        "LOGNAME": person.pw_name,
        "HOME": person.pw_dir,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        **dict(SESSION_ENV),
    }


def write_user_file(person: pwd.struct_passwd, text: str) -> None:
    folder = Path(person.pw_dir, ".tsh")
    folder.mkdir()
    (folder / "environment").write_text(text)


def link_user_file_to_a_secret(person: pwd.struct_passwd, text: str) -> None:
    """In place of the file, a link to one that root owns and only root may read."""
    folder = Path(person.pw_dir, ".tsh")
    (folder / "secret").write_text(text)
    (folder / "secret").chmod(0o600)
    (folder / "environment").unlink()
    (folder / "environment").symlink_to(folder / "secret")


async def test_the_users_file_counts_only_when_permitted(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """~/.tsh/environment is read as the user: a link to a file that only root may read adds nothing."""
    text = 'echo "$PROJECT,$LD_PRELOAD,$HOME"'
    denied = SpawnRequest(person.pw_name, Kind.EXEC, text)
    permitted = SpawnRequest(person.pw_name, Kind.EXEC, text, permit_user_env=True)
    write_user_file(person, "PROJECT=x\nLD_PRELOAD=/tmp/x.so\nHOME=/tmp\n")
    client = Launcher(end)
    assert await output(client, denied) == f",,{person.pw_dir}\n"
    assert await output(client, permitted) == f"x,,{person.pw_dir}\n"
    link_user_file_to_a_secret(person, "PROJECT=leaked\n")
    assert await output(client, permitted) == f",,{person.pw_dir}\n"


async def test_masks_limits_and_place_are_the_usual_ones(end: LauncherEnd, person: pwd.struct_passwd) -> None:
    """umask 022, home, 1024 open files, and a session and process group of its own."""
    text = (
        'umask; pwd; ulimit -Sn; read -r _ _ _ _ group session _ < /proc/$$/stat; echo "$((group-$$)) $((session-$$))"'
    )
    assert (await output(Launcher(end), SpawnRequest(person.pw_name, Kind.EXEC, text))).split("\n") == [
        "0022",
        person.pw_dir,
        "1024",
        "0 0",
        "",
    ]


UNPRIVILEGED = """
import asyncio, json, os, sys
import teleport.launcher.server  # while its files can be read: they may lie in a folder of root's
from teleport import launcher
from teleport.launcher.client import Launcher

async def main(end, name):
    client = Launcher(end)
    answers = []
    for login in (name, "root"):
        try:
            process = await client.spawn(launcher.SpawnRequest(login, launcher.Kind.EXEC, "id -u; exit 3"))
            answers.append([(await process.wait()).status, os.read(process.stdout, 100).decode()])
            process.close()
        except launcher.LauncherRefused as refused:
            answers.append([refused.reason, refused.message, refused.hint])
    client.close()
    await client.wait_closed()
    print(json.dumps(answers))

uid, gid, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([gid])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
asyncio.run(main(launcher.start(), name))
"""


def test_an_ordinary_user_starts_only_its_own_sessions(person: pwd.struct_passwd) -> None:
    """T53: without root the node fails closed, and says why and what would help."""
    arguments = [sys.executable, "-c", UNPRIVILEGED, str(person.pw_uid), str(person.pw_gid), person.pw_name]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=True, cwd="/")
    mine, root = json.loads(done.stdout)
    assert mine == [3, f"{person.pw_uid}\n"]
    assert root[0] == "not_privileged"
    assert f"only as {person.pw_name}, not as root" in root[1]
    assert "run the node service as root" in root[2]
