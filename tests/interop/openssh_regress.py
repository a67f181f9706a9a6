"""OpenSSH's own regression suite (Debian's `openssh-tests`) against our node, through programs that stand for sshd.

`RUN` and `LEFT_OUT` name every script of the suite, each with what it tries or why it says nothing about a foreign
server. The scripts call `sshd` (here: a relay to the node), `ssh` (the real one, with a certificate of the cluster) and
`sftp-server` (here: the node's, by a subsystem).
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.ssh.surface import CIPHERS, KEY_EXCHANGES, MACS
from teleport.testing.ssh_lab import Lab

SUITE: Final = Path("/usr/lib/openssh/regress")
HOST: Final = "localhost-with-alias"  # what the suite's client configuration calls the server

RUN: Final = {
    "broken-pipe": "a reader that goes away",
    "connect": "a connection, directly and through a ProxyCommand",
    "connect-uri": "ssh:// addresses",
    "dynamic-forward": "SOCKS 4 and 5, from here and from there",
    "exit-status": "exit statuses, also after the streams were closed",
    "exit-status-signal": "a client that is killed",
    "forwarding": "ports and Unix sockets both ways, chains of them, refusals and cancelling",
    "host-expand": "a LocalCommand",
    "integrity": "every flipped byte is noticed, for every MAC and cipher",
    "kextype": "every key exchange that both sides know",
    "localcommand": "a LocalCommand",
    "multiplex": "many sessions, transfers and forwards over one connection",
    "proto-version": "the version that the server names",
    "rekey": "new keys by volume and by time, for every key exchange and cipher, both ways",
    "scp": "files and folders both ways, by scp's own protocol and by SFTP",
    "scp-uri": "scp:// addresses",
    "scp3": "from host to host through the client",
    "sftp": "files both ways with many sizes of buffers and numbers of requests",
    "sftp-badcmds": "commands of sftp that fail",
    "sftp-batch": "batches of sftp, and their exit statuses",
    "sftp-cmds": "the commands of sftp",
    "sftp-glob": "names with wildcards in sftp",
    "sftp-uri": "sftp:// addresses",
    "stderr-after-eof": "standard error after the end of output",
    "stderr-data": "standard error whole",
    "transfer": "data both ways in blocks of many sizes",
    "try-ciphers": "every cipher with every MAC",
    "yes-head": "output without end that is cut off",
}
QUICK: Final = ("connect", "broken-pipe", "localcommand", "proto-version", "sftp-batch")

EDITS: Final = {
    # A variable that the node takes from clients; and what the node says to a client that is none.
    "multiplex": (
        ("_XXX_TEST", "LC_TEST"),
        ('grep "Invalid SSH identification string"', 'grep "SSH-2.0-Teleport"'),
    ),
    # one of the ciphers that the node offers
    "integrity": (("aes128-ctr", "aes256-ctr"),),
    # New keys every 16 bytes or every KiB are what the node ends connections for (`exchanges_for_nothing` of its
    # limits), and its own limit is not an option that the script could set.
    "rekey": (
        ('for s in 16 1k 128k 256k; do\n\tverbose "client', 'for s in 128k 256k; do\n\tverbose "client'),
        ('for s in 16 1k 128k 256k; do\n\tverbose "server', 'return 0\nfor s in 16; do\n\tverbose "server'),
    ),
}

_CONFIG: Final = "it is about options of sshd_config"
_CLIENT: Final = "it is about the client or a tool alone; no server is asked"
_KEYS: Final = "it is about authorized_keys or keys without certificates, which the node does not accept"
_CERTS: Final = "its certificates hold no identity of a cluster: the node refuses them, as tests/ssh and tests/pki say"

LEFT_OUT: Final = {
    "addrmatch": _CONFIG,
    "agent": _KEYS,
    "agent-getpeereid": _CLIENT,
    "agent-pkcs11": _CLIENT,
    "agent-ptrace": _CLIENT,
    "agent-restrict": "its hosts are five sshd with keys of their own; the agent judges by their plain host keys",
    "agent-subprocess": _CLIENT,
    "agent-timeout": _KEYS,
    "allow-deny-users": _CONFIG,
    "authinfo": _CONFIG,
    "banner": _CONFIG,
    "brokenkeys": _KEYS,
    "cert-file": _CERTS,
    "cert-hostkey": _CERTS,
    "cert-userkey": _CERTS,
    "cfginclude": _CLIENT,
    "cfgmatch": _CONFIG,
    "cfgmatchlisten": _CONFIG,
    "cfgparse": _CONFIG,
    "channel-timeout": _CONFIG,
    "cipher-speed": "it measures and judges nothing; try-ciphers tries the same pairs",
    "conch-ciphers": "Twisted's client knows no certificates",
    "connect-privsep": _CONFIG,
    "connection-timeout": _CONFIG,
    "dhgex": "the node offers no Diffie-Hellman group exchange",
    "envpass": _CONFIG,
    "forcecommand": _CONFIG,
    "forward-control": _CONFIG,
    "hostbased": _CONFIG,
    "hostkey-agent": _CONFIG,
    "hostkey-rotate": "hosts prove themselves by certificates; there is nothing to rotate in known_hosts",
    "key-options": _KEYS,
    "keygen-change": _CLIENT,
    "keygen-comment": _CLIENT,
    "keygen-convert": _CLIENT,
    "keygen-knownhosts": _CLIENT,
    "keygen-moduli": _CLIENT,
    "keygen-sshfp": _CLIENT,
    "keys-command": _CONFIG,
    "keyscan": "it asks for host keys of every kind; a node has one",
    "keytype": _KEYS,
    "knownhosts": _CLIENT,
    "knownhosts-command": _CLIENT,
    "krl": _CLIENT,
    "limit-keytype": _CONFIG,
    "login-timeout": _CONFIG,
    "multipubkey": _CONFIG,
    "percent": _CLIENT,
    "portnum": _CLIENT,
    "principals-command": _CONFIG,
    "proto-mismatch": "it wants sshd's exit status 255, which a relay cannot have",
    "proxy-connect": "it wants the SSH_CONNECTION of an sshd without a socket",
    "putty-ciphers": "it uses plain keys; plink with a certificate: tests/cluster/test_cluster_putty.py",
    "putty-kex": "it uses plain keys; plink with a certificate: tests/cluster/test_cluster_putty.py",
    "putty-transfer": "it uses plain keys; plink with a certificate: tests/cluster/test_cluster_putty.py",
    "reconfigure": "it is about sshd's HUP; ours: tests/cluster/test_cluster_restart.py",
    "reexec": _CONFIG,
    "scp-ssh-wrapper": "a part of others",
    "servcfginclude": _CONFIG,
    "sftp-chroot": _CONFIG,
    "sftp-perm": "it is about options of the program sftp-server",
    "ssh-com": "a client that is not made any more",
    "ssh-com-client": "a client that is not made any more",
    "ssh-com-keygen": "a client that is not made any more",
    "ssh-com-sftp": "a client that is not made any more",
    "ssh2putty": "a part of others",
    "sshcfgparse": _CLIENT,
    "sshd-log-wrapper": "a part of others",
    "sshfp-connect": "it needs records of a name server, of plain host keys",
    "sshsig": _CLIENT,
    "test-exec": "a part of others",
    "valgrind-unit": _CLIENT,
}

_SSHD: Final = r"""#!{python}
# Stands for sshd: -t says that all is well, -i speaks for the node on the standard streams, else a relay listens.
import os, re, signal, socket, sys, threading

