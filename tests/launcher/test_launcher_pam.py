"""Sessions by real stacks of PAM: what modules set, what they refuse, and that what was opened is closed (T53)."""

from __future__ import annotations

import os
import pwd
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.launcher.test_launcher_client import close, read, run, until

from teleport.launcher import Kind, LauncherEnd, LauncherRefused, Pty, Reason, SpawnRequest
from teleport.launcher.client import Launcher
from teleport.launcher.values import PamRequest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/etc/pam.d").is_dir(), reason="needs root and PAM: it writes a file into /etc/pam.d"
)
Stack = Callable[[str], PamRequest]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def exists(path: Path | str) -> bool:
    return Path(path).exists()


def open_to_all(folder: Path, mode: int = 0o777) -> None:
    """Also those above it, which pytest closes whenever one of its runs begins on this machine."""
    for above in folder.parents[:2]:
        above.chmod(0o755)
    folder.chmod(mode)


@pytest.fixture
def group_conf() -> Iterator[Path]:
    """The configuration of pam_group, put back afterwards."""
    path = Path("/etc/security/group.conf")
    before = path.read_text() if path.exists() else None
    yield path
    if before is None:
        path.unlink()
    else:
        path.write_text(before)


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Writes a service of PAM, whose file goes again."""
    written: list[Path] = []

    def write(text: str) -> PamRequest:
        path = Path(f"/etc/pam.d/tp-{uuid.uuid4().hex[:8]}")
        written.append(path)
        path.write_text(text)
        return PamRequest(path.name)

    yield write
    for path in written:
        path.unlink()


@pytest.fixture
def logging_stack(stack: Stack, tmp_path: Path) -> tuple[PamRequest, Path]:
    """A stack that lets in, and tells each of its steps to a file."""
    log, script = tmp_path / "log", tmp_path / "tell"
    script.write_text(
        f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $PAM_RHOST $PAM_TTY $TELEPORT_USERNAME $MADE_UP" >>{log}\n'
    )
    script.chmod(0o755)
    open_to_all(tmp_path, 0o755)
    request = stack(
        "account required pam_permit.so\n"
        f"session required pam_exec.so {script}\n"
        f"session required pam_env.so conffile={tmp_path}/env\n"
        f"session required pam_limits.so conf={tmp_path}/limits\n"
        "session required pam_umask.so umask=0027\n"
        "session optional pam_echo.so be welcome\n"
    )
    (tmp_path / "env").write_text(
        "FROM_PAM DEFAULT=yes\nLANG DEFAULT=C.UTF-8\nHOME DEFAULT=/nowhere\n"
        "LD_PRELOAD DEFAULT=/nowhere.so\nBASH_ENV DEFAULT=/nowhere\n"
    )
    (tmp_path / "limits").write_text("* - nofile 333\n* - core 0\n")
    return replace(request, environment=(("TELEPORT_USERNAME", "alice"), ("MADE_UP", "x y"))), log


def request(person: pwd.struct_passwd, text: str, pam: PamRequest, pty: Pty | None = None) -> SpawnRequest:
    return SpawnRequest(person.pw_name, Kind.EXEC, text, pam=pam, client="192.0.2.9", pty=pty)


async def test_what_modules_set_holds_in_the_session_and_is_closed_after_it(
    end: LauncherEnd, person: pwd.struct_passwd, logging_stack: tuple[PamRequest, Path]
) -> None:
    pam, log = logging_stack
    launcher = Launcher(end)
    text = "echo $FROM_PAM $LANG $HOME $MADE_UP$LD_PRELOAD$BASH_ENV; ulimit -n; umask; id -u; echo $PPID"
    out, _, ended = await run(launcher, request(person, text, pam))
    *said, parent = out.decode().split()
    assert said == ["yes", "C.UTF-8", person.pw_dir, "x", "y", "333", "0027", str(person.pw_uid)]
    assert ended.status == 0
    await until(lambda: len(lines(log)) == 2)
    name = person.pw_name
    assert lines(log) == [
        f"open_session {name} 192.0.2.9 ssh alice x y",
        f"close_session {name} 192.0.2.9 ssh alice x y",
    ]
    await until(lambda: not exists(f"/proc/{parent}"))  # what modules did to it does not reach another session
    out, _, _ = await run(launcher, SpawnRequest(name, Kind.EXEC, "ulimit -n; umask; echo [$FROM_PAM]"))
    assert out.decode().split() == ["1024", "0022", "[]"]


async def test_a_terminal_is_named_and_a_login_shell_shows_what_modules_say(
    end: LauncherEnd, person: pwd.struct_passwd, logging_stack: tuple[PamRequest, Path]
) -> None:
    pam, log = logging_stack
    shell = replace(request(person, "", pam, Pty()), kind=Kind.SHELL)
    process = await Launcher(end).spawn(shell)
    try:
        assert process.pty is not None
        assert b"be welcome" in await read(process.pty, b"be welcome")
        os.write(process.pty, b"exit\n")
        await process.wait()
        assert process.tty is not None
    finally:
        close(process)
    await until(lambda: "close_session" in lines(log)[-1])
    assert {line.split()[3] for line in lines(log)} == {process.tty}


async def test_a_greeting_that_no_terminal_holds_is_shown_whole(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, tmp_path: Path
) -> None:
    """It is written before the shell runs, and read while it is written. What is typed meanwhile a terminal echoes into
    it, as under sshd; so nothing is typed before its end was read."""
    greeting = write(tmp_path / "motd", "x" * 79 + chr(10), 700)
    with greeting.open("a") as file:
        file.write("that is all\n")
    pam = stack(
        f"account required pam_permit.so\nsession required pam_permit.so\n"
        f"session optional pam_motd.so motd={greeting}\n"
    )
    process = await Launcher(end).spawn(replace(request(person, "", pam, Pty()), kind=Kind.SHELL))
    try:
        assert process.pty is not None
        shown = await read(process.pty, b"that is all")
        os.write(process.pty, b"echo at-the-$((1))-end; exit\n")
        shown += await read(process.pty)
        assert (await process.wait()).status == 0
    finally:
        close(process)
    assert shown.count(b"x" * 79) == 700
    assert b"at-the-1-end" in shown.partition(b"x" * 79)[2]


def write(path: Path, line: str, count: int) -> Path:
    open_to_all(path.parent, 0o755)  # the module reads it as the user
    path.write_text(line * count)
    return path


async def test_what_a_session_leaves_behind_does_not_hold_it_open(
    end: LauncherEnd, person: pwd.struct_passwd, logging_stack: tuple[PamRequest, Path]
) -> None:
    """As under sshd: closed with the session, while `nohup`'s program goes on."""
    pam, log = logging_stack
    process = await Launcher(end).spawn(request(person, "setsid sleep 60 >/dev/null 2>&1 & echo $!", pam))
    left = int(await read(process.stdout))
    await process.wait()
    close(process)
    try:
        await until(lambda: "close_session" in lines(log)[-1])
        assert exists(f"/proc/{left}")
    finally:
        os.kill(left, 9)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("account required pam_deny.so\nsession required pam_permit.so\n", "account"),
        ("account required pam_permit.so\nsession required pam_deny.so\n", "session"),
        ("account required pam_no_such_module.so\nsession required pam_permit.so\n", "account"),
        ("account required pam_permit.so\nsession required pam_exec.so /bin/false\n", "session"),
    ],
)
async def test_whatever_is_not_success_refuses(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, tmp_path: Path, text: str, told: str
) -> None:
    """PAM's failure closes (T53); the next session is none the worse."""
    open_to_all(tmp_path)
    launcher = Launcher(end)
    for pty in (None, Pty()):
        with pytest.raises(LauncherRefused, match=rf"PAM refuses the login \({told}\)") as raised:
            await launcher.spawn(request(person, f"touch {tmp_path}/ran", stack(text), pty))
        assert raised.value.reason is Reason.PAM
        assert "/etc/pam.d/" in raised.value.hint
    assert not exists(tmp_path / "ran")
    out, _, _ = await run(launcher, SpawnRequest(person.pw_name, Kind.EXEC, "echo next"))
    assert out == b"next\n"


