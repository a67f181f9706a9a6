"""What SELinux and AppArmor have forbidden the daemon within the last day."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, quoted

CHECK = "denials"
RECENT = timedelta(days=1)
LOGS = ("var/log/audit/audit.log", "var/log/kern.log")
MOST = 4 << 20  # bytes, from the end
_DENIED = re.compile(r"avc:\s+denied\s|apparmor=\"DENIED\"")
_STAMP = re.compile(r"audit\((\d+)\.\d+:\d+\)")
_FIELD = r'\b{}="?([^" ]+)"?'


def looked(patient: Patient) -> Said:
    mine = ("selinux", "apparmor")
    on = [name for name in mine if _on(patient, name)]
    found = False
    for log in LOGS:
        path = patient.root / log
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - MOST))
                text = file.read(MOST).decode(errors="replace")
                found = True
        except PermissionError:
            found = True
            if on:
                yield Unseen(CHECK, f"{path}: this user may not read it", patient.again)
            continue
        except OSError:
            continue
        yield from dict.fromkeys(of_log(patient, text))
    if on and not found:
        yield Unseen(CHECK, f"no log of {' and '.join(on)} is where it usually is", "journalctl -k --grep=denied")


def _on(patient: Patient, name: str) -> bool:
    if name == "selinux":
        return (patient.root / "sys/fs/selinux/enforce").exists()
    try:
        return (patient.root / "sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        return False


def of_log(patient: Patient, text: str) -> Said:
    """What a log says that the daemon was kept from; whatever comes from the log is shown as one word at most."""
    for line in text.splitlines():
        stamp = _STAMP.search(line)
        if _DENIED.search(line) is None or stamp is None:
            continue
        if patient.now.timestamp() - int(stamp[1]) > RECENT.total_seconds():
            continue
        pid, command, profile = _field(line, "pid"), _field(line, "comm"), _field(line, "profile")
        if not (pid.isdecimal() and int(pid) in patient.pids) and "teleport" not in (command, Path(profile).name):
            continue
        target = _field(line, "name") or _field(line, "path") or "?"
        if "apparmor=" in line:
            what = f"AppArmor's profile {profile} forbids {_field(line, 'operation') or 'it'} of {target}"
            yield Finding(CHECK, what, f"aa-complain {quoted(profile)}   # then write what it needs: aa-logprof")
            continue
        yield Finding(
            CHECK,
            f"SELinux forbids {command or 'the daemon'} what it does with {target} ({_field(line, 'tclass') or '?'})",
            f"restorecon -RFv {quoted(patient.config.data_dir)}"
            if target.startswith(str(patient.config.data_dir)) or "default_t" in line or "user_home" in line
            else f"ausearch -m avc -c {quoted(command or 'teleport')} --raw | audit2allow -M teleport-local && "
            "semodule -i teleport-local.pp",
        )


def _field(line: str, name: str) -> str:
    found = re.search(_FIELD.format(name), line)
    return found[1] if found else ""
