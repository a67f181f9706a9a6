"""The configuration travels between processes: whatever it holds arrives as it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config

EVERYTHING = """\
teleport:
  nodename: here
  data_dir: {folder}
  auth_token: /run/token
  diag_addr: 127.0.0.1:3000
  pid_file: {folder}/pid
  ca_pin: sha256:{pin}
  connection_limits: {{max_connections: 7, max_users: 3, rates: [{{period: 1m, average: 100, burst: 200}}]}}
  log: {{output: stdout, severity: DEBUG, format: {{output: json}}}}
auth_service:
  enabled: yes
  tokens: ["node:/run/token"]
  authentication: {{type: local, second_factor: otp}}
proxy_service:
  enabled: yes
ssh_service:
  enabled: yes
  labels: {{env: prod}}
  commands: [{{name: arch, command: [uname, -p], period: 1h}}]
"""


def test_a_configuration_survives_the_way_to_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "teleport.yaml"
    path.write_text(EVERYTHING.format(folder=tmp_path, pin="ab" * 32))
    config = effective_config(load_config(path.read_bytes(), str(path)), StartFlags(debug=True), "host")
    assert pickle.loads(pickle.dumps(config)) == config


def test_who_takes_a_configuration_loads_no_parser() -> None:
    code = (
        "import sys, pickle; from teleport.daemon.config.values import Config, NodeConfig, SshAlgorithms, LogConfig\n"
        "import teleport.cli.teleport.daemon, teleport.daemon.logs, teleport.daemon.restarts.handover\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "teleport.daemon.config.values" in loaded
    assert not {"click", "yaml", "teleport.daemon.config.file", "teleport.daemon.config.effective"} & set(loaded)
