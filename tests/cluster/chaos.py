"""Breaks whatever there is in a cluster under work, one or two things at a time, and looks what is left."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.chaos_place import INNER, ChaosPlace
from tests.cluster.survival_kills import files_of
from tests.cluster.survival_traffic import traffic
from tests.cluster.survival_workload import Workload

from teleport.testing.cluster import NODE, Host, wait_until
from teleport.testing.survival import Evidence, Ledger, problems

SERVED = 60.0  # seconds until whatever was broken serves again
DELIVERED = 120.0  # seconds for what waits on disk at the end
Mend = Callable[[], None]


def chaos(folder: Path, login: str, *, seconds: float, seed: int) -> tuple[Ledger, Evidence]:
    """What the cluster acknowledged in that time, and what it left."""
    print(f"chaos: seed {seed}", file=sys.stderr)
    dice, ledger, broken = random.Random(seed), Ledger(), Counter[str]()
    ledger.shut_out.add("mallory")
    with ExitStack() as stack:
        place = stack.enter_context(ChaosPlace(folder, login))
        more = [*traffic(NODE, files_of(folder, login), scp=True), short_there, long_there, forbidden]
        with Workload(place, ledger, more) as work:
            wait_until("each sort of work succeeds", lambda: under_way(ledger), SERVED)
            until = time.monotonic() + seconds
            turns = dice.sample(sorted(WAYS), len(WAYS))  # each at least once, in any order
            while turns or time.monotonic() < until:
                chosen = [turns.pop()] if turns else dice.sample(sorted(WAYS), dice.choice((1, 1, 2)))
                if {"auth b killed", "both auth servers killed"} <= set(chosen):
                    chosen.remove("auth b killed")
                time.sleep(dice.uniform(0, 0.8))
                mends = [WAYS[name](place, work, dice) for name in chosen]
                broken.update(chosen)
                time.sleep(dice.uniform(0.1, 2.5))
                for mend in mends:
                    mend()
                _serve(place, chosen)
            time.sleep(1.0)
        settle(place, ledger)
        place.auth.tctl("audit", "verify", seconds=120).ok()
        evidence = place.evidence()
    print(
        f"chaos (seed {seed}): {sum(broken.values())} times broken ({dict(sorted(broken.items()))}); "
        f"{ledger.summary()}; {len(evidence.recordings)} recordings, {len(evidence.events)} events",
        file=sys.stderr,
    )
    return ledger, evidence


def _serve(place: ChaosPlace, chosen: list[str]) -> None:
    """Waits until every daemon is ready, or says what each of them lacks."""
    try:
        wait_until(f"all serve after {chosen}", lambda: all(map(_ready, place.hosts.values())), SERVED)
    except AssertionError as error:
        answers = "\n".join(f"{name}: {host.daemon.readiness()}" for name, host in place.hosts.items())
        raise AssertionError(f"{error}\n{answers}") from None


def _ready(host: Host) -> bool:
    return host.daemon.ready()


def under_way(ledger: Ledger) -> bool:
    """Whether something of each sort was done: then what breaks meets work."""
    moved = any(move.told for move in list(ledger.moves))
    forwarded = any(forward.told for forward in list(ledger.forwards))
    finished = any(one.finished for one in list(ledger.sessions))
    return moved and forwarded and finished and ledger.tried > 0 and bool(ledger.writes) and bool(ledger.logins)


def settle(place: ChaosPlace, ledger: Ledger) -> None:
    """Waits until what lay in spools has been taken in."""

    def wrong() -> list[str]:
        return problems(ledger, place.evidence())

    try:
        wait_until("everything is delivered", lambda: not wrong(), DELIVERED)
    except AssertionError:
        raise AssertionError("\n".join([ledger.summary(), *wrong()[:30]])) from None


def short_there(workload: Workload) -> None:
    """A command that ends, behind the tunnel."""
    workload.short_session(INNER)
    workload.rest(0.3)


def long_there(workload: Workload) -> None:
    """A command that is cut off, behind the tunnel."""
    workload.long_session(INNER)


def forbidden(workload: Workload) -> None:
    """Who is locked wants in, and who may enter wants to be somebody else."""
    place = workload.worked
    assert isinstance(place, ChaosPlace)
    output = workload.folder / "forbidden.out"
    for host in (NODE, INNER):
        words = place.locked.ssh_arguments(workload.target(host), "echo in")
        status = workload.client(words, output)
        workload.ledger.forbidden(f"mallory, who is locked, at {host}", done=status == 0 or output.stat().st_size > 0)
        status = workload.client(workload.ssh(f"daemon@{host}.{place.auth.name}", "echo in"), output)
        workload.ledger.forbidden(f"erin as daemon at {host}", done=status == 0 or output.stat().st_size > 0)
    workload.rest(0.5)


def _killed(name: str) -> Callable[[ChaosPlace, Workload, random.Random], Mend]:
    """A daemon, whose sessions end with it."""

    def strike(place: ChaosPlace, work: Workload, dice: random.Random) -> Mend:
        _cut(work, {"proxy": (NODE, INNER), "node": (NODE,), "inner": (INNER,)}.get(name, ()))
        daemon = place.hosts[name].daemon
        daemon.kill()

        def mend() -> None:
            daemon.begin()

        return mend

    return strike


def _both(place: ChaosPlace, work: Workload, dice: random.Random) -> Mend:
    """Every auth server."""
    daemons = [place.hosts[name].daemon for name in ("auth", "auth b")]
    for daemon in daemons:
        daemon.kill()

    def mend() -> None:
        for daemon in daemons:
            daemon.begin()

    return mend


def _member(place: ChaosPlace, work: Workload, dice: random.Random) -> Mend:
    """One of the members of etcd, whose writes the others have."""
    member = dice.choice(place.etcd.members)
    member.kill()

    def mend() -> None:
        member.start()
        member.wait_ready()

    return mend


def _way(*starts: str) -> Callable[[ChaosPlace, Workload, random.Random], Mend]:
    """A way between two of them, cut or silent."""

    def strike(place: ChaosPlace, work: Workload, dice: random.Random) -> Mend:
        name = dice.choice([one for one in sorted(place.relays.between) if one.startswith(starts)])
        if name == "proxy and tunnel":
            _cut(work, (INNER,))
        (place.relays.cut if dice.random() < 0.5 else place.relays.hold)(name)
        return lambda: place.relays.mend(name)

    return strike


def _cut(work: Workload, hosts: tuple[str, ...]) -> None:
    for host in hosts:
        work.cuts[host].append(time.time())


WAYS: dict[str, Callable[[ChaosPlace, Workload, random.Random], Mend]] = {
    **{f"{name} killed": _killed(name) for name in ("auth b", "proxy", "node", "inner")},
    "both auth servers killed": _both,
    "member of etcd killed": _member,
    "way to etcd": _way("auth and etcd"),
    "way to auth": _way("node and auth", "proxy and auth"),
    "tunnel": _way("proxy and tunnel"),
}
