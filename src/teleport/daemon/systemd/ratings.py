"""What `systemd-analyze security` leaves open in each of our units, and why it stays open.

A row is open when systemd counts it as exposure. Every one that we leave open has its reason here; one without is a
row that nobody has thought about.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.systemd.units import Unit, Values, unit_text
from teleport.errors import NotFound, TeleportError

OK: Final = 5.0  # systemd calls it "OK" up to here
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One that is open: what it is called, how much it counts, and why it is."""

    name: str
    exposure: float
    reason: str


_NETWORK: Final = "it is reached over the network, and reaches other hosts"
_AS_USER: Final[Mapping[str, str]] = {
    "RootDirectoryOrRootImage": "program and interpreter are those of the host, read-only (ProtectSystem=strict)",
    "RestrictAddressFamilies_AF_UNIX": "readiness is told to systemd, and the log to syslog, by such a socket",
    "RestrictAddressFamilies_AF_INET_INET6": _NETWORK,
    "PrivateNetwork": _NETWORK,
    "IPAddressDeny": "who connects is up to the firewall; systemctl edit takes IPAddressAllow=",
    "PrivateUsers": "whoever else owns a file in data_dir could not be named when it is refused",
    "DeviceAllow": "PrivateDevices=yes leaves null, zero, random and tty; ProtectClock=yes names the clock, to read",
    "CapabilityBoundingSet_CAP_NET_BIND_SERVICE_BROADCAST_RAW)": "a port below 1024 is listened on (--low-ports)",
    "AmbientCapabilities": "a port below 1024 is listened on (--low-ports)",
    "UserOrDynamicUser": "data_dir belongs to one account for good, also while the daemon is down and tctl runs",
}

_SESSIONS: Final = "it would hold in every session, too, where the account alone decides"
_ROOT: Final = "sessions start as any account, and those of root have what root has"
_AS_ROOT: Final[Mapping[str, str]] = {
    "UserOrDynamicUser": "sessions start as the account that was asked for: only root may do that",
    "NoNewPrivileges": "sudo, su and ping would not work in sessions",
    "PrivateTmp": "people look for /tmp of the host, and leave files there for others",
    "ProtectHome": "sessions begin in /home and /root",
    "ProtectSystem": "administrators change /etc and /usr in sessions",
    "PrivateMounts": "what root mounts in a session has to be mounted on the host",
    "PrivateUsers": "sessions run as the accounts of this host",
    "PrivateNetwork": _NETWORK + "; so do sessions",
    "IPAddressDeny": _SESSIONS + "; who connects is up to the firewall",
    "ProtectProc": "ps and top would be empty in sessions",
    "ProcSubset": "free, uptime and sysctl read /proc in sessions",
    "UMask": "sessions have that of their account (PAM); what the daemon writes has modes of its own",
    "DeviceAllow": "administrators use disks and devices in sessions",
    "PrivateDevices": "administrators use disks and devices in sessions",
    "RootDirectoryOrRootImage": "sessions are on this host, not in an image",
    "MemoryDenyWriteExecute": "programs that compile as they run (node, java, PyPy) would fail in sessions",
    "SystemCallArchitectures": "32-bit programs would fail in sessions",
    "RestrictNamespaces": "containers, sandboxes of browsers and unshare would fail in sessions",
    "RestrictAddressFamilies": "ip, ss, tcpdump and Bluetooth tools open such sockets in sessions",
    "SystemCallFilter": _SESSIONS,
    "CapabilityBoundingSet": _ROOT,
    "KeyringMode": "PAM gives each session a keyring",
    "RemoveIPC": "sessions share IPC with what else their account runs",
    "Delegate": "the unit keeps its control group to itself",
    **dict.fromkeys(
        (
            *("LockPersonality", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs"),
            *("ProtectKernelModules", "ProtectKernelTunables", "RestrictRealtime", "RestrictSUIDSGID"),
        ),
        _SESSIONS,
    ),
}


def reason(unit: Unit, field: str) -> str:
    """Why the row that systemd calls `field` is open; empty when nobody has said."""
    table = _AS_USER if unit is Unit.SERVICE else _AS_ROOT
    return table.get(field) or table.get(field.partition("_")[0], "")


def open_rows(unit: Unit, text: str) -> list[Row]:
    """The open rows of what `systemd-analyze security --json` printed, worst first."""
    rows = [
        Row(row["name"], float(row["exposure"]), reason(unit, row["json_field"]))
        for row in json.loads(text)
        if row["exposure"] is not None and float(row["exposure"]) > 0
    ]
    return sorted(rows, key=lambda row: (-row.exposure, row.name))


def rate(values: Values) -> tuple[str, list[Row]]:
    """The sentence that systemd sums up with, and the open rows.

    Raises `NotFound` without a systemd, `TeleportError` when it does not rate units that are not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / values.unit.file_name
        file.write_text(unit_text(values))
        table = _analyze("--json=short", file)
        lines = _analyze("", file).strip().splitlines()
    return lines[-1].removeprefix("→").strip() if lines else "", open_rows(values.unit, table)


def _analyze(how: str, file: Path) -> str:
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", *([how] if how else []), str(file)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise NotFound("this host has no systemd-analyze, which rates units", hint="run it where systemd is") from None
    except subprocess.TimeoutExpired:
        raise TeleportError(
            "systemd-analyze does not come to an end", hint=f"try it by hand: {' '.join(words)}"
        ) from None
    if done.returncode != 0:
        raise TeleportError(
            f"systemd-analyze cannot rate the unit: {done.stderr.strip()}", hint="it takes systemd 250 or later"
        )
    return done.stdout
