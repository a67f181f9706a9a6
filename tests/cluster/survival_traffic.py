"""Files, forwards and shared sessions in a cluster under work, noted when their clients are told that they are done.

Each file has a path of its own, so that what is on record of it can be counted. Clients are those of OpenSSH.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.cluster.survival_workload import TICKER, Workload

from teleport.testing.cluster import NODE, at
from teleport.testing.survival_moves import Forwarded, Joined, Moved

_MOST: Final = 300_000  # bytes of a file
_numbers = itertools.count(1)
Work = Callable[[Workload], None]


def traffic(host: str, folder: Path, *, scp: bool) -> list[Work]:
    """Works with a host: SFTP as a script, both protocols of scp (the older one where `scp`), forwards.

    `folder` lies there, and the login may write to it.
    """
    moves: list[Work] = [
        lambda workload: _script(workload, host, folder),
        lambda workload: _copies(workload, host, folder, kind="sftp"),
    ]
    if scp:
        moves.append(lambda workload: _copies(workload, host, folder, kind="scp"))
    turn = itertools.cycle(moves)

    def files(workload: Workload) -> None:
        next(turn)(workload)

    def forwards(workload: Workload) -> None:
        _forward(workload, host)

    files.__name__, forwards.__name__ = f"files at {host}", f"forwards at {host}"
    return [files, forwards]


def _made(workload: Workload) -> tuple[Path, str]:
    """A new file here, and the hash of what is in it."""
    data = random.randbytes(random.randrange(_MOST))
    path = workload.folder / f"file-{uuid.uuid4()}"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def _script(workload: Workload, host: str, folder: Path) -> None:
    """Puts, gets, renames and removes. `sftp -b` says each command before it does it, and stops at one that fails: all
    but the last one that it said were done."""
    source, digest = _made(workload)
    back, batch, output = (source.with_suffix(end) for end in (".back", ".batch", ".out"))
    here, there = folder / f"{source.name}.a", folder / f"{source.name}.b"
    batch.write_text(f"put {source} {here}\nget {here} {back}\nrename {here} {there}\nrm {there}\n")
    status = workload.client(workload.copier("sftp", "-b", batch, workload.target(host)), output)
    said = output.read_bytes().count(b"sftp> ")
    done = 4 if status == 0 else max(said - 1, 0)
    steps = (("write", here, digest), ("read", here, digest), ("rename", here, ""), ("remove", there, ""))
    for number, (action, path, moved) in enumerate(steps):
        workload.ledger.moved(Moved("sftp", action, str(path), number < done, moved))
    if done > 1 and hashlib.sha256(back.read_bytes()).hexdigest() != digest:
        raise AssertionError(f"what came back of {here} is another than what went")
    _clean(workload, status, host, source, back, batch, output)


def _copies(workload: Workload, host: str, folder: Path, *, kind: str) -> None:
    """One file there and back by scp, over the protocol that gives events of `kind`."""
    source, digest = _made(workload)
    back, output = source.with_suffix(".back"), source.with_suffix(".out")
    there = f"{folder / source.name}.{kind}"
    way = "-O" if kind == "scp" else "-s"
    target = f"{workload.target(host)}:{there}"
    status = workload.client(workload.copier("scp", way, source, target), output)
    workload.ledger.moved(Moved(kind, "write", there, status == 0, digest))
    if status == 0:
        status = workload.client(workload.copier("scp", way, target, back), output)
        workload.ledger.moved(Moved(kind, "read", there, status == 0, digest))
        if status == 0 and hashlib.sha256(back.read_bytes()).hexdigest() != digest:
            raise AssertionError(f"what came back of {there} is another than what went")
    _clean(workload, status, host, source, back, output)


def _clean(workload: Workload, status: int, host: str, *paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if status != 0:
        workload.ledger.failed(f"files at {host}")
        workload.rest(0.2)


def _forward(workload: Workload, host: str) -> None:
    """A connection through the host to a loopback address that is used once, from which bytes come back."""
    number, word = next(_numbers), os.urandom(8).hex().encode()
    output = workload.folder / f"forward-{number}.out"
    with socket.create_server((f"127.77.{number >> 8 & 255}.{number & 255}", 0)) as listening:
        address = at(listening.getsockname()[1], listening.getsockname()[0])

        def serve() -> None:
            try:
                with listening.accept()[0] as connection:
                    connection.sendall(word)
            except OSError:
                return  # nobody came

        thread = threading.Thread(target=serve)
        thread.start()
        status = workload.client(workload.ssh("-W", address, workload.target(host)), output)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    told = output.read_bytes() == word
    workload.ledger.forwarded(Forwarded(address, told))
    output.unlink()
    if not told:
        workload.ledger.failed(f"forwards at {host}")
    workload.rest(0.2 if status == 0 else 0.4)


def shared_session(workload: Workload) -> None:
    """A terminal at the node for some seconds, and somebody who comes to look."""
    tag = f"shared-{uuid.uuid4()}"
    output, watched = (workload.folder / f"{tag}.{end}" for end in ("out", "watched"))
    command = f"echo id:$SSH_SESSION_ID:; exec timeout 3 {TICKER} {tag} {workload.marker}"
    first = threading.Thread(target=workload.client, args=(workload.ssh("-tt", workload.target(NODE), command), output))
    first.start()
    until = time.monotonic() + 10.0
    sid = None
    while sid is None and first.is_alive() and time.monotonic() < until:
        workload.rest(0.05)
        sid = re.search(rb"id:([0-9a-f-]{36}):", output.read_bytes()) if output.exists() else None
    if sid is not None:
        name = sid[1].decode()
        workload.client(workload.ssh("-tt", "-o", f"SetEnv=TELEPORT_SESSION={name}", workload.target(NODE)), watched)
        # the numbers that it prints come to nobody but its parties
        workload.ledger.joined_session(Joined(name, b" 1" in watched.read_bytes()))
        watched.unlink()
    else:
        workload.ledger.failed("shared session")
    first.join()
    output.unlink(missing_ok=True)
    workload.rest(0.3)
