"""Makes tests/vectors/releases/VERSION.tar.gz: what a cluster of this version keeps, for later ones to open.

    .venv/bin/python scripts/release_vector.py [FILE]

Run it when a version is released, and never again for that version. A cluster with an administrator, a person, roles, a
lock and settings runs, somebody has a session at a terminal, and the cluster stops: its data directory is the vector.
Its keys are nobody's: they were made for it, and nothing but the machine that made it could reach it.
"""

from __future__ import annotations

import getpass
import gzip
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from teleport import __version__
from teleport.testing.cluster import BIN, NODE, Cluster
from teleport.testing.terminal import Terminal

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "releases"
NAME = "vector.example.com"
STATE = b"""\
kind: role
version: v4
metadata: {name: kept, description: of a released version}
spec:
  options: {max_session_ttl: 8h}
  allow: {logins: [root], node_labels: {env: [test, prod]}}
  deny: {node_labels: {team: secret}}
---
kind: lock
version: v2
metadata: {name: no-mallory}
spec: {target: {user: mallory}, message: "left"}
---
kind: cluster_networking_config
version: v2
metadata: {name: cluster-networking-config}
spec: {client_idle_timeout: 30m}
"""


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else VECTORS / f"{__version__}.tar.gz"
    if target.exists():
        sys.exit(f"{target} is there; what a released version kept does not change: remove it only before the release")
    with tempfile.TemporaryDirectory(prefix="teleport-vector-") as folder:
        with Cluster(Path(folder, "cluster"), name=NAME) as cluster:
            cluster.tctl("create", stdin=STATE).ok()
            cluster.tctl("users", "add", "boss", "--roles=editor,auditor").ok()
            login = getpass.getuser()
            person = cluster.add_person("ada", roles=("access", "kept"), logins=[login])
            person.log_in()
            with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}"], person.environment) as terminal:
                terminal.type("printf 'kept %s\\n' words\r")
                terminal.expect("kept words")
                terminal.type("exit\r")
                terminal.ended()
            ended = cluster.wait_event("session.end", user="ada", interactive=True)
            cluster.wait_event("session.upload", sid=ended["sid"])
        told = json.dumps(
            {"version": __version__, "cluster": NAME, "user": "ada", "sid": ended["sid"], "words": "kept words"}
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(folder, "vector.json").write_text(told + "\n")
        with gzip.open(target, "wb", compresslevel=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(Path(folder, "vector.json"), "vector.json", filter=_plain)
            tar.add(cluster.data_dir, "data", filter=_plain)
    sys.stdout.write(f"{target.stat().st_size} bytes in {target}\n")


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Nothing of who made it. Sockets and what a run alone needs stay out."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info if info.isfile() or info.isdir() else None


if __name__ == "__main__":
    main()
