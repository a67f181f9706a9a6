"""Which tunnels a host keeps: one to each proxy that it knows of, or to as many as it is told. Pure: `plan(state,
event)` gives state and actions. What is known of proxies follows from events by the rules of `tunnel.pool_state`.

Rules it keeps:
- Told to keep a number of tunnels, it chooses by chance, so that hosts spread over the proxies; those that fail are
  replaced by others, and what is too much is finished.
- A tunnel is known by the proxy's UUID and the epoch of its process, as both are proved and said at its other end. What
  an address leads to is not known before: behind a balancer it is any proxy. A second tunnel to a process that has one
  is closed again; one to another proxy than was meant is kept.
- Nobody is dialled twice at the same time, nor again before its pause is over. Pauses double up to `LONGEST` and count
  from the attempt's beginning, so that a host is back at most that long after its network is.
- Where a proxy has so many hosts that it would not bear all of them at once, each comes back within the time that it
  was told (up to `MOST_SPREAD`). That is for proxies that ended; a network that was gone is no reason to wait.
- A proxy that says it leaves is left for another process of it, or another proxy, and only when one has been reached:
  then its tunnel is *finished*, which ends it when nothing uses it any more.
- Proxies that are only named are dialled few at a time, and after failures seldom: whoever names ever new ones makes no
  host look through a network for them, and keeps it from no proxy that it has reached before.
- The addresses of the configuration (`SEEDS`) are asked only while no proxy is known that could be reached.

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final, TypeVar, assert_never

from teleport.tunnel.pool_events import (
    MOST,
    Action,
    Announce,
    Begun,
    Close,
    Dial,
    Distrusted,
    Event,
    Failed,
    Finish,
    Halted,
    Lost,
    Reached,
    Renewed,
    Told,
    Wake,
    Woke,
)
from teleport.tunnel.pool_state import SEEDS, SPREAD, Held, Pause, State, heard_of, reckoned

FIRST: Final = 0.5  # seconds of the first pause
LONGEST: Final = 8.0  # seconds (`ours.md`)
MOST_SPREAD: Final = 90.0  # seconds, however many hosts a proxy says that it has
LIVED: Final = 10.0  # seconds after which the end of a tunnel says nothing against its proxy
LATELY: Final = 30.0  # seconds after a pause in which other proxies are chosen first
SELDOM: Final = 60.0  # seconds of the longest pause, for a proxy that nobody names any more
UNPROVED: Final = 8  # proxies that were never reached and are dialled at the same time ...
APART: Final = 0.25  # ... and seconds that each failure of one of them costs ...
BURST: Final = 2.0  # ... once they come to more than that
K = TypeVar("K")
V = TypeVar("V")


def plan(state: State, event: Event) -> tuple[State, list[Action]]:
    """What follows from an event. What is said about tunnels that are gone changes nothing."""
    state, actions = _after(state, event)
    state = reckoned(state, event.now)
    state, more = _settle(state, event)
    return state, [*actions, *more]


def _after(state: State, event: Event) -> tuple[State, list[Action]]:
    match event:
        case Begun():
            return replace(state, running=True), []
        case Halted():
            return replace(state, running=False), []
        case Woke():
            return state, []
        case Reached():
            return _reached(state, event)
        case Failed():
            return _failed(state, event), []
        case Lost():
            return _lost(state, event), []
        case Told():
            return _told(state, event), []
        case Renewed():
            held = {number: replace(one, leaving=True, stale=True) for number, one in state.held.items()}
            return replace(state, held=held), []
        case Distrusted():
            return _distrusted(state, event)
        case _:
            assert_never(event)


def _reached(state: State, event: Reached) -> tuple[State, list[Action]]:
    attempt = state.attempts.get(event.tunnel)
    if attempt is None:
        return state, [Close(event.tunnel)]
    target, began = attempt
    state = replace(state, attempts=_without(state.attempts, event.tunnel))
    process = (event.host_id, event.epoch)
    twice = any((one.host_id, one.epoch) == process and not one.leaving for one in state.held.values())
    meant = target in (SEEDS, event.host_id)
    if twice or not meant:  # a balancer chose: whom it was meant for is tried again after a pause
        state = _paused(state, target, began, event.draw)
    else:
        state = replace(state, pauses=_without(state.pauses, target))
    if twice:
        return state, [Close(event.tunnel)]
    made = Held(event.host_id, event.epoch, event.now)
    if event.address:
        state = replace(state, reached_at={**state.reached_at, event.host_id: event.address})
    proved = _without(state.proved, event.host_id)
    return replace(state, held={**state.held, event.tunnel: made}, proved=proved), []


def _failed(state: State, event: Failed) -> State:
    attempt = state.attempts.get(event.tunnel)
    if attempt is None:
        return state
    if not state.met(attempt[0]):
        state = replace(state, spent=max(state.spent, event.now) + APART)
    state = replace(state, attempts=_without(state.attempts, event.tunnel))
    return _paused(state, *attempt, event.draw, spread=event.answered)


def _lost(state: State, event: Lost) -> State:
    gone = state.held.get(event.tunnel)
    if gone is None:
        return _failed(state, Failed(event.now, event.draw, event.tunnel, event.answered))
    state = replace(state, held=_without(state.held, event.tunnel))
    if gone.host_id not in state.reached_by:
        state = replace(state, proved={**state.proved, gone.host_id: event.now})
    if gone.finished or state.serving(gone.host_id):
        return state
    target = gone.host_id if state.known.get(gone.host_id) else SEEDS
    if event.now - gone.since < LIVED:
        return _paused(state, target, event.now, event.draw, spread=event.answered)
    within = state.spread(target) if event.answered else SPREAD
    return replace(state, pauses={**state.pauses, target: Pause(0, event.now + within * event.draw)})


def _told(state: State, event: Told) -> State:
    teller = state.held.get(event.tunnel)
    if teller is None:
        return state
    said = tuple(one for one in event.proxies if one.host_id)[:MOST]
    pauses = state.pauses
    spreads = {**state.spreads, teller.host_id: min(event.spread, MOST_SPREAD)}
    if event.leaving and not teller.leaving:
        pauses = _without(pauses, teller.host_id)  # its next process is tried at once
        if event.spread > SPREAD:
            pauses = {**pauses, teller.host_id: Pause(0, event.now + spreads[teller.host_id] * event.draw)}
    held = {**state.held, event.tunnel: replace(teller, leaving=event.leaving or teller.stale)}
    counts = {**state.counts, teller.host_id: event.most}
    return replace(
        state, told={**state.told, teller.host_id: said}, held=held, pauses=pauses, counts=counts, spreads=spreads
    )


def _distrusted(state: State, event: Distrusted) -> tuple[State, list[Action]]:
    one = state.held.get(event.tunnel)
    if one is None:
        return state, []
    if not event.at_once:
        return replace(state, held={**state.held, event.tunnel: replace(one, leaving=True, stale=True)}), []
    return replace(state, told=_without(state.told, one.host_id)), [Close(event.tunnel)]


def _settle(state: State, event: Event) -> tuple[State, list[Action]]:
    """What is due, whatever happened: dials, tunnels that are not needed any more, and the next look."""
    actions: list[Action] = []
    state = _without_surplus(state, event.draw)
    if any(not one.leaving for one in state.held.values()):
        for number, one in state.held.items():
            if one.leaving and not one.finished:
                state = replace(state, held={**state.held, number: replace(one, finished=True)})
                actions.append(Finish(number))
    for target in list(_wanted(state, event)) if state.running else ():
        if event.now < _turn(state, target):
            continue
        number = state.last + 1
        state = replace(state, last=number, attempts={**state.attempts, number: (target, event.now)})
        actions.append(Dial(number, state.known.get(target, ())))
    if state.reached_by != state.announced:
        state = replace(state, announced=state.reached_by)
        actions.append(Announce(state.announced))
    waited = [at for target in _wanted(state, event) if event.now < (at := _turn(state, target)) < inf]
    if state.running and waited:
        actions.append(Wake(min(*waited, event.now + LONGEST)))
    return state, actions


def _turn(state: State, target: str) -> float:
    """From when on it may be dialled. Where too many that were never reached are being dialled that depends on them."""
    pause = state.pauses.get(target)
    until = pause.until if pause is not None else 0.0
    if state.met(target):
        return until
    if sum(not state.met(one) for one, _ in state.attempts.values()) >= UNPROVED:
        return inf
    return max(until, state.spent - BURST)


def _without_surplus(state: State, draw: float) -> State:
    """Has tunnels leave that are more than is asked for."""
    serving = sorted({one.host_id for one in state.held.values() if not one.leaving})
    surplus = len(serving) - state.most
    if not state.most or surplus <= 0:
        return state
    gone = set(_turned(serving, draw)[:surplus])
    held = {
        number: replace(one, leaving=True, stale=True) if one.host_id in gone else one
        for number, one in state.held.items()
    }
    return replace(state, held=held)


def _wanted(state: State, event: Event) -> Iterator[str]:
    """The targets that lack a tunnel and are not being dialled."""
    dialled = {target for target, _ in state.attempts.values()}
    lacking = []
    hopeful = False  # somebody known may still be reached without asking the seeds
    for host_id, addresses in state.known.items():
        if addresses and not state.serving(host_id):
            pause = state.pauses.get(host_id)
            hopeful = hopeful or pause is None or pause.failures == 0
            if host_id not in dialled:
                lacking.append(host_id)
    served = {one.host_id for one in state.held.values() if not one.leaving}
    if state.most:
        lacking = _chosen(state, lacking, state.most - len(served | (dialled & state.known.keys())), event)
    yield from lacking
    if not served and not hopeful and SEEDS not in dialled:
        yield SEEDS


def _chosen(state: State, lacking: Sequence[str], count: int, event: Event) -> list[str]:
    """So many of them, by chance; those first that have not failed or been lost lately, then whose pause ends first."""

    def due(host_id: str) -> float:
        pause = state.pauses.get(host_id)
        return 0.0 if pause is None else max(pause.until + LATELY - event.now, 0.0)

    return sorted(_turned(sorted(lacking), event.draw), key=due)[: max(count, 0)]


def _turned(ordered: Sequence[str], draw: float) -> list[str]:
    """The same from a place on that is drawn."""
    begin = min(int(draw * len(ordered)), len(ordered) - 1) if ordered else 0
    return [*ordered[begin:], *ordered[:begin]]


def _paused(state: State, target: str, began: float, draw: float, *, spread: bool = False) -> State:
    """The target is let alone for a while after an attempt that began then and gave nothing; with `spread`, no shorter
    than it takes for all the others to come back, too."""
    former = state.pauses.get(target, Pause(0, 0.0))
    named = target == SEEDS or any(one.host_id == target for said in heard_of(state).values() for one in said)
    length = min(LONGEST if named else SELDOM, FIRST * 2 ** min(former.failures, 16)) * (0.5 + 0.5 * draw)
    if spread and state.spread(target) > SPREAD:
        length = max(length, state.spread(target) * draw)
    return replace(state, pauses={**state.pauses, target: Pause(former.failures + 1, began + length)})


def _without(table: Mapping[K, V], key: K) -> Mapping[K, V]:
    return {name: value for name, value in table.items() if name != key}
