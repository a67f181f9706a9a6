"""An SFTP server that lies: a program for sshd's `Subsystem`. What it does is said by the file named as first argument.

It answers every path as a folder that holds the names of that file's JSON (`names`), each a file with `content`, unless
the script says otherwise. Threat T49, the server's side.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path


def main() -> None:
    script = json.loads(Path(sys.argv[1]).read_text())
    names = [name.encode("latin-1") for name in script.get("names", [])]
    content = script.get("content", "content").encode()
    claimed = script.get("size", len(content))
    endless = script.get("endless", False)
    out, given = sys.stdout.buffer, sys.stdin.buffer
    listed: set[bytes] = set()

    def answer(body: bytes) -> None:
        out.write(struct.pack(">I", len(body)) + body)
        out.flush()

    def text(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    def attributes(folder: bool, mode: int = 0) -> bytes:
        kind = 0o040755 if folder else script.get("mode", 0o100644)
        return struct.pack(">IQIII", 0x1 | 0x4 | 0x8, 0 if folder else claimed, mode or kind, 1000, 1000)

    def status(number: bytes, code: int) -> None:
        answer(b"\x65" + number + struct.pack(">I", code) + text(script.get("message", "x").encode()) + text(b""))

    while True:
        head = given.read(4)
        if len(head) < 4:
            return
        packet = given.read(struct.unpack(">I", head)[0])
        kind, number, rest = packet[0], packet[1:5], packet[5:]
        path = rest[4 : 4 + struct.unpack(">I", rest[:4])[0]] if len(rest) >= 4 else b""
        if kind == 1:
            answer(b"\x02\x00\x00\x00\x03")
        elif kind in (7, 17):  # lstat, stat
            answer(b"\x69" + number + attributes(not path.endswith(b"file")))
        elif kind == 11:  # opendir
            answer(b"\x66" + number + text(b"%d:" % len(path) + path[:100]))
        elif kind == 12:  # readdir
            if path in listed and not endless:
                status(number, 1)
                continue
            listed.add(path)
            entries = b"".join(text(name) + text(b"-rw") + attributes(name in (b"deeper",)) for name in names)
            answer(b"\x68" + number + struct.pack(">I", len(names)) + entries)
        elif kind == 3:  # open
            answer(b"\x66" + number + text(b"f"))
        elif kind == 5:  # read
            offset, size = struct.unpack(">QI", rest[5:17])
            if script.get("more"):
                answer(b"\x67" + number + text(b"y" * (size + 1)))
            elif script.get("stranger"):
                answer(b"\x67" + b"\xff\xff\xff\xff" + text(b"y"))
            elif endless and not claimed:
                answer(b"\x67" + number + text(b"y" * size))
            elif offset >= len(content):
                status(number, 1)
            else:
                answer(b"\x67" + number + text(content[offset : offset + size]))
        elif kind == 16:  # realpath
            answer(b"\x68" + number + struct.pack(">I", 1) + text(b"/") + text(b"/") + struct.pack(">I", 0))
        else:
            status(number, 0)


main()
