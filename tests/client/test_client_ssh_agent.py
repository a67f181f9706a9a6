"""The login's certificate in OpenSSH's own agent, and agents that misbehave."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.client import keystore, profile, ssh_agent
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.errors import ConnectionProblem
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.testing.lab_certificates import Authorities
from teleport.testing.openssh_server import running_sshd
from teleport.testing.processes import wait_until

ME = getpass.getuser()


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    """The environment of a running ssh-agent."""
    with tempfile.TemporaryDirectory(prefix="tsh", dir="/tmp") as folder:
        path = f"{folder}/agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
        try:
            wait_until("the agent listens", lambda: Path(path).exists(), 10)
            yield {**os.environ, "SSH_AUTH_SOCK": path}
        finally:
            process.terminate()
            process.wait()


class Login:
    """A login as tsh keeps it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.authorities = Authorities()
        self.files = KeyFiles("127.0.0.1", "alice")
        cluster = self.authorities.cluster
        self.profile = Profile("127.0.0.1", "127.0.0.1:3080", "127.0.0.1:1", "alice", cluster, cluster)
        self.key = generate_p256()
        self.write()

    def write(self, key: PrivateKey | None = None) -> None:
        self.key = key or self.key
        user = self.authorities.user([ME], key=self.key)
        keystore.write_keys(
            self.home,
            self.files,
            key_pem=self.key.pkcs8_pem(),
            public_line=self.key.public.line(),
            ssh=user.certificate.line(),
            tls="unused here",
            cluster=self.authorities.cluster,
        )
        profile.save(self.home, self.profile)


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(tmp_path / "tsh")


def listed(environment: dict[str, str]) -> list[str]:
    ran = subprocess.run(["ssh-add", "-L"], env=environment, capture_output=True, text=True, check=False)
    return ran.stdout.splitlines() if ran.returncode == 0 else []


def now() -> datetime:
    return datetime.now(UTC)


def test_the_certificate_logs_in_to_a_real_server_and_goes_at_logout(
    agent: dict[str, str], login: Login, tmp_path: Path
) -> None:
    ssh_agent.add(agent, login.home, login.profile, now())
    ssh_agent.add(agent, login.home, login.profile, now())
    (line,) = listed(agent)
    assert line.split()[0] == "ecdsa-sha2-nistp256-cert-v01@openssh.com"
    assert line.split()[2] == "teleport:127.0.0.1:alice"
    host = login.authorities.host(SystemRole.NODE, "sshd")
    with running_sshd(tmp_path, login.authorities.user_key.public.line(), host) as port:
        command = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
        command += ["-o", "UserKnownHostsFile=/dev/null", "-p", str(port), f"{ME}@127.0.0.1", "echo in"]
        ran = subprocess.run(command, env=agent, capture_output=True, text=True, check=False)
        assert ran.stdout == "in\n", ran.stderr
    ssh_agent.remove(agent, login.home, "127.0.0.1", "alice")
    assert listed(agent) == []


def test_the_agent_forgets_it_when_the_login_ends(agent: dict[str, str], login: Login) -> None:
    """Seconds before the end, as the clock that is handed in says."""
    end = keystore.facts(keystore.ssh_certificate_line(login.home, login.profile)).expires
    ssh_agent.add(agent, login.home, login.profile, end + timedelta(seconds=1))
    assert listed(agent) == []
    ssh_agent.add(agent, login.home, login.profile, end - timedelta(seconds=1))
    wait_until("the agent forgets the certificate", lambda: not listed(agent), 15)


def test_a_renewal_replaces_what_the_agent_has_and_adds_nothing_else(agent: dict[str, str], login: Login) -> None:
    ssh_agent.refresh(agent, login.home, login.profile, now())
    assert listed(agent) == [], "what was never added is not added behind anybody's back"
    ssh_agent.add(agent, login.home, login.profile, now())
    (before,) = listed(agent)
    login.write()
    ssh_agent.refresh(agent, login.home, login.profile, now())
    (after,) = listed(agent)
    assert after != before
    login.write(generate_p256())
    ssh_agent.add(agent, login.home, login.profile, now())
    assert len(listed(agent)) == 1, "a new login takes the place of the former one"


def test_keys_of_others_stay(agent: dict[str, str], login: Login, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "own", "-f", tmp_path / "own"], check=True)
    subprocess.run(["ssh-add", "-q", str(tmp_path / "own")], env=agent, check=True, stderr=subprocess.DEVNULL)
    ssh_agent.add(agent, login.home, login.profile, now())
    ssh_agent.remove(agent, login.home, "127.0.0.1", "alice")
    assert [line.split()[2] for line in listed(agent)] == ["own"]


@contextmanager
def answering(*answers: bytes) -> Iterator[dict[str, str]]:
    """An agent that answers each request with the next of these bytes, then goes."""
    with tempfile.TemporaryDirectory(prefix="tsh", dir="/tmp") as folder:
        path = f"{folder}/agent"
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # the other side may go first
                    for answer in answers:
                        connection.recv(65536)
                        connection.sendall(answer)

            server = threading.Thread(target=serve)
            server.start()
            try:
                yield {"SSH_AUTH_SOCK": path}
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                server.join()


@pytest.mark.parametrize(
    "answers",
    [(b"\0\0\0\1\x06",), (b"\xff\xff\xff\xff",), (b"\0\0\0\5\x0c\xff\xff\xff\xff",), (b"\0\0",), (),
     (b"\0\0\0\5\x0c\0\0\0\0", b"\0\0\0\1\x05")],
)  # fmt: skip
def test_an_agent_that_misbehaves_is_a_sentence(login: Login, answers: tuple[bytes, ...]) -> None:
    """Threat T51: success where data is due, sizes that cannot be, an end in the middle, a refusal."""
    with answering(*answers) as environment, pytest.raises(ConnectionProblem) as caught:
        ssh_agent.add(environment, login.home, login.profile, now())
    assert caught.value.hint
    with answering(*answers) as environment:
        ssh_agent.remove(environment, login.home, "127.0.0.1", "alice")
        ssh_agent.refresh(environment, login.home, login.profile, now())


def test_no_agent_is_a_sentence(login: Login) -> None:
    for environment in ({}, {"SSH_AUTH_SOCK": "/nonexistent"}):
        with pytest.raises(ConnectionProblem):
            ssh_agent.add(environment, login.home, login.profile, now())
