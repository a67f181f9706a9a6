"""Key pairs in files: read at the start, read again when they change, and never given up for a broken one."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.daemon.config.readable import unreadable
from teleport.daemon.keypairs import KeyPairFiles, ends, not_covered
from teleport.errors import TeleportError
from teleport.testing.clock import FakeClock
from teleport.testing.public_authority import Issued, PublicAuthority

AUTHORITY = PublicAuthority()
DAY = 86400.0


@dataclass(frozen=True)
class Files:
    cert_file: Path
    key_file: Path


@pytest.fixture(autouse=True)
def _known_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only root that this host knows."""
    roots = tmp_path / "roots.pem"
    roots.write_bytes(AUTHORITY.root)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


def opened(*files: Files, hosts: tuple[str, ...] = (), clock: FakeClock | None = None) -> KeyPairFiles:
    return KeyPairFiles(files, clock or FakeClock(datetime.now(UTC)), hosts)


def test_a_pair_that_is_replaced_in_place_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A half of a new pair, or a piece of a file, leaves the one before in use, and is said once."""
    caplog.set_level(logging.INFO)
    files = Files(*AUTHORITY.issue("a.test").write(tmp_path))
    held = opened(files, hosts=("a.test",))
    first = held.pairs[0]
    assert not held.look()
    new = AUTHORITY.issue("a.test", "b.test")
    files.cert_file.write_bytes(new.chain)
    assert not held.look()
    assert held.pairs == (first,)
    assert "stays in use" in caplog.text
    assert "does not belong to the certificate" in caplog.text
    said = caplog.text.count("stays in use")
    assert not held.look()
    assert caplog.text.count("stays in use") == said
    files.key_file.write_bytes(new.key[:40])
    assert not held.look()
    files.key_file.write_bytes(new.key)
    assert held.look()
    assert held.pairs[0].names == ("a.test", "b.test")
    files.cert_file.unlink()
    assert not held.look()
    assert held.pairs[0].names == ("a.test", "b.test")
    assert "where nothing is" in caplog.text
    assert new.key.splitlines()[1].decode() not in caplog.text


def test_links_as_certbot_makes_them_are_followed(tmp_path: Path) -> None:
    """live/NAME/fullchain.pem -> ../../archive/NAME/fullchain1.pem, swapped one after the other."""
    live, archive = tmp_path / "live" / "a.test", tmp_path / "archive" / "a.test"
    live.mkdir(parents=True)
    archive.mkdir(parents=True)

    def issue(number: int, made: Issued) -> None:
        for name, content in (("fullchain", made.chain), ("privkey", made.key)):
            (archive / f"{name}{number}.pem").write_bytes(content)

    def lead(name: str, number: int) -> None:
        new = live / f".{name}.new"
        new.symlink_to(f"../../archive/a.test/{name}{number}.pem")
        new.rename(live / f"{name}.pem")

    issue(1, AUTHORITY.issue("a.test"))
    lead("fullchain", 1)
    lead("privkey", 1)
    held = opened(Files(live / "fullchain.pem", live / "privkey.pem"))
    first = held.pairs[0].digest
    issue(2, AUTHORITY.issue("a.test"))
    assert not held.look()
    lead("privkey", 2)
    assert not held.look()
    assert held.pairs[0].digest == first
    lead("fullchain", 2)
    assert held.look()
    assert held.pairs[0].digest != first


def test_what_is_the_same_again_is_no_change(tmp_path: Path) -> None:
    files = Files(*AUTHORITY.issue("a.test").write(tmp_path))
    held = opened(files)
    os.utime(files.cert_file, (1, 1))
    assert not held.look()


def test_the_start_is_refused_for_a_pair_that_cannot_be_used(tmp_path: Path) -> None:
    made = AUTHORITY.issue("a.test")
    files = Files(*made.write(tmp_path))
    files.cert_file.write_bytes(made.leaf)
    with pytest.raises(TeleportError, match="CN=Test Intermediate is missing") as refused:
        opened(files)
    assert str(files.cert_file) in refused.value.message


def test_the_end_and_names_that_nobody_covers_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(UTC)
    files = Files(*AUTHORITY.issue("a.test", "*.b.test", end=now + timedelta(days=30)).write(tmp_path))
    clock = FakeClock(now)
    held = opened(files, hosts=("a.test", "x.b.test", "c.test", "192.0.2.1"), clock=clock)
    assert "for c.test, 192.0.2.1, which public_addr names" in caplog.text
    assert "ends at" not in caplog.text
    assert not_covered(held.pairs, ["a.test", "y.x.b.test"]) == ["y.x.b.test"]
    clock.advance(25 * DAY)
    held.say_ends()
    held.say_ends()
    assert caplog.text.count("ends at") == 1
    clock.advance(DAY)
    held.say_ends()
    assert caplog.text.count("ends at") == 2
    clock.advance(5 * DAY)
    held.say_ends()
    assert "browsers refuse it" in caplog.text
    assert list(ends(held.pairs)) == ["a.test"]
    assert abs(ends(held.pairs)["a.test"] - (now + timedelta(days=30)).timestamp()) < 2


def test_a_key_that_everybody_may_read_is_told_with_what_mends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(*AUTHORITY.issue("a.test").write(tmp_path))
    files.key_file.chmod(0o644)
    opened(files)
    assert f"chmod o-rw {files.key_file}" in caplog.text


async def test_changes_are_noticed_while_the_loop_runs(tmp_path: Path) -> None:
    files = Files(*AUTHORITY.issue("a.test").write(tmp_path))
    held, changed = opened(files), asyncio.Event()
    task = asyncio.create_task(held.follow(changed.set, seconds=0.01))
    try:
        new = AUTHORITY.issue("b.test")
        files.cert_file.write_bytes(new.chain)
        files.key_file.write_bytes(new.key)
        async with asyncio.timeout(20):
            await changed.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert held.pairs[0].names == ("b.test",)


ASK = """
import os, sys
from pathlib import Path
from teleport.daemon.config.readable import unreadable
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in sys.argv[1:]:
    found = unreadable(Path(name))
    print((found.text + " | " + found.mend) if found else "readable")
"""


def test_a_file_that_another_user_may_not_read_is_told_with_what_mends_it(tmp_path: Path) -> None:
    """As the user nobody: of the file itself, and of a directory on the way, through a link."""
    assert unreadable(Path(__file__)) is None
    assert "where nothing is" in getattr(unreadable(tmp_path / "none"), "text", "")
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    open_folder = Path("/tmp") / f"keypairs-{os.getpid()}"  # everybody gets there, as to no tmp_path
    closed = open_folder / "closed"
    closed.mkdir(parents=True)
    try:
        open_folder.chmod(0o755)
        key, inside, link = open_folder / "a key", closed / "k.pem", open_folder / "link"
        for one in (key, inside):
            one.write_text("x")
            one.chmod(0o600)
        closed.chmod(0o700)
        link.symlink_to("closed/k.pem")
        asked = subprocess.run(
            [sys.executable, "-c", ASK, key, inside, link], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        group = "nogroup"
        assert asked[0].endswith(f"chgrp {group} '{key}' && chmod g+r '{key}'")
        assert "(root:root, mode 0600), closed to the user nobody" in asked[0]
        for line in asked[1:]:
            assert f"the directory {closed}" in line
            assert line.endswith(f"chgrp {group} {closed} && chmod g+x {closed}")
    finally:
        for path in (open_folder / "a key", open_folder / "link", closed / "k.pem"):
            path.unlink(missing_ok=True)
        closed.rmdir()
        open_folder.rmdir()
