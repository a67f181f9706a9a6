"""What is secret in data_dir is the daemon's alone, from its start on."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from teleport.daemon.host import open_host
from teleport.daemon.privacy import close_to_others
from teleport.errors import TeleportError

SECRETS = ("host_uuid", "proc/node/tls.key", "proc/cas.json", "backend/sqlite.db", "webproxy_key.pem")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for name in (*SECRETS, "proc/node/ssh.cert", "log/notes"):
        path = tmp_path / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o600)
    (tmp_path / "proc").chmod(0o700)
    (tmp_path / "host_uuid").write_text("713f9fa7-56f8-4f27-8b20-5dd0ce536c94\n")
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o777])
def test_a_secret_that_is_open_is_closed_and_told_of(data_dir: Path, name: str, bits: int) -> None:
    (data_dir / name).chmod(bits)
    (said,) = close_to_others(data_dir)
    assert f"{data_dir / name} was open to other users (mode {bits:04o})" in said
    assert "tctl auth rotate" in said
    assert mode(data_dir / name) == bits & 0o700
    assert close_to_others(data_dir) == []


def test_a_folder_of_secrets_is_closed(data_dir: Path) -> None:
    (data_dir / "proc" / "node").chmod(0o755)
    assert len(close_to_others(data_dir)) == 1
    assert mode(data_dir / "proc" / "node") == 0o700


def test_what_is_for_everybody_stays_as_it_is(data_dir: Path) -> None:
    for name in ("proc/node/ssh.cert", "log/notes"):
        (data_dir / name).chmod(0o644)
    assert close_to_others(data_dir) == []
    assert mode(data_dir / "proc/node/ssh.cert") == 0o644


def test_links_are_left_alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere") / "file"
    other.write_text("")
    other.chmod(0o644)
    (data_dir / "proc" / "link").symlink_to(other)
    assert close_to_others(data_dir) == []
    assert mode(other) == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a file to another user")
def test_a_secret_of_another_user_stops_the_start_and_nothing_is_changed(data_dir: Path) -> None:
    (data_dir / "host_uuid").chmod(0o644)
    os.chown(data_dir / "proc/node/tls.key", 65534, 65534)
    with pytest.raises(TeleportError, match=r"tls\.key belongs to the uid 65534") as caught:
        open_host(data_dir)
    assert caught.value.hint == f"if you know how it came there: chown -Rh 0 {data_dir}"
    assert mode(data_dir / "host_uuid") == 0o644
    os.chown(data_dir / "proc/node/tls.key", 0, 0)
    os.close(open_host(data_dir).lock)


def test_the_daemon_looks_at_its_start_and_logs_it(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data_dir / "proc/node/tls.key").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        os.close(open_host(data_dir).lock)
    assert mode(data_dir / "proc/node/tls.key") == 0o600
    assert "was open to other users" in caplog.text
