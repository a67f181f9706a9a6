"""Why rules about paths are refused at hosts with a plain sshd: what the host answers about a path does not bind it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
SERVER = next((one for one in SERVERS if Path(one).exists()), "")
INIT, OPEN, READ, REALPATH = 1, 3, 5, 16  # draft-ietf-secsh-filexfer-02 section 3


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Talk:
    """Says one request after the other to `sftp-server`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._of = process.stdin, process.stdout

    def ask(self, kind: int, body: bytes) -> bytes:
        self._to.write(text(bytes([kind]) + body))
        self._to.flush()
        return self._of.read(struct.unpack(">I", self._of.read(4))[0])

    def read(self, path: bytes) -> bytes:
        handle = self.ask(OPEN, struct.pack(">I", 1) + text(path) + struct.pack(">II", 1, 0))[5:]
        return self.ask(READ, struct.pack(">I", 2) + handle + struct.pack(">QI", 0, 100))[9:]


@pytest.mark.skipif(not SERVER, reason="there is no sftp-server here (package openssh-sftp-server)")
def test_a_path_that_the_host_called_canonical_leads_elsewhere_when_it_is_opened(tmp_path: Path) -> None:
    """Were this to fail, the rules could be held to by what `realpath` says."""
    for name in ("allowed", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with subprocess.Popen([SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        talk = Talk(process)
        talk.ask(INIT, struct.pack(">I", 3))
        asked = bytes(tmp_path / "allowed" / "file")
        answer = talk.ask(REALPATH, struct.pack(">I", 1) + text(asked))
        canonical = answer[13 : 13 + struct.unpack(">I", answer[9:13])[0]]
        assert canonical == bytes((tmp_path / "allowed" / "file").resolve())
        assert talk.read(canonical) == b"allowed"
        (tmp_path / "allowed").rename(tmp_path / "away")  # as any session of the login can, meanwhile
        (tmp_path / "allowed").symlink_to(tmp_path / "secret")
        assert talk.read(canonical) == b"secret"
        assert process.stdin is not None
        process.stdin.close()
