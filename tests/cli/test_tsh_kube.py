"""`tsh kube` on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_no_key_is_printed_on_a_terminal(tmp_path: Path) -> None:
    """What kubectl reads from the plugin holds the login's key: it is for a pipe, not for eyes and scrollback."""
    terminal, its_end = os.openpty()
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from teleport.cli.tsh import main; main()",
                "kube",
                "credentials",
                "--kube-cluster=a",
            ],
            env={**os.environ, "TELEPORT_HOME": str(tmp_path / "home")},
            stdin=subprocess.DEVNULL,
            stdout=its_end,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(its_end)
        os.close(terminal)
    assert done.returncode == 2
    assert b"not on a terminal" in done.stderr
