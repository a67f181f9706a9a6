"""What is not done with a storage that auth servers share is refused, not done to the embedded one beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.clock import SystemClock
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.values import Config
from teleport.daemon.repair import repairing
from teleport.daemon.restoring import Places
from teleport.errors import BadRequest

SHARED = {
    "etcd": "type: etcd, peers: ['https://a:2379'], prefix: /t/, username: u, password_file: /p",
    "PostgreSQL": "type: postgresql, conn_string: 'postgresql://u@a/d', schema: ours, password_file: /p",
    "DynamoDB": "type: dynamodb, table_name: state, region: eu-central-1",
}


def config(data_dir: Path, storage: str) -> Config:
    text = f"teleport:\n  nodename: a\n  data_dir: {data_dir}\n  storage: {{{SHARED[storage]}}}\n"
    return effective_config(load_config(text, "teleport.yaml"), StartFlags(), "box")


def test_the_keys_of_etcd_reach_the_engine(tmp_path: Path) -> None:
    etcd = config(tmp_path, "etcd").storage.etcd
    assert etcd is not None
    assert (etcd.peers, etcd.prefix, etcd.username) == (("https://a:2379",), "/t/", "u")
    assert (etcd.password_file, etcd.insecure) == (Path("/p"), False)


def test_the_keys_of_postgresql_reach_the_engine(tmp_path: Path) -> None:
    found = config(tmp_path, "PostgreSQL").storage.postgresql
    assert found is not None
    assert (found.where, found.user, found.schema) == ("a:5432, database d", "u", "ours")
    assert (found.password_file, found.insecure, found.sslmode) == (Path("/p"), False, "verify-full")


def test_the_keys_of_dynamodb_reach_the_engine(tmp_path: Path) -> None:
    found = config(tmp_path, "DynamoDB").storage.dynamodb
    assert found is not None
    assert (found.table, found.region, found.endpoint, found.reads) == ("state", "eu-central-1", "", None)


@pytest.mark.parametrize("storage", SHARED)
def test_a_backup_is_not_restored_beside_it(tmp_path: Path, storage: str) -> None:
    with pytest.raises(BadRequest, match=f"into {storage}") as caught:
        Places.of(config(tmp_path, storage))
    assert "restore" in caught.value.hint


@pytest.mark.parametrize("storage", SHARED)
async def test_it_is_not_repaired(tmp_path: Path, storage: str) -> None:
    with pytest.raises(BadRequest, match="other auth servers") as caught:
        async with repairing(config(tmp_path, storage), SystemClock(), {}):
            pass
    assert "restore" in caught.value.hint
