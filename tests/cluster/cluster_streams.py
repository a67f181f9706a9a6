"""A program that writes random bytes to two streams, and what clients and recordings have of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

from teleport.testing.cluster import Ran

# Writes `size` bytes in random pieces to two streams, and the digest of each stream to a file.
_WRITER = """\
import hashlib, os, random, sys
size, digests = int(sys.argv[1]), sys.argv[2]
random.seed(39)
sums = {1: hashlib.sha256(), 2: hashlib.sha256()}
while size:
    piece = os.urandom(min(size, random.choice([1, 7, 100, 4096, 65536, 300000])))
    size -= len(piece)
    stream = random.choice([1, 2])
    sums[stream].update(piece)
    while piece:
        piece = piece[os.write(stream, piece):]
open(digests, "w").write(" ".join(sums[n].hexdigest() for n in (1, 2)))
"""


class TwoStreams:
    """The program in a folder that the host sees too; `command` runs it and writes `size` bytes in all."""

    def __init__(self, folder: Path, size: int) -> None:
        script, self._digests = folder / "writer.py", folder / "digests"
        script.write_text(_WRITER)
        self.command = f"python3 {script} {size} {self._digests}"

    def check(self, done: Ran) -> None:
        """The client received what the program wrote."""
        got = [hashlib.sha256(data).hexdigest() for data in (done.out, done.err)]
        assert got == self._digests.read_text().split()


def streams_of(path: Path) -> list[bytes]:
    """stdout and stderr from an export as JSON lines."""
    found = {"output": bytearray(), "stderr": bytearray()}
    with path.open() as file:
        for line in file:
            frame = json.loads(line)
            if frame["kind"] in found:
                text = frame.get("data")
                found[frame["kind"]] += base64.b64decode(frame["base64"]) if text is None else text.encode()
    return [bytes(found["output"]), bytes(found["stderr"])]


def allocated_port(client: subprocess.Popen[bytes]) -> int:
    """The port that the server chose for `-R 0:...`, as OpenSSH's client says on standard error."""
    assert client.stderr is not None
    said = b""
    while not (found := re.search(rb"Allocated port (\d+)", said)):
        line = client.stderr.readline()
        assert line, said
        said += line
    return int(found[1])
