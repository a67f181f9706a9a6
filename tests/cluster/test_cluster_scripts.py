"""A shell script that looks at exit codes and asks jq, and reads no sentence, drives a whole flow."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from teleport.testing.cluster import BIN, Cluster, Person, free_port

FLOW = Path(__file__).parent / "flow.sh"


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq (scripts/setup.sh names it)")
def test_a_script_needs_exit_codes_and_jq_alone(cluster: Cluster, alice: Person, tmp_path: Path) -> None:
    config = ["-c", str(cluster.config_path)]
    nobody = [BIN / "tctl"]
    away = [BIN / "tctl", *config, f"--auth-server=127.0.0.1:{free_port()}"]
    node = alice.tsh("ls", "--format=names").ok().stdout.split()[0]
    ran = subprocess.run(
        ["bash", str(FLOW)],
        env={
            **alice.environment,
            "TELEPORT_CONFIG_FILE": "",
            "TSH": str(BIN / "tsh"),
            "TCTL": shlex.join(map(str, [BIN / "tctl", *config])),
            "TCTL_AWAY": shlex.join(map(str, away)),
            "TCTL_NOBODY": f"env TELEPORT_HOME={tmp_path} {shlex.join(map(str, nobody))}",
            "NODE": node,
            "PATH": os.environ["PATH"],
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "done"
