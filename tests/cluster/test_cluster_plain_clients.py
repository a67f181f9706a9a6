"""Done-when 1: with one block of `tsh config`, the programs that people use reach hosts, unmodified, and what they did
is on record. And tsh itself, on many hosts, with forwards, with files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tests.cluster import cluster_packages

from teleport.testing.cluster import (
    BIN,
    NODE,
    Cluster,
    Host,
    Person,
    Ran,
    free_port,
    plain_environment,
    processes_with,
    run,
    wait_until,
)

LONG = bool(os.environ.get("TELEPORT_LONG"))
MORE_HOSTS = 9 if LONG else 2  # beside the cluster's own: a daemon each
CONTENT = bytes(range(256)) * 2000
NOTHING: Mapping[str, str] = MappingProxyType({})
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Fleet:
    """A cluster of several hosts, and somebody who reaches them all."""

    def __init__(self, cluster: Cluster, person: Person, login: str, hosts: Sequence[str]) -> None:
        self.cluster = cluster
        self.person = person
        self.login = login
        self.hosts = hosts
        self.config = person.ssh_config
        self.host = f"{NODE}.{cluster.name}"
        self.at = f"{login}@{self.host}"

    def run(self, *words: str | Path, seconds: float = 60, more: Mapping[str, str] = NOTHING) -> Ran:
        """A program in the person's environment, and `more`."""
        return run(*words, environment={**self.person.environment, **more}, seconds=seconds)

    def shell(self) -> str:
        """`ssh` with the block, as one word of other programs' configuration."""
        return " ".join(map(shlex.quote, self.person.ssh_arguments()))

    def on_record(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self.cluster.wait_event(kind, **fields)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, login: str) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with contextlib.ExitStack() as stack:
        cluster = Cluster(folder / "cluster")
        stack.enter_context(cluster)
        token = cluster.tctl("tokens", "add", "--type=node", "--ttl=1h", "--format=json").json()["token"]
        names = [NODE]
        for number in range(MORE_HOSTS):
            name = f"host{number + 1}"
            config = cluster.node_config(name, auth_token=token, ca_pin=cluster.ca_pin())
            config["ssh_service"]["labels"] = {"env": "test", "number": str(number + 1)}
            stack.enter_context(Host(folder / name, config))
            names.append(name)
        person = cluster.add_person("ann", logins=[login])
        person.log_in()

        def all_there() -> bool:
            return len(person.tsh("ls", "--format=names").ok().stdout.split()) == len(names)

        wait_until("every host is listed", all_there, 30)
        yield Fleet(cluster, person, login, names)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    return path


def need(program: str, package: str) -> str:
    if shutil.which(program) is None and (why := cluster_packages.install(package, program)):
        pytest.skip(why)
    return str(shutil.which(program))


# --- plain clients


def test_ssh(fleet: Fleet) -> None:
    done = fleet.person.ssh(fleet.at, "cat; exit 3", stdin=b"in and out\x00\xff")
    assert (done.status, done.out, done.err) == (3, b"in and out\x00\xff", b"")


@pytest.mark.parametrize("mode", ["-s", "-O"], ids=["over SFTP", "the old protocol"])
def test_scp_both_ways(fleet: Fleet, file: Path, tmp_path: Path, mode: str) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    fleet.run("scp", mode, "-q", "-F", fleet.config, file, f"{fleet.at}:{there}/up").ok()
    fleet.run("scp", mode, "-q", "-F", fleet.config, f"{fleet.at}:{there}/up", back).ok()
    assert back.read_bytes() == CONTENT
    kind, actions = ("sftp", ("write", "read")) if mode == "-s" else ("scp", ("upload", "download"))
    for action in actions:
        assert fleet.on_record(kind, action=action, path=f"{there}/up")["sha256"] == SHA256


