"""`make run`: an all-in-one cluster in ./var. Takes the usual ports where they are free, others where they are not.

Listens on 127.0.0.1, or on the loopback address in TELEPORT_LOOPBACK (`::1`).

The configuration is written once; later runs keep it, and with it the ports, the keys and everything recorded.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = os.environ.get("TELEPORT_LOOPBACK") or "127.0.0.1"
AT = f"[{LOOPBACK}]" if ":" in LOOPBACK else LOOPBACK  # in front of a port
PUBLIC = AT if ":" in LOOPBACK else "localhost"
LISTENERS = {  # key in the file: usual port
    "auth_service": 3025,
    "ssh_service": 3022,
    "proxy_ssh": 3023,
    "proxy_web": 3080,
    "proxy_tunnel": 3024,
}


def free_port(usual: int, taken: set[int]) -> int:
    """`usual` when nobody listens there, else a port that the system gives."""
    for wanted in (usual, 0):
        with socket.socket(socket.AF_INET6 if ":" in LOOPBACK else socket.AF_INET) as probe:
            try:
                probe.bind((LOOPBACK, wanted))
            except OSError:
                continue
            port = int(probe.getsockname()[1])
            if port not in taken:
                taken.add(port)
                return port
    raise SystemExit("make run: no free port on " + LOOPBACK)


def write_config(path: Path, data_dir: Path) -> None:
    taken: set[int] = set()
    ports = {name: free_port(usual, taken) for name, usual in LISTENERS.items()}
    path.write_text(
        f"""# Written by `make run`. Everything listens on this machine only.
teleport:
  nodename: localhost
  data_dir: {data_dir}
  auth_servers: ["{AT}:{ports["auth_service"]}"]
auth_service:
  enabled: yes
  cluster_name: local
  listen_addr: "{AT}:{ports["auth_service"]}"
  authentication:
    type: local
    second_factor: otp
proxy_service:
  enabled: yes
  listen_addr: "{AT}:{ports["proxy_ssh"]}"
  web_listen_addr: "{AT}:{ports["proxy_web"]}"
  tunnel_listen_addr: "{AT}:{ports["proxy_tunnel"]}"
  public_addr: "{PUBLIC}:{ports["proxy_web"]}"
  ssh_public_addr: "{PUBLIC}:{ports["proxy_ssh"]}"
ssh_service:
  enabled: yes
  listen_addr: "{AT}:{ports["ssh_service"]}"
  labels:
    env: local
"""
    )
    path.chmod(0o600)


def main() -> None:
    var = Path(os.environ.get("TELEPORT_VAR") or ROOT / "var").absolute()
    var.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = var / "teleport.yaml"
    if not config.exists():
        write_config(config, var / "data")
    program = Path(sys.executable).parent / "teleport"
    os.execv(program, [str(program), "start", f"--config={config}"])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