@pytest.fixture
def worn_out(person: pwd.struct_passwd) -> Iterator[None]:
    """The person's password has to be changed."""
    subprocess.run(["chpasswd"], input=f"{person.pw_name}:first one here\n".encode(), check=True)
    subprocess.run(["chage", "-d", "0", person.pw_name], check=True)
    yield
    subprocess.run(["chage", "-d", "-1", person.pw_name], check=True)


@pytest.mark.usefixtures("worn_out")
async def test_a_password_that_has_to_be_changed_refuses(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack
) -> None:
    pam = stack("account required pam_unix.so\nsession required pam_permit.so\n")
    with pytest.raises(LauncherRefused, match="the password has to be changed first"):
        await Launcher(end).spawn(request(person, "true", pam))


AUTH = "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n"


@pytest.fixture
def password(person: pwd.struct_passwd) -> str:
    text = uuid.uuid4().hex
    subprocess.run(["chpasswd"], input=f"{person.pw_name}:{text}\n".encode(), check=True)
    return text


async def test_the_auth_stack_asks_at_the_terminal(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, password: str
) -> None:
    """What is typed is not shown."""
    pam = replace(stack(AUTH), auth=True)
    process = await Launcher(end).spawn(request(person, "echo started; stty -a | grep -c ' echo '", pam, Pty()))
    try:
        assert process.pty is not None
        before = await read(process.pty, b"assword: ")
        os.write(process.pty, f"{password}\n".encode())
        after = await read(process.pty)
        assert (await process.wait()).status == 0
    finally:
        close(process)
    assert after.split() == [b"started", b"1"]
    assert password.encode() not in before + after


