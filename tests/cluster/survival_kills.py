"""Kills processes of a cluster under work, with its disk full or slow or as it should be, and looks what is left."""

from __future__ import annotations

import os
import pwd
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.survival_traffic import shared_session, traffic
from tests.cluster.survival_workload import Worked, Workload
from tests.cluster.test_cluster_agentless import WEB, Sshd, make_sshd, set_up
from tests.cluster.test_cluster_faults import filled
from tests.cluster.test_cluster_slow_disk import SlowDisk, slow_disk

from teleport.testing.cluster import NODE, Host, alive, descendants, wait_until
from teleport.testing.survival import Evidence, Ledger, problems

GONE = 15.0  # seconds until nothing of a killed daemon's sessions may be left
DELIVERED = 60.0  # seconds for what waits on disk after the last kill
PROVED_EVERY = 40  # kills
DISK = 128 << 20  # bytes of the disk of node and proxy
TROUBLES = ("full", "slow", "")

Survived = tuple[Ledger, Evidence]


def survive(
    folder: Path,
    login: str,
    *,
    kills: int,
    apart: bool,
    seed: int,
    mode: str = "node",
    plain: bool = False,
    troubled: bool = False,
    victims: Sequence[str] = (),
) -> Survived:
    """A cluster under work of which `kills` processes are killed; what it acknowledged, and what it left on disk.

    `plain`: there is a host with a plain sshd, too. `troubled`: the disk of node and proxy is full or slow at times.
    """
    dice, ledger, took = random.Random(seed), Ledger(), defaultdict[str, list[float]](list)
    began = time.monotonic()
    with ExitStack() as stack:
        disk = stack.enter_context(slow_disk(folder, DISK)) if troubled else None
        worked = stack.enter_context(Worked(folder, login, apart=apart, mode=mode, disk=disk.path if disk else None))
        if disk is not None:
            for host in (worked.node, worked.proxy):
                disk.add(host.daemon.pid)
        files = files_of(folder, login)
        more = traffic(NODE, files, scp=True)
        if mode.startswith("node"):
            more.append(shared_session)  # proxies that record refuse who wants to join
        if plain:
            plain_host(stack, worked)
            more += [*traffic(WEB, files, scp=False), short_there, long_there]
        victims = victims or ["auth", "node", "launcher", "proxy", "all"] if apart else ["auth", "launcher"]
        with Workload(worked, ledger, more) as work:
            wait_until("each sort of work succeeds", lambda: under_way(ledger, shared=shared_session in more), 60.0)
            for number in range(kills):
                victim = victims[number % len(victims)] if number < len(victims) else dice.choice(victims)
                time.sleep(dice.choice((dice.uniform(0, 0.5), dice.uniform(0, 1.2), dice.uniform(0, 4.5))))
                noted = time.monotonic()
                trouble = TROUBLES[number % len(TROUBLES)] if disk is not None else ""
                strike(worked, work, victim, disk, trouble, dice.uniform(0, 2.0))
                took[trouble or "no trouble"].append(time.monotonic() - noted)
                if number % PROVED_EVERY == PROVED_EVERY - 1:
                    prove(worked)
            time.sleep(1.0)  # the work goes on after the last one
        settle(worked, ledger)
        prove(worked)
        evidence = Evidence.read(worked.auth.data_dir, worked.data_dirs)
        if disk is not None:
            for host in (worked.node, worked.proxy):
                forgive_full_disk(host)
    print(
        f"{kills} kills (seed {seed}, {mode}) in {time.monotonic() - began:.0f} s: {ledger.summary()}; "
        f"{len(evidence.recordings)} recordings, {len(evidence.events)} events; until all served again: "
        + ", ".join(f"{sum(times) / len(times):.1f} s of {len(times)} ({what})" for what, times in took.items()),
        file=sys.stderr,
    )
    return ledger, evidence


def under_way(ledger: Ledger, *, shared: bool) -> bool:
    """Whether something of each sort was done: then kills meet work."""
    moved = {(move.kind, move.action) for move in list(ledger.moves) if move.told}
    forwarded = any(forward.told for forward in list(ledger.forwards))
    joined = not shared or any(one.told for one in list(ledger.shared))
    finished = any(one.finished for one in list(ledger.sessions))
    return {("sftp", "remove"), ("scp", "read")} <= moved and forwarded and joined and finished


