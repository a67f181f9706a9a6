"""What each released version kept is opened by this one: its state, its log, and its recording.

Vectors are in tests/vectors/releases, made by scripts/release_vector.py; the certificates in them may have ended.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from teleport import __version__
from teleport.testing.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
VECTORS = sorted((ROOT / "tests" / "vectors" / "releases").glob("*.tar.gz"))


@dataclass(frozen=True, slots=True)
class Kept:
    """A vector, unpacked where a cluster of this version is about to start."""

    cluster: Cluster
    sid: str
    words: str


def unpacked(vector: Path, folder: Path) -> Kept:
    with tarfile.open(vector) as tar:
        tar.extractall(folder, filter="fully_trusted")
    told = json.loads((folder / "vector.json").read_text())
    cluster = Cluster(folder / "cluster", name=told["cluster"])
    cluster.config["proxy_service"] = {"enabled": False}
    cluster.config["ssh_service"] = {"enabled": False}
    shutil.rmtree(cluster.data_dir, ignore_errors=True)
    (folder / "data").rename(cluster.data_dir)
    return Kept(cluster, told["sid"], told["words"])


def test_this_version_has_a_vector() -> None:
    assert f"{__version__}.tar.gz" in [path.name for path in VECTORS], "scripts/release_vector.py makes it"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_what_a_released_version_kept_is_opened(vector: Path, tmp_path: Path) -> None:
    """Nothing of its state is lost, its log is whole, its recording plays, and all goes on from there."""
    kept = unpacked(vector, tmp_path)
    with kept.cluster as cluster:
        documents = cluster.tctl("get", "roles,users,locks,netconfig", "--format=json").json()
        by_name = {one["metadata"]["name"]: one for one in documents}
        assert by_name["kept"]["spec"]["allow"]["node_labels"] == {"env": ["test", "prod"]}
        assert by_name["kept"]["spec"]["options"]["max_session_ttl"] == "8h0m0s"
        assert sorted(by_name["ada"]["spec"]["roles"]) == ["access", "kept"]
        assert by_name["no-mallory"]["spec"]["target"] == {"user": "mallory"}
        assert by_name["cluster-networking-config"]["spec"]["client_idle_timeout"] == "30m0s"
        secrets = cluster.tctl("get", "user/ada", "--with-secrets", "--format=json").json()
        assert secrets[0]["spec"]["local_auth"]["mfa"]
        (ended,) = [event for event in cluster.events("--type=session.end") if event["sid"] == kept.sid]
        assert ended["user"] == "ada"
        out = tmp_path / "session.txt"
        cluster.tctl("recordings", "export", kept.sid, "--format=text", f"--out={out}").ok()
        assert kept.words in out.read_text()
        cluster.tctl("create", stdin=b"kind: role\nversion: v4\nmetadata: {name: later}\n").ok()
        cluster.wait_event("role.created", name="later")
        verified = cluster.tctl("audit", "verify")
        assert "The audit log is whole." in verified.ok().stdout


def test_what_a_newer_version_kept_is_refused_with_the_way_back(tmp_path: Path) -> None:
    """As a newer version leaves it, with a copy of how it was beside it. Nothing changes, and what is said works."""
    kept = unpacked(VECTORS[-1], tmp_path)
    storage = kept.cluster.data_dir / "backend" / "sqlite.db"
    with closing(sqlite3.connect(storage)) as connection, connection:
        (known,) = connection.execute("SELECT max(version) FROM migration").fetchone()
        copy = storage.with_name(f"{storage.name}.schema-{known}")
        connection.execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)
    with closing(sqlite3.connect(storage)) as connection, connection:
        connection.execute("INSERT INTO migration (version, applied) VALUES (?, 0)", (known + 1,))
    before = storage.read_bytes()
    kept.cluster.daemon.begin()
    assert kept.cluster.daemon.ended() != 0
    said = kept.cluster.daemon.log()
    assert "a newer version of Teleport wrote it" in said
    assert f"stop the service and put {copy} in the place of {storage}" in " ".join(said.split())
    assert storage.read_bytes() == before
    for name in ("sqlite.db-wal", "sqlite.db-shm"):
        storage.with_name(name).unlink(missing_ok=True)
    copy.replace(storage)
    with kept.cluster as cluster:
        assert "kept" in cluster.tctl("get", "role/kept").ok().stdout