def test_sftp_in_a_batch(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    batch.write_text(
        f"put {file} {tmp_path}/sftp-up\nget {tmp_path}/sftp-up {tmp_path}/sftp-back\nrm {tmp_path}/sftp-up\n"
    )
    fleet.run("sftp", "-q", "-F", fleet.config, "-b", batch, fleet.at).ok()
    assert (tmp_path / "sftp-back").read_bytes() == CONTENT
    assert not (tmp_path / "sftp-up").exists()
    for action in ("write", "read"):
        assert fleet.on_record("sftp", action=action, path=f"{tmp_path}/sftp-up")["sha256"] == SHA256
    assert fleet.on_record("sftp", action="remove", path=f"{tmp_path}/sftp-up")["user"] == "ann"


def test_rsync(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    rsync = need("rsync", "rsync")
    (tmp_path / "tree").mkdir()
    shutil.copy(file, tmp_path / "tree" / "a")
    fleet.run(rsync, "-a", "-e", fleet.shell(), f"{tmp_path}/tree", f"{fleet.at}:{tmp_path}/rsync-up/").ok()
    fleet.run(rsync, "-a", "-e", fleet.shell(), f"{fleet.at}:{tmp_path}/rsync-up/tree/", f"{tmp_path}/rsync-back").ok()
    assert (tmp_path / "rsync-back" / "a").read_bytes() == CONTENT

    for action in ("upload", "download"):
        moved = fleet.on_record("rsync", action=action)
        assert moved["exitCode"] == "0"
        assert moved["hash_reason"] == "rsync", "it alone knows which files it moved"


def test_git_clones_and_pushes(fleet: Fleet, tmp_path: Path) -> None:
    git = need("git", "git")
    as_somebody = {
        "GIT_SSH_COMMAND": fleet.shell(), "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "ann", "GIT_AUTHOR_EMAIL": "ann@example.test", "GIT_COMMITTER_NAME": "ann",
        "GIT_COMMITTER_EMAIL": "ann@example.test",
    }  # fmt: skip
    bare, work = tmp_path / "bare.git", tmp_path / "work"
    fleet.run(git, "init", "-q", "--bare", "-b", "main", bare).ok()
    fleet.run(git, "clone", "-q", f"{fleet.at}:{bare}", work, more=as_somebody).ok()
    (work / "file").write_bytes(CONTENT)
    for words in (("add", "file"), ("commit", "-q", "-m", "one"), ("push", "-q", "origin", "HEAD:main")):
        fleet.run(git, "-C", work, *words, more=as_somebody).ok()
    fleet.run(git, "clone", "-q", f"{fleet.at}:{bare}", tmp_path / "again", more=as_somebody).ok()
    assert (tmp_path / "again" / "file").read_bytes() == CONTENT
    fleet.on_record("exec", command=f"git-receive-pack '{bare}'")


def test_sshfs(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse that this user may open, and sshfs needs it")
    sshfs = need("sshfs", "sshfs")
    there, mount = tmp_path / "mounted", tmp_path / "mount"
    there.mkdir()
    mount.mkdir()
    command = [sshfs, "-F", str(fleet.config), f"{fleet.at}:{there}", str(mount)]
    tried = fleet.run(*command)
    if tried.status and "fuse" in tried.stderr.lower():
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    tried.ok()
    try:
        shutil.copy(file, mount / "copied")
        assert (there / "copied").read_bytes() == CONTENT
        assert (mount / "copied").read_bytes() == CONTENT
        (mount / "copied").rename(mount / "renamed")
    finally:
        fleet.run("fusermount3" if shutil.which("fusermount3") else "fusermount", "-u", mount).ok()
    assert fleet.on_record("sftp", action="write", path=f"{there}/copied")["sha256"] == SHA256
    fleet.on_record("sftp", action="rename", path=f"{there}/copied")


PLAYBOOK = """
- hosts: env_test
  gather_facts: false
  tasks:
    - copy: {src: FILE, dest: "FOLDER/{{ inventory_hostname }}.bin"}
    - command: "sha256sum FOLDER/{{ inventory_hostname }}.bin"
      register: summed
      changed_when: false
    - assert: {that: "summed.stdout.startswith('SHA')"}
"""


def test_an_ansible_playbook_over_all_hosts(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    """With `tsh ls --format=ansible` as the inventory."""
    playbook = need("ansible-playbook", "ansible-core")
    inventory, book = tmp_path / "hosts", tmp_path / "site.yml"
    inventory.write_text(f'#!/bin/sh\nexec {BIN / "tsh"} ls --format=ansible "$@"\n')
    inventory.chmod(0o755)
    book.write_text(PLAYBOOK.replace("FILE", str(file)).replace("FOLDER", str(tmp_path)).replace("SHA", SHA256))
    control = Path(f"/tmp/tsh-{os.getpid()}-ansible")
    settings = {
        "ANSIBLE_SSH_ARGS": f"-F {fleet.config} -o GlobalKnownHostsFile=/dev/null "
        "-o ControlMaster=auto -o ControlPersist=2",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_NOCOWS": "1",
        "LANG": "C.UTF-8",
    }
    done = fleet.run(playbook, "-i", inventory, "-f", "3", book, seconds=110, more=settings)
    assert done.status == 0, done.stdout + done.stderr
    for host in fleet.hosts:
        assert (tmp_path / f"{host}.bin").read_bytes() == CONTENT
        assert f"{host} " in done.stdout
        fleet.on_record("sftp", action="write", sha256=SHA256, server_hostname=host)
    wait_until("the connections that Ansible keeps have ended", lambda: not processes_with(str(control)))
    shutil.rmtree(control, ignore_errors=True)


PARAMIKO = """
import sys, paramiko
key = paramiko.ECDSAKey.from_private_key_file(sys.argv[1])
key.load_certificate(sys.argv[1] + "-cert.pub")
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.WarningPolicy())
client.connect(sys.argv[2], username=sys.argv[3], pkey=key, sock=paramiko.ProxyCommand(sys.argv[4]),
               allow_agent=False, look_for_keys=False, disabled_algorithms={"pubkeys": []})
_, out, _ = client.exec_command("echo paramiko")
print(out.read().decode(), end="")
files = client.open_sftp()
files.put(sys.argv[5], sys.argv[6])
client.close()
"""


def test_paramiko(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    """With the proxy command of the block, and `tsh proxy ssh` in its place."""
    python = "/usr/bin/python3"
    there = run(python, "-c", "import paramiko", environment=plain_environment(tmp_path)).status == 0
    if not there and (why := cluster_packages.install("python3-paramiko", "paramiko")):
        pytest.skip(why)
    key = tmp_path / "id"
    fleet.cluster.tctl("auth", "sign", "--user=ann", "--format=openssh", f"--out={key}").ok()
    command = f"{BIN / 'tsh'} proxy ssh {fleet.login}@{fleet.host}:22"
    done = fleet.run(
        python, "-W", "ignore", "-c", PARAMIKO, key, fleet.host, fleet.login, command, file, tmp_path / "paramiko"
    )
    assert done.stdout == "paramiko\n", done.stderr
    assert (tmp_path / "paramiko").read_bytes() == CONTENT
    assert fleet.on_record("sftp", action="write", path=f"{tmp_path}/paramiko")["sha256"] == SHA256


@contextlib.contextmanager
def running(fleet: Fleet, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside the test, ended by its own number."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([str(word) for word in words], env=dict(fleet.person.environment), **quiet)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_what_editors_do(fleet: Fleet, tmp_path: Path) -> None:
    """As VS Code's remote: one connection for many sessions, a server that runs on, and forwards to it."""
    port, here, socks = free_port(), free_port(), free_port()
    control, served = Path(f"/tmp/tsh-{os.getpid()}.mux"), tmp_path / "served"
    served.mkdir()
    (served / "page").write_bytes(b"from the host")
    curl = need("curl", "curl")
    mux = ["ssh", "-F", "none", "-S", str(control)]
    with running(fleet, *fleet.person.ssh_arguments("-M", "-N", "-S", control, "-o", "ControlPersist=no", fleet.at)):
        wait_until("the master listens", control.exists)
        server = f"exec python3 -m http.server --bind 127.0.0.1 --directory {served} {port}"
        with running(fleet, *mux, "any", server):
            fleet.run(*mux, "-O", "forward", "-L", f"{here}:127.0.0.1:{port}", "any").ok()
            fleet.run(*mux, "-O", "forward", "-D", f"127.0.0.1:{socks}", "any").ok()

            def page() -> bytes:
                return fleet.run(curl, "-sS", f"http://127.0.0.1:{here}/page").out

            wait_until("the page comes through the forward", lambda: page() == b"from the host")
            by_socks = ("--proxy", f"socks5h://127.0.0.1:{socks}", f"http://127.0.0.1:{port}/page")
            assert fleet.run(curl, "-sS", *by_socks).ok().out == b"from the host"
            assert fleet.run(*mux, "any", "echo beside").ok().stdout == "beside\n"
    wait_until("the server on the host ends with its session", lambda: not processes_with(str(served)))
    fleet.on_record("port", addr=f"127.0.0.1:{port}")


# --- tsh


def test_tsh_runs_a_command_on_all_hosts_with_a_label(fleet: Fleet) -> None:
    done = fleet.person.tsh("ssh", f"{fleet.login}@env=test", "echo on $SSH_TELEPORT_HOST_UUID; echo err >&2").ok()
    width = max(map(len, fleet.hosts))
    lines = sorted(line.partition(" | ")[0].rstrip() for line in done.stdout.splitlines())
    assert lines == sorted(fleet.hosts)
    assert all(line[width : width + 3] == " | " for line in done.stdout.splitlines())
    assert f"tsh: {len(fleet.hosts)} hosts: {len(fleet.hosts)} done\n" in done.stderr
    one = fleet.person.tsh("ssh", "--serial", f"{fleet.login}@env=test,number=1", "exit 3")
    assert (one.status, one.stderr) == (3, "tsh: 1 host: 0 done, 1 failed: host1 (exit 3)\n")
    none = fleet.person.tsh("ssh", f"{fleet.login}@env=nowhere", "true")
    assert none.status == 255
    assert "no host that you may reach has the labels env=nowhere" in none.stderr


def test_tsh_copies_to_from_and_between_hosts(fleet: Fleet, file: Path, tmp_path: Path) -> None:
    there = tmp_path / "tsh-there"
    there.mkdir()
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    shutil.copy(file, tree / "inner" / "a.bin")
    tsh = fleet.person.tsh
    done = tsh("scp", "-r", tree, f"{fleet.login}@{NODE}:{there}").ok()
    assert (done.stdout, done.stderr) == ("", "")
    assert fleet.on_record("sftp", action="write", path=f"{there}/tree/inner/a.bin")["sha256"] == SHA256
    tsh("scp", "-r", "-p", f"{fleet.login}@{NODE}:{there}/t*", tmp_path / "back").ok()
    assert (tmp_path / "back" / "inner" / "a.bin").read_bytes() == CONTENT
    between = f"{fleet.login}@host1:{tmp_path}/between"
    tsh("scp", f"{fleet.login}@{NODE}:{there}/tree/inner/a.bin", between).ok()
    assert (tmp_path / "between").read_bytes() == CONTENT
    for action, host in (("read", NODE), ("write", "host1")):
        path = f"{tmp_path}/between" if host == "host1" else f"{there}/tree/inner/a.bin"
        assert fleet.on_record("sftp", action=action, path=path, server_hostname=host)["sha256"] == SHA256
    missing = tsh("scp", f"{fleet.login}@{NODE}:{tmp_path}/none", f"{fleet.login}@{NODE}:{there}/none/", ".")
    assert missing.status == 1
    assert missing.stderr.count("no such file or folder") == 2


def test_tsh_forwards_both_ways(fleet: Fleet, tmp_path: Path) -> None:
    """`--local`, `-L`, `-R`, `-D`, `-W`, `-N` and sockets; what is not allowed is refused in words, and on record."""
    (tmp_path / "page").write_bytes(b"seen from the host")
    port, here, there, socks = (free_port() for _ in range(4))
    curl, tsh = need("curl", "curl"), fleet.person.tsh
    url = f"http://127.0.0.1:{port}/page"
    with running(fleet, "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", tmp_path, str(port)):
        wait_until("there is a page", lambda: fleet.run(curl, "-sS", url).status == 0)
        local = ("ssh", "--local", "-L", f"{here}:127.0.0.1:{port}", "-D", str(socks), fleet.at, curl, "-sS")
        assert tsh(*local, f"http://127.0.0.1:{here}/page").ok().out == b"seen from the host"
        assert tsh(*local, "--proxy", f"socks5h://127.0.0.1:{socks}", url).ok().out == b"seen from the host"
        back = tsh("ssh", "-R", f"{there}:127.0.0.1:{port}", fleet.at, f"{curl} -sS http://127.0.0.1:{there}/page")
        assert back.ok().out == b"seen from the host"
        piped = tsh("ssh", "-W", f"127.0.0.1:{port}", fleet.at, stdin=b"GET /page HTTP/1.0\r\n\r\n").ok()
        assert piped.out.endswith(b"seen from the host")
        by_socket = Path(f"/tmp/tsh-{os.getpid()}.sock")
        with running(fleet, BIN / "tsh", "ssh", "-N", "-L", f"{by_socket}:127.0.0.1:{port}", fleet.at):
            wait_until("the socket is there", by_socket.exists)
            assert fleet.run(curl, "-sS", "--unix-socket", by_socket, "http://x/page").ok().out == b"seen from the host"
        by_socket.unlink(missing_ok=True)
        refused = tsh("ssh", "-W", "169.254.169.254:80", fleet.at)
        assert refused.status == 255
        assert "does not lead to 169.254.169.254:80" in refused.stderr
    fleet.on_record("port", addr=f"127.0.0.1:{port}")
    assert fleet.on_record("port", addr="169.254.169.254:80")["success"] is False


def test_the_agent_is_there_while_it_is_offered(fleet: Fleet, tmp_path: Path) -> None:
    path = f"/tmp/tsh-{os.getpid()}.agent"
    with running(fleet, "ssh-agent", "-D", "-a", path):
        wait_until("the agent listens", Path(path).exists)
        here = {"SSH_AUTH_SOCK": path}
        fleet.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "seen-there", "-f", tmp_path / "key").ok()
        fleet.run("ssh-add", "-q", tmp_path / "key", more=here).ok()
        asked = fleet.run(BIN / "tsh", "ssh", "-A", fleet.at, "ssh-add -l", more=here).ok()
        assert "seen-there" in asked.stdout
        assert fleet.run(BIN / "tsh", "ssh", fleet.at, "ssh-add -l", more=here).status == 2, "no agent there"
