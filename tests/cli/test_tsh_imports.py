"""What the commands import: starting quickly is part of their promise (done-when 7)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.tsh_runner import Tsh

from teleport.testing.web_lab import CODE, PASSWORD, WebLab

HEAVY = {"asyncssh", "aiohttp", "cryptography", "msgspec", "yaml", "ssl", "asyncio", "argon2", "zstandard", "segno"}
REPORT = """
import atexit, os, sys
sys.argv = ["tsh", *sys.argv[1:]]
atexit.register(lambda: open(os.environ["MODULES"], "w").write("\\n".join(sys.modules)))
from teleport.cli.tsh import main
main()
"""


def modules(tsh: Tsh, *arguments: str, stdin: str = "", status: int = 0) -> set[str]:
    """The top-level names of everything that a run imported."""
    listing = tsh.folder / "modules"
    ran = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        input=stdin.encode(),
        env=tsh.environment(MODULES=str(listing)),
        capture_output=True,
        check=False,
    )
    assert ran.returncode == status, ran.stderr.decode()
    return set(listing.read_text().split("\n"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["status"],
        ["version"],
        ["env"],
        ["login", "--help"],
        ["ssh", "--help"],
        ["play", "--help"],
        ["recordings", "search", "--help"],
    ],
)
def test_what_asks_nobody_imports_nothing_heavy(tsh: Tsh, arguments: list[str]) -> None:
    assert not HEAVY & modules(tsh, *arguments)


def test_what_ssh_runs_before_it_connects_imports_nothing_heavy_while_nothing_is_due(tsh: Tsh, lab: WebLab) -> None:
    tsh.home.joinpath("hosts").mkdir(mode=0o700, exist_ok=True)
    tsh.home.joinpath("hosts", "127.0.0.1.renewed").write_text(f"ok {int(time.time())}")
    tsh.home.joinpath("hosts", "127.0.0.1.looked").write_text(f"{time.time():.3f} still ")
    assert not HEAVY & modules(tsh, "config-refresh", str(tsh.home), "127.0.0.1")


def test_printing_configuration_imports_no_tls_and_no_ssh(tsh: Tsh) -> None:
    assert not {"asyncssh", "aiohttp", "msgspec", "ssl", "asyncio"} & modules(tsh, "config")


def test_listing_imports_neither_ssh_nor_an_event_loop_nor_a_crypto_library(tsh: Tsh) -> None:
    assert not {"asyncssh", "aiohttp", "asyncio", "cryptography", "yaml"} & modules(tsh, "ls")


def test_logging_in_imports_no_ssh(tsh: Tsh, lab: WebLab) -> None:
    answers = f"{PASSWORD}\n{CODE}\n"
    found = modules(tsh, "login", f"--proxy={lab.address}", f"--ca-pin={lab.cluster.pin}", "--ttl=60", stdin=answers)
    assert not {"asyncssh", "aiohttp", "asyncio", "yaml"} & found


def test_playing_a_file_imports_no_ssh_and_no_tls(tsh: Tsh) -> None:
    vector = Path(__file__).parent.parent / "vectors" / "recording" / "version-1.rec"
    found = modules(tsh, "play", str(vector), "--format=text")
    assert not {"asyncssh", "aiohttp", "asyncio", "ssl", "yaml"} & found
