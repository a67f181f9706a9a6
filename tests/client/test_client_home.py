"""Files below ~/.tsh: private, whole, and never through a link."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from teleport.client.home import Home, home_path
from teleport.client.system import make_private
from teleport.errors import TeleportError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_are_0600_and_folders_0700_whatever_the_umask_says(tmp_path: Path) -> None:
    home = Home(tmp_path / "tsh")
    before = os.umask(0)
    try:
        home.write(b"secret", "keys", "proxy", "alice")
    finally:
        os.umask(before)
    assert mode(tmp_path / "tsh/keys/proxy/alice") == 0o600
    assert {mode(tmp_path / part) for part in ("tsh", "tsh/keys", "tsh/keys/proxy")} == {0o700}
    assert home.names("keys", "proxy") == ["alice"], "no temporary file is left"


def test_writing_replaces_the_file_and_what_others_opened_before_stays_as_it_was(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write(b"old", "a")
    with (tmp_path / "a").open("rb") as reader:
        home.write(b"new", "a")
        assert reader.read() == b"old"
    assert home.read("a") == b"new"


@pytest.mark.parametrize("often", [1, 1000])
def test_a_folder_that_is_taken_away_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: int
) -> None:
    """A login that is renewed takes certificates away that another tsh writes at this moment."""
    times = 0

    def taken(file: int) -> None:
        nonlocal times
        times += 1
        if times <= often:
            shutil.rmtree(tmp_path / "keys")
        make_private(file)

    monkeypatch.setattr("teleport.client.home.make_private", taken)
    home = Home(tmp_path)
    if often == 1:
        home.write(b"new", "keys", "proxy", "one")
        assert home.names("keys", "proxy") == ["one"]
        assert home.read("keys", "proxy", "one") == b"new"
    else:
        with pytest.raises(TeleportError, match="No such file"):
            home.write(b"new", "keys", "proxy", "one")
        assert times < 10


def test_a_link_in_the_files_place_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = tmp_path / "tsh"
    root.mkdir(mode=0o700)
    (root / "known_hosts").symlink_to(victim)
    Home(root).write(b"mine", "known_hosts")
    assert victim.read_text() == "untouched"
    assert not (root / "known_hosts").is_symlink()


def test_a_link_in_the_files_place_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(TeleportError, match="symbolic link"):
        Home(tmp_path).read("link")


@pytest.mark.parametrize("act", ["read", "write", "names", "remove"])
def test_a_link_in_a_folders_place_is_not_followed(tmp_path: Path, act: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "proxy").mkdir(parents=True)
    (elsewhere / "proxy" / "alice").write_text("kept")
    root = tmp_path / "tsh"
    root.mkdir(mode=0o700)
    (root / "keys").symlink_to(elsewhere)
    home = Home(root)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: home.read("keys", "proxy", "alice"),
        "write": lambda: home.write(b"", "keys", "proxy", "alice"),
        "names": lambda: home.names("keys", "proxy"),
        "remove": lambda: home.remove("keys", "proxy", "alice"),
    }
    with pytest.raises(TeleportError, match="symbolic link"):
        acts[act]()
    assert (elsewhere / "proxy" / "alice").read_text() == "kept"


def test_removing_a_folder_removes_links_in_it_and_not_what_they_lead_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    home = Home(tmp_path / "tsh")
    home.write(b"", "keys", "p", "a")
    (tmp_path / "tsh/keys/p/link").symlink_to(outside)
    assert home.remove("keys")
    assert (outside / "kept").exists()
    assert home.names() == []
    assert not home.remove("keys")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 201])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeleportError, match="cannot be the name of a file"):
        Home(tmp_path).write(b"", "keys", name, "file")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "keys"])


def test_a_private_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write(b"key", "alice")
    assert home.read("alice", private=True) == b"key"
    (tmp_path / "alice").chmod(0o644)
    with pytest.raises(TeleportError, match="other people may read"):
        home.read("alice", private=True)


def test_a_pipe_in_the_files_place_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "certs.pem", 0o600)
    with pytest.raises(TeleportError, match="not a plain file"):
        Home(tmp_path).read("certs.pem")


def test_the_home_is_the_variables_or_below_the_users(tmp_path: Path) -> None:
    assert home_path({"TELEPORT_HOME": str(tmp_path)}) == tmp_path
    assert home_path({"HOME": "/home/ann"}) == Path("/home/ann/.tsh")


def test_nothing_there_reads_as_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "missing")
    assert home.read("current-profile") is None
    assert home.names() == []
    assert not (tmp_path / "missing").exists(), "asking makes nothing"