@pytest.mark.parametrize("may", [True, False])
async def test_who_watches_begins_after_the_answer_and_before_the_program(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, password: str, tmp_path: Path, may: bool
) -> None:
    """The terminal is shown already then; a refusal is told there."""
    open_to_all(tmp_path)
    told: list[int] = []

    def held(pid: int) -> None:
        told.append(pid)
        if not may:
            raise LauncherRefused(Reason.FAILED, "not watched")

    pam = replace(stack(AUTH), auth=True)
    process = await Launcher(end).spawn(request(person, f"touch {tmp_path}/ran; echo $$", pam, Pty()), held=held)
    try:
        assert process.pty is not None
        await read(process.pty, b"assword: ")
        assert told == []
        os.write(process.pty, f"{password}\n".encode())
        said = await read(process.pty)
        ended = await process.wait()
    finally:
        close(process)
    assert exists(tmp_path / "ran") == may
    assert (ended.status, said.split()) == ((0, [str(told[0]).encode()]) if may else (255, [b"not", b"watched"]))


async def test_a_wrong_answer_and_nobody_to_ask_refuse(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, password: str, tmp_path: Path
) -> None:
    open_to_all(tmp_path)
    pam = replace(stack(AUTH), auth=True)
    launcher = Launcher(end)
    process = await launcher.spawn(request(person, f"touch {tmp_path}/ran", pam, Pty()))
    try:
        assert process.pty is not None
        await read(process.pty, b"assword: ")
        os.write(process.pty, b"wrong\n")
        assert b"PAM refuses the login (auth)" in await read(process.pty)
        assert (await process.wait()).status == 255
    finally:
        close(process)
    with pytest.raises(LauncherRefused, match=r"PAM refuses the login \(auth\)"):
        await launcher.spawn(request(person, f"touch {tmp_path}/ran", pam))
    assert not exists(tmp_path / "ran")


async def test_a_session_that_ends_while_it_is_asked_is_gone(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack
) -> None:
    """The daemon wants it no more, or has died."""
    process = await Launcher(end).spawn(request(person, "true", replace(stack(AUTH), auth=True), Pty()))
    assert process.pty is not None
    await read(process.pty, b"assword: ")
    monitor = process.pid
    close(process)
    await until(lambda: not exists(f"/proc/{monitor}"))


async def test_variables_that_are_no_text_are_refused(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack
) -> None:
    launcher = Launcher(end)
    for pair in (("A", "x\ny"), ("A=B", "x"), ("", "x")):
        pam = replace(stack("account required pam_permit.so\nsession required pam_permit.so\n"), environment=(pair,))
        with pytest.raises(LauncherRefused, match="holds what is not text"):
            await launcher.spawn(request(person, "true", pam))


async def test_groups_that_a_module_gives_are_the_sessions(
    end: LauncherEnd, person: pwd.struct_passwd, stack: Stack, group_conf: Path
) -> None:
    """pam_group, by /etc/security/group.conf."""
    pam = stack(
        "auth required pam_permit.so\nauth required pam_group.so\n"
        "account required pam_permit.so\nsession required pam_permit.so\n"
    )
    allow(group_conf, pam.service, person.pw_name)
    out, _, _ = await run(Launcher(end), request(person, "id -Gn", pam))
    assert "games" in out.decode().split()


def allow(conf: Path, service: str, name: str) -> None:
    conf.write_text(f"{service};*;{name};Al0000-2400;games\n")