def forgive_full_disk(host: Host) -> None:
    """What the log says at length may be about the full disk, and about nothing else."""
    log = host.daemon.log()
    others = [line for line in log.splitlines() if "Traceback" in line and "No space left" not in line]
    assert not others, "\n".join(line.replace("\\n", "\n") for line in others)
    host.daemon.log_path.write_text(log.replace("Traceback", "trace of a full disk"))


def short_there(workload: Workload) -> None:
    """A command that ends, at the host with a plain sshd."""
    workload.short_session(WEB)
    workload.rest(0.2)


def long_there(workload: Workload) -> None:
    """A command that is cut off, at the host with a plain sshd."""
    workload.long_session(WEB)


def files_of(folder: Path, login: str) -> Path:
    """Where the login may write."""
    if os.geteuid() == 0 and login != "root":
        return Path(pwd.getpwnam(login).pw_dir)
    made = folder / "files"
    made.mkdir()
    return made


def plain_host(stack: ExitStack, worked: Worked) -> Sshd:
    folder = worked.folder / "sshd"
    folder.mkdir()
    sshd = make_sshd(folder)
    set_up(worked.auth, sshd)
    stack.callback(sshd.stop)
    sshd.start()
    wait_until("it is listed", lambda: WEB in worked.person.tsh("ls", "--format=names").stdout.split())
    return sshd


def strike(worked: Worked, work: Workload, victim: str, disk: SlowDisk | None, trouble: str, seconds: float) -> None:
    """Kills, looks that nothing of a session is left, starts again and waits until all serve. With `trouble`, the disk
    is full or slow for some seconds before."""
    hosts = list(worked.hosts.values()) if victim == "all" else [worked.hosts.get(victim, worked.node)]
    cuts = victim in ("launcher", "all") or worked.node in hosts
    with troubled(disk, trouble, work, seconds):
        below = [pid for host in hosts for pid in descendants(host.daemon.pid)]
        sessions = work.processes() if cuts else []
        now = time.time()
        if cuts or (worked.proxy in hosts and worked.mode.startswith("proxy")):
            work.cuts[NODE].append(now)
        if worked.proxy in hosts:
            work.cuts[WEB].append(now)
        if victim == "launcher":
            os.kill(launcher_of(worked.node), signal.SIGKILL)
            assert worked.node.daemon.ended() != 0, "a daemon without its launcher goes on"
        else:
            for host in hosts:
                host.daemon.abandon()
    left = {*below, *sessions}
    wait_until(f"nothing of the killed {victim} is left", lambda: not any(map(alive, left)), GONE)
    start_again(hosts, worked, disk)
    try:
        for host in hosts:
            wait_until(f"ready again after the kill of {victim}", host.daemon.ready, 40.0)
    except AssertionError as error:
        said = "\n".join(f"{host.folder.name}: {host.daemon.log()[-2000:]}" for host in worked.hosts.values())
        raise AssertionError(f"{error}\n{said}") from None


def start_again(hosts: Sequence[Host], worked: Worked, disk: SlowDisk | None) -> None:
    for host in hosts:
        host.daemon.begin()
        if disk is not None and host is not worked.auth:
            disk.add(host.daemon.pid)


@contextmanager
def troubled(disk: SlowDisk | None, trouble: str, work: Workload, seconds: float) -> Iterator[None]:
    """For these seconds, and what is done within, the disk is full or slow."""
    with ExitStack() as stack:
        if disk is not None and trouble:
            for host in (NODE, WEB):
                work.cuts[host].append(time.time())
            if trouble == "full":
                stack.enter_context(filled(disk.path))
            else:
                stack.callback(disk.slow, False)
                disk.slow(True)
            time.sleep(seconds)
        yield


def launcher_of(host: Host) -> int:
    """The process that the daemon forked before anything else."""
    return min(int(pid) for pid in Path(f"/proc/{host.daemon.pid}/task/{host.daemon.pid}/children").read_text().split())


def settle(worked: Worked, ledger: Ledger) -> None:
    """Waits until what lay in spools when the work ended has been taken in."""

    def delivered() -> bool:
        evidence = Evidence.read(worked.auth.data_dir, worked.data_dirs)
        return not [line for line in problems(ledger, evidence) if not line.startswith(("lost write", "lost output"))]

    try:
        wait_until("everything is delivered", delivered, DELIVERED)
    except AssertionError:
        evidence = Evidence.read(worked.auth.data_dir, worked.data_dirs)
        raise AssertionError("\n".join([ledger.summary(), *problems(ledger, evidence)[:30]])) from None


def prove(worked: Worked) -> None:
    proved = worked.auth.tctl("audit", "verify", seconds=120)
    assert proved.status == 0, proved.stdout + proved.stderr
