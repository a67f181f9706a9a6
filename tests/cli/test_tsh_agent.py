"""`tsh login --add-keys-to-agent` and `tsh logout`, with OpenSSH's agent."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.tsh_runner import Tsh

from teleport.testing.processes import wait_until
from teleport.testing.web_lab import CODE, PASSWORD, WebLab


@pytest.fixture
def agent() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="tsh", dir="/tmp") as folder:
        path = f"{folder}/agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
        try:
            wait_until("the agent listens", lambda: Path(path).exists(), 10)
            yield path
        finally:
            process.terminate()
            process.wait()


def comments(agent: str) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": agent}
    ran = subprocess.run(["ssh-add", "-L"], env=environment, capture_output=True, text=True, check=False)
    return [line.split()[-1] for line in ran.stdout.splitlines()] if ran.returncode == 0 else []


def test_a_login_is_in_the_agent_until_logout(lab: WebLab, tmp_path: Path, agent: str) -> None:
    """`auto`, the usual: an agent that runs gets it; `no` leaves it alone; none that runs is no matter."""
    tsh, answers = Tsh(tmp_path), f"{PASSWORD}\n{CODE}\n"
    login = ["login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}"]
    done = tsh(*login, "--add-keys-to-agent=no", stdin=answers, SSH_AUTH_SOCK=agent)
    assert (done.status, comments(agent)) == (0, []), done.stderr
    tsh("logout", SSH_AUTH_SOCK=agent)
    assert tsh(*login, stdin=answers, SSH_AUTH_SOCK=agent).status == 0
    assert comments(agent) == ["teleport:127.0.0.1:alice"]
    assert tsh("logout", SSH_AUTH_SOCK=agent).status == 0
    assert comments(agent) == []
    gone = tsh(*login, stdin=answers, SSH_AUTH_SOCK="/nonexistent")
    assert (gone.status, gone.stderr) == (0, tsh(*login, stdin=answers, SSH_AUTH_SOCK="").stderr)


def test_yes_means_it_and_only_cannot_be(lab: WebLab, tmp_path: Path, agent: str) -> None:
    tsh, answers = Tsh(tmp_path), f"{PASSWORD}\n{CODE}\n"
    login = ["login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}"]
    refused = tsh(*login, "--add-keys-to-agent=only", stdin=answers, SSH_AUTH_SOCK=agent)
    assert refused.status == 2
    assert "the key in an agent alone" in refused.stderr
    missing = tsh(*login, "--add-keys-to-agent=yes", stdin=answers)
    assert missing.status == 6
    assert "no SSH agent runs here" in missing.stderr
    assert tsh("status").status == 0, "the login itself is done"
    there = tsh(*login, "--add-keys-to-agent=yes", stdin=answers, SSH_AUTH_SOCK=agent)
    assert there.status == 0
    assert comments(agent) == ["teleport:127.0.0.1:alice"]
    one = tsh("logout", f"--proxy={lab.address}", "--user=alice", SSH_AUTH_SOCK=agent)
    assert (one.status, comments(agent)) == (0, [])


def test_a_damaged_profile_does_not_keep_anybody_logged_in(tmp_path: Path, agent: str) -> None:
    tsh = Tsh(tmp_path)
    tsh.home.mkdir(mode=0o700)
    (tsh.home / "proxy.yaml").write_text("web_proxy_addr: [\n")
    (tsh.home / "proxy.yaml").chmod(0o600)
    assert tsh("status", SSH_AUTH_SOCK=agent).status != 0
    assert tsh("logout", SSH_AUTH_SOCK=agent).status == 0
    assert not (tsh.home / "proxy.yaml").exists()