NODE = ("127.0.0.1", {port})


def copy(read, write, end):
    try:
        while data := read():
            write(data)
    except OSError:
        pass
    end()


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def relay(client):
    node = socket.create_connection(NODE)
    there = threading.Thread(target=copy, args=(lambda: client.recv(65536), node.sendall, lambda: shut(node)))
    there.start()
    copy(lambda: node.recv(65536), client.sendall, lambda: shut(client))
    there.join()
    client.close()
    node.close()


arguments = sys.argv[1:]
if "-t" in arguments or "-T" in arguments:
    sys.exit(0)
if "-i" in arguments:
    node = socket.create_connection(NODE)
    write = lambda data: (sys.stdout.buffer.write(data), sys.stdout.buffer.flush())
    reader = lambda: os.read(0, 65536)
    threading.Thread(target=copy, args=(reader, node.sendall, lambda: shut(node)), daemon=True).start()
    copy(lambda: node.recv(65536), write, lambda: None)
    os._exit(0)
text = open(arguments[arguments.index("-f") + 1]).read()
port = int(re.search(r"(?mi)^\s*Port\s+(\d+)", text)[1])
pid_file = re.search(r"(?mi)^\s*PidFile\s+(\S+)", text)[1]
listener = socket.create_server(("127.0.0.1", port))
if os.fork():
    os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)


