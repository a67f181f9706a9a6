"""What is not done with a storage in etcd is refused, not done to the embedded one beside it."""

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


def config(data_dir: Path) -> Config:
    text = (
        f"teleport:\n  nodename: a\n  data_dir: {data_dir}\n"
        "  storage: {type: etcd, peers: ['https://a:2379'], prefix: /t/, username: u, password_file: /p}\n"
    )
    return effective_config(load_config(text, "teleport.yaml"), StartFlags(), "box")


def test_the_keys_of_etcd_reach_the_engine(tmp_path: Path) -> None:
    etcd = config(tmp_path).storage.etcd
    assert etcd is not None
    assert (etcd.peers, etcd.prefix, etcd.username) == (("https://a:2379",), "/t/", "u")
    assert (etcd.password_file, etcd.insecure) == (Path("/p"), False)


def test_a_backup_is_not_restored_beside_it(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="into etcd") as caught:
        Places.of(config(tmp_path))
    assert "snapshot" in caught.value.hint


async def test_it_is_not_repaired(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="other auth servers") as caught:
        async with repairing(config(tmp_path), SystemClock(), {}):
            pass
    assert "snapshot" in caught.value.hint
