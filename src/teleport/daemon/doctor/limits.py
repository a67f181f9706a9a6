"""How many files the daemon may have open: each connection is one."""

from __future__ import annotations

import resource

from teleport.daemon.descriptors import ENOUGH, WANTED
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen

CHECK = "limits"


def looked(patient: Patient) -> Said:
    for pid in patient.pids:
        try:
            text = (patient.proc / str(pid) / "limits").read_text()
        except OSError:
            yield Unseen(CHECK, f"the limits of process {pid}", patient.again)
            continue
        soft, most = of_process(text)
        if soft < ENOUGH:
            wanted = f"{min(WANTED, most)}:{most}" if most >= ENOUGH else f"{WANTED}:{WANTED}"
            yield Finding(
                CHECK,
                f"the daemon, process {pid}, may have {soft} files open: many connections at once can use them up. The "
                "command ends that until it is started anew; for good: LimitNOFILE=65536 in its unit",
                f"prlimit --pid {pid} --nofile={wanted}",
            )
    if not patient.pids:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < ENOUGH:
            yield Finding(
                CHECK,
                f"a daemon that is started here may have {hard} files open; {ENOUGH} are enough",
                f"ulimit -n {WANTED}   # as root, in the shell that starts it; in a unit: LimitNOFILE={WANTED}",
            )


def of_process(text: str) -> tuple[int, int]:
    """Soft and hard limit in a file of proc(5)."""
    for line in text.splitlines():
        if line.startswith("Max open files"):
            soft, hard = line.removeprefix("Max open files").split()[:2]
            return (WANTED if soft == "unlimited" else int(soft)), (WANTED if hard == "unlimited" else int(hard))
    return WANTED, WANTED
