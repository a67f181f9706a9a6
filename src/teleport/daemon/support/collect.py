"""The parts of a bundle, each by a function that gives a document or a text; one that cannot says why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import stat
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from teleport import __version__
from teleport.daemon import credentials
from teleport.daemon.doctor import examination, listening
from teleport.daemon.doctor.patient import Patient
from teleport.daemon.identities import leads_through_proxy
from teleport.daemon.monitoring.asking import ask, status_of
from teleport.daemon.needed_ports import Surroundings, needed
from teleport.daemon.support import facts
from teleport.errors import NotFound, TeleportError
from teleport.identity import SystemRole

LOG: Final = 1 << 20  # bytes of the log, from its end
LISTED: Final = 20_000  # files
SECONDS: Final = 5.0  # for one answer of the daemon
JOURNAL: Final = 30.0  # seconds for journalctl
_STATUS: Final = ("State", "Uid", "VmRSS", "VmHWM", "VmSwap", "Threads", "voluntary_ctxt_switches")

Part = Callable[[Patient], Any]


def version(patient: Patient) -> dict[str, Any]:
    release = {}
    for line in _text(patient.root / "etc" / "os-release").splitlines():
        name, _, value = line.partition("=")
        if name in ("ID", "VERSION_ID", "PRETTY_NAME"):
            release[name.lower()] = value.strip('"')
    return {
        "teleport": __version__,
        "python": platform.python_version(),
        "system": release,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": {
            one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]
        },
    }


def configuration(patient: Patient) -> dict[str, Any]:
    return facts.settings(patient.config)


def findings(report: examination.Report) -> dict[str, Any]:
    """As `teleport doctor` tells them; of a mistake in the configuration the place alone, as a value may be a secret
    that somebody wrote in the wrong place."""
    told: list[dict[str, Any]] = [
        {**asdict(one), "what": one.what.partition(": found ")[0] if one.check == "config" else one.what}
        for one in report.findings
    ]
    return {"findings": told, "unseen": [asdict(one) for one in report.unseen], "checks": list(report.checks)}


def ports(patient: Patient) -> dict[str, Any]:
    config = patient.config
    through = config.auth is None and leads_through_proxy(config.data_dir / "proc", config)
    return {
        "needed": [asdict(one) for one in needed(config, Surroundings(through_proxy=through))],
        "listening": sorted({f"{one.host} {one.port}" for one in listening.listeners(patient.proc)}),
    }


def processes(patient: Patient) -> list[dict[str, Any]]:
    """Of the daemon. Never how it was called, nor its environment: tokens may be among both."""
    found: list[dict[str, Any]] = []
    for pid in patient.pids:
        status = _text(patient.proc / str(pid) / "status")
        lines: dict[str, str] = {
            name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())
        }
        try:
            descriptors = len(os.listdir(patient.proc / str(pid) / "fd"))
        except OSError:
            descriptors = -1
        found.append(
            {
                "pid": pid,
                "descriptors": descriptors,
                "limits": _text(patient.proc / str(pid) / "limits").splitlines(),
                "status": {name: lines[name] for name in _STATUS if name in lines},
            }
        )
    return found


def machine(patient: Patient) -> dict[str, Any]:
    usage = os.statvfs(patient.config.data_dir)
    return {
        "load": _text(patient.proc / "loadavg").strip(),
        "memory": _text(patient.proc / "meminfo").splitlines()[:5],
        "uptime": _text(patient.proc / "uptime").strip(),
        "disk": {
            "free_bytes": usage.f_bavail * usage.f_frsize,
            "bytes": usage.f_blocks * usage.f_frsize,
            "free_files": usage.f_favail,
        },
        "interfaces": _text(patient.proc / "net" / "dev").splitlines(),
        "clock": patient.now.isoformat(),
    }


def health(patient: Patient) -> dict[str, Any]:
    address = patient.config.diag_addr
    if address is None:
        raise NotFound("diag_addr is not configured", hint="set teleport.diag_addr")
    found = {}
    for path in ("/healthz", "/readyz"):
        status, body = ask(address, path, SECONDS)
        found[path] = {"status": status, "said": status_of(body)}
    return found


def metrics(patient: Patient) -> str:
    address = patient.config.diag_addr
    if address is None:
        raise NotFound("diag_addr is not configured", hint="set teleport.diag_addr")
    return ask(address, "/metrics", SECONDS)[1]


def certificates(patient: Patient) -> list[dict[str, Any]]:
    """Of this host: how long they are good, and for whom."""
    found = []
    for role in SystemRole:
        held = credentials.load(patient.config.data_dir / "proc", role, only_look=True)
        if held is not None:
            found.append(
                {
                    "role": str(role),
                    "cluster": held.cluster.cluster,
                    "ends": held.expires.isoformat(),
                    "principals": list(held.principals),
                }
            )
    return found


def files(patient: Patient) -> str:
    """What is in the data directory: names, owners, modes, sizes, times. Nothing of what is in them."""
    top, lines = patient.config.data_dir, list[str]()
    for folder, folders, names in os.walk(top, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = Path(folder) / name
            try:
                seen = path.lstat()
            except FileNotFoundError:
                continue  # gone since
            when = datetime.fromtimestamp(seen.st_mtime, UTC).isoformat(timespec="seconds")
            whose = f"{stat.filemode(seen.st_mode)} {seen.st_uid}:{seen.st_gid}"
            lines.append(f"{whose} {seen.st_size} {when} {path.relative_to(top)}")
            if len(lines) >= LISTED:
                return "\n".join([*lines, "and more"]) + "\n"
    return "\n".join(lines) + "\n"


def _raise(error: OSError) -> None:
    raise error


def log(patient: Patient, named: Path | None = None) -> str:
    """The end of the daemon's log, from the file that is named or configured, else from the journal."""
    output = patient.config.log.output
    if named is None and output not in ("", "stderr", "stdout", "syslog"):
        named = Path(output)
    if named is not None:
        with named.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG))
            text = file.read(LOG).decode(errors="replace")
        return text.partition("\n")[2] if size > LOG else text  # the first line may have lost its head
    words = ["journalctl", "--no-pager", "-o", "short-iso", "-n", "5000", "-u", "teleport*"]
    try:
        done = subprocess.run(words, capture_output=True, timeout=JOURNAL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TeleportError(f"the journal is not read: {error}", hint="name a file: --log=FILE") from None
    if done.returncode:
        raise TeleportError(f"the journal is not read: status {done.returncode}", hint="name a file: --log=FILE")
    return done.stdout.decode(errors="replace")[-LOG:]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


PARTS: Final[dict[str, Part]] = {
    "version.json": version,
    "configuration.json": configuration,
    "ports.json": ports,
    "processes.json": processes,
    "machine.json": machine,
    "health.json": health,
    "metrics.txt": metrics,
    "certificates.json": certificates,
    "files.txt": files,
}
