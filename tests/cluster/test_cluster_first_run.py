"""From nothing to a shell by following what `make run` prints, word by word (journeys 1 to 3 of the design)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.cluster.cluster_accounts import UnixAccount, programs_for_everyone

from teleport.auth.factors.passwords import TOTP_PERIOD, TOTP_SKEW, totp_code
from teleport.testing.cluster import BIN, LOOPBACK, PASSWORD, PUBLIC, Ran, at, plain_environment, run, wait_until
from teleport.testing.terminal import Terminal
from teleport.testing.usual_ports import usual_ports

pytestmark = pytest.mark.timeout(300)  # others may have the ports

RUN = Path(__file__).resolve().parents[2] / "scripts" / "run.py"


@dataclass
class Printed:
    """What the daemon printed, and the commands in it, as somebody would copy them."""

    text: str
    as_user: Sequence[str]
    environment: Mapping[str, str]
    folder: Path

    def command(self, *words: str) -> list[str]:
        """The one printed command that holds all these words."""
        found = [line.strip() for line in self.text.splitlines() if all(word in line.split() for word in words)]
        assert len(found) == 1, (words, self.text)
        assert "--insecure" not in found[0]
        return shlex.split(found[0])

    def type(self, command: Sequence[str], stdin: str = "", *, fill: Mapping[str, str] | None = None) -> Ran:
        words = [(fill or {}).get(word, word) for word in command]
        return run(*self.as_user, *words, environment=self.environment, stdin=stdin, cwd=self.folder)


@contextmanager
def make_run(folder: Path, programs: Path, as_user: Sequence[str]) -> Iterator[Printed]:
    """`scripts/run.py`, which `make run` starts, in a `var` folder that does not exist yet."""
    environment = {**plain_environment(folder), "TELEPORT_VAR": str(folder / "var"), "TELEPORT_LOOPBACK": LOOPBACK}
    environment["PATH"] = f"{programs}:{environment['PATH'].partition(':')[2]}"
    with usual_ports():
        log = folder / "run.log"
        script = folder / "run.py"
        shutil.copy(RUN, script)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*as_user, str(programs / "python"), str(script)],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:

            def finished() -> bool:
                assert process.poll() is None, log.read_text()
                return "ssh -F" in log.read_text()

            wait_until("what to do next is printed", finished, 60)
            yield Printed(log.read_text(), as_user, environment, folder)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def follow(printed: Printed, login: str) -> None:
    """Every printed step in order; ends with sessions by tsh and by ssh."""
    assert re.search(rf"https://{re.escape(at(0, PUBLIC)[:-1])}\d+", printed.text)
    assert re.search(r"sha256:[0-9a-f]{64}", printed.text)
    added = printed.type(printed.command("users", "add")).ok()
    link = next(word for word in added.stdout.split() if word.startswith("https://"))

    accept = printed.command("accept", "LINK")
    # The first answer shows the secret; the code can only be computed from it, so the command is run at a pipe.
    words = [link if word == "LINK" else word for word in accept]
    with subprocess.Popen(
        [*printed.as_user, *words],
        env=dict(printed.environment),
        cwd=printed.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as accepting:
        assert accepting.stdin is not None
        assert accepting.stdout is not None
        secret = ""
        while not secret:
            line = accepting.stdout.readline()
            assert line, "the secret was not shown"
            if match := re.search(r"Secret: (\w+)", line):
                secret = match[1]
        accepting.stdin.write(f"{PASSWORD}\n{code(secret, -TOTP_SKEW)}\n")
        accepting.stdin.close()
        rest = accepting.stdout.read()
        assert accepting.wait(20) == 0
    assert "tsh login" in rest

    printed.type(printed.command("login"), f"{PASSWORD}\n{code(secret, TOTP_SKEW)}\n").ok()
    listed = printed.type(printed.command(tsh(printed), "ls")).ok()
    assert "localhost" in listed.stdout

    shell = [*printed.as_user, *printed.command(tsh(printed), "ssh", f"{login}@localhost")]
    check_shell(shell, printed, login)
    config, _, file = printed.command("config", ">", "teleport.ssh")[1:]
    (printed.folder / file).write_text(printed.type([tsh(printed), config]).ok().stdout)
    check_shell([*printed.as_user, *printed.command("ssh", "-F")], printed, login)
    done = printed.type([*printed.command("ssh", "-F"), "id", "-un"]).ok()
    assert done.stdout == f"{login}\n"


def code(secret: str, periods: int) -> str:
    import time

    return totp_code(secret, int(time.time()) // TOTP_PERIOD + periods)


def tsh(printed: Printed) -> str:
    return printed.command("login")[0]


def check_shell(command: Sequence[str], printed: Printed, login: str) -> None:
    """A shell at a terminal: its size, a change of the size, and the status it ends with."""
    with Terminal(command, printed.environment, printed.folder, columns=100, rows=30) as terminal:
        terminal.type("PS1='ready> '; echo started-$((40+2))\r")
        terminal.expect("started-42.*ready> ")
        terminal.type("stty size; id -un\r")
        terminal.expect(rf"\b30 100\r\n{login}\r\n.*ready> ")
        terminal.resize(120, 40)
        terminal.type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo new size $((1+1))\r")
        terminal.expect("new size 2\r\n.*ready> ")
        terminal.type("exit 7\r")
        assert terminal.ended() == 7


def test_following_what_make_run_prints_leads_to_a_shell(tmp_path: Path, login: str) -> None:
    with make_run(tmp_path, BIN, []) as printed:
        config = tmp_path / "var" / "teleport.yaml"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700
        follow(printed, login)
    ports = [line for line in config.read_text().splitlines() if "listen_addr" in line]
    with make_run(tmp_path, BIN, []) as printed:
        assert [line for line in config.read_text().splitlines() if "listen_addr" in line] == ports
        assert "users add" not in printed.text, "there is a user already"


@pytest.fixture
def everyones_folder(unix_account: UnixAccount) -> Iterator[Path]:
    """A folder that the account owns, outside of what only this process's user may enter."""
    with tempfile.TemporaryDirectory(prefix="teleport-run-") as folder:
        os.chown(folder, unix_account.uid, unix_account.gid)
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_ordinary_user_gets_a_shell_in_the_same_way(everyones_folder: Path, unix_account: UnixAccount) -> None:
    """`make run` needs no root: sessions as oneself work, others are refused in a sentence."""
    with tempfile.TemporaryDirectory(prefix="teleport-programs-") as place:
        Path(place).chmod(0o755)
        programs = programs_for_everyone(Path(place))
        ids = [f"--reuid={unix_account.uid}", f"--regid={unix_account.gid}", "--init-groups"]
        as_user = ["setpriv", *ids, "--"]
        try:
            run(*as_user, programs / "teleport", "version", environment=plain_environment(everyones_folder)).ok()
        except AssertionError as error:
            pytest.skip(f"an ordinary user cannot run it here: {error}")
        with make_run(everyones_folder, programs, as_user) as printed:
            follow(printed, unix_account.name)
            check_refused(printed, unix_account.name)


def check_refused(printed: Printed, own: str) -> None:
    """A role may give any login; this daemon can only be one."""
    words = printed.command("users", "add")
    tctl = words[: words.index("users")]
    printed.type([*tctl, "users", "add", "other", "--roles=access", "--logins=root"]).ok()
    signed = ["auth", "sign", "--user=other", "--format=file", "--out=other"]
    printed.type([*tctl, *signed]).ok()
    done = printed.type([tsh(printed), "-i", "other", "--proxy=" + proxy(printed), "ssh", "root@localhost", "id"])
    assert done.status != 0
    assert done.stdout == ""
    assert own in done.stderr
    assert "root" in done.stderr


def proxy(printed: Printed) -> str:
    """The proxy as `--proxy` takes it: host, web port, SSH port."""
    config = yaml.safe_load((printed.folder / "var" / "teleport.yaml").read_text())["proxy_service"]
    return f"{config['public_addr']},{config['ssh_public_addr'].rpartition(':')[2]}"