def stop(number, frame):
    os.unlink(pid_file)
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
with open(pid_file + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(pid_file + ".new", pid_file)
while True:
    client, _ = listener.accept()
    threading.Thread(target=relay, args=(client,), daemon=True).start()
"""

_SSH: Final = """#!/bin/sh
# The real ssh with a certificate of the cluster; what it can negotiate is what the node can, too.
last=
for argument in "$@"; do
  [ "$last" = -Q ] && case "$argument" in
    cipher|cipher-auth|mac|kex) {ssh} -Q "$argument" | grep -Fx -f {folder}/both; exit 0 ;;
  esac
  last=$argument
done
exec {ssh} -o GlobalKnownHostsFile={folder}/authorities -o CertificateFile={identity}-cert.pub \\
  -o IdentityFile={identity} -o IdentityAgent=none "$@"
"""

_SFTP_SERVER: Final = """#!/bin/sh
# Stands for the program sftp-server, whatever its options: the node's subsystem.
exec {ssh} -F /dev/null -o HostKeyAlias={host} -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null \\
  -o LogLevel=ERROR -o BatchMode=yes -p {port} {user}@127.0.0.1 -s sftp
"""


@dataclass(frozen=True)
class Outcome:
    """How a script ended, and what it said."""

    status: int
    text: str


class Suite:
    """A copy of the suite in `folder`, set up for the node of `lab` (which is called `HOST`)."""

    def __init__(self, lab: Lab, folder: Path, port: int) -> None:
        """`port` is a free one, for the relay."""
        self.folder, self._port = folder / "regress", port
        shutil.copytree(SUITE, self.folder, symlinks=True)
        programs = folder / "programs"
        programs.mkdir()
        user = getpass.getuser()
        identity = lab.authorities.user([user]).write(programs)
        (programs / "authorities").write_text(lab.authorities.known_hosts_line())
        (programs / "both").write_text("".join(f"{name}\n" for name in (*CIPHERS, *MACS, *KEY_EXCHANGES)))
        real = shutil.which("ssh") or "ssh"
        ssh = self._write(programs / "ssh", _SSH.format(ssh=real, folder=programs, identity=identity))
        sshd = self._write(
            programs / "sshd",
            _SSHD.replace("{python}", sys.executable).replace("{port}", str(lab.node_port)),
        )
        server = _SFTP_SERVER.format(ssh=ssh, host=HOST, port=lab.node_port, user=user)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TEST_SHELL": "sh",
            "TEST_SSH_PORT": str(port),
            "TEST_SSH_SSH": str(ssh),
            "TEST_SSH_SSHD": str(sshd),
            "TEST_SSH_SFTPSERVER": str(self._write(programs / "sftp-server", server)),
            "TEST_SSH_UNSAFE_PERMISSIONS": "1",
            "BUILDDIR": str(self.folder),
        }

    @staticmethod
    def _write(path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    async def run(self, name: str, seconds: float) -> Outcome:
        """Runs one script; `TimeoutError` when it takes longer, with everything of it ended."""
        script = self.folder / f"{name}.sh"
        text = script.read_text()
        for old, new in EDITS.get(name, ()):
            assert old in text, f"{name} has changed: {old!r}"
            text = text.replace(old, new)
        script.write_text(text)
        process = await asyncio.create_subprocess_exec(
            "sh",
            str(self.folder / "test-exec.sh"),
            str(self.folder),
            str(script),
            cwd=self.folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            self._stop_relay()
        return Outcome(process.returncode or 0, said.decode(errors="replace"))

    def _stop_relay(self) -> None:
        pid_file = self.folder / "pidfile"
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            pid_file.unlink()
