"""Which tunnels a host keeps: one to each proxy that it knows of. Pure: `plan(state, event)` gives state and actions.

Rules it keeps:
- A tunnel is known by the proxy's UUID and the epoch of its process, as both are proved and said at its other end. What
  an address leads to is not known before: behind a balancer it is any proxy. A second tunnel to a process that has one
  is closed again; one to another proxy than was meant is kept.
- Nobody is dialled twice at the same time, nor again before its pause is over. Pauses double up to `LONGEST` and count
  from the attempt's beginning, so that a host is back at most that long after its network is.
- A proxy that says it leaves is left for another process of it, or another proxy, and only when one has been reached:
  then its tunnel is *finished*, which ends it when nothing uses it any more.
- The addresses of the configuration (`SEEDS`) are asked only while no proxy is known that could be reached.

Times are seconds of a monotonic clock; `draw` is a random number from 0 to 1, for pauses that spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, assert_never

SEEDS: Final = ""  # the target that stands for the configured addresses; every other target is a proxy's UUID
FIRST: Final = 0.5  # seconds of the first pause
LONGEST: Final = 8.0  # seconds (`ours.md`)
SPREAD: Final = 1.0  # seconds within which a tunnel that lived is made anew
LIVED: Final = 10.0  # seconds after which the end of a tunnel says nothing against its proxy
MOST: Final = 64  # proxies that are listened to
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as others name it: its UUID and where its tunnel listener is reached, `host:port` each."""

    host_id: str
    addresses: tuple[str, ...]


# events


@dataclass(frozen=True, slots=True)
class _Event:
    now: float
    draw: float


@dataclass(frozen=True, slots=True)
class Begun(_Event):
    """The host may keep tunnels (again)."""


@dataclass(frozen=True, slots=True)
class Halted(_Event):
    """Another process of the host does: what there is stays, nothing new is dialled."""


@dataclass(frozen=True, slots=True)
class Woke(_Event):
    """The time that was asked for has come."""


@dataclass(frozen=True, slots=True)
class Reached(_Event):
    """The attempt `tunnel` has become a tunnel to this process of a proxy."""

    tunnel: int
    host_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Failed(_Event):
    """The attempt `tunnel` came to nothing."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Lost(_Event):
    """The tunnel ended, whoever ended it."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Told(_Event):
    """A proxy says by `tunnel` which proxies there are, and whether its own process leaves."""

    tunnel: int
    proxies: tuple[Proxy, ...]
    leaving: bool


@dataclass(frozen=True, slots=True)
class Renewed(_Event):
    """The host has new certificates: tunnels that were made with the former ones are replaced."""


Event = Begun | Halted | Woke | Reached | Failed | Lost | Told | Renewed


# actions


@dataclass(frozen=True, slots=True)
class Dial:
    """Try the addresses in turn; none stands for those of the configuration."""

    tunnel: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """End the tunnel now: there is another one to the same process."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Finish:
    """End the tunnel when nothing uses it any more."""

    tunnel: int


@dataclass(frozen=True, slots=True)
class Announce:
    """The proxies through which the host is reached have changed."""

    host_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wake:
    """Give `Woke` at this time; it takes the place of what was asked before."""

    at: float


Action = Dial | Close | Finish | Announce | Wake


# state


@dataclass(frozen=True, slots=True)
class Held:
    """A tunnel that stands."""

    host_id: str
    epoch: int
    since: float
    leaving: bool = False
    stale: bool = False  # it leaves because its certificate is a former one
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Not before `until`; after so many attempts in a row that gave nothing."""

    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class State:
    """All that the pool knows."""

    running: bool = False
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # addresses by proxy
    held: Mapping[int, Held] = field(default_factory=dict)
    attempts: Mapping[int, tuple[str, float]] = field(default_factory=dict)  # target, and when it began
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    announced: tuple[str, ...] = ()
    last: int = 0  # the number of the last attempt

    @property
    def reached_by(self) -> tuple[str, ...]:
        """The proxies that lead here, sorted."""
        return tuple(sorted({one.host_id for one in self.held.values()}))

    def serving(self, host_id: str) -> bool:
        """Whether there is a tunnel to a process of that proxy which does not leave."""
        return any(one.host_id == host_id and not one.leaving for one in self.held.values())


def plan(state: State, event: Event) -> tuple[State, list[Action]]:
    """What follows from an event. What is said about tunnels that are gone changes nothing."""
    state, actions = _after(state, event)
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
    known = state.known if event.host_id in state.known else {**state.known, event.host_id: ()}
    return replace(state, held={**state.held, event.tunnel: made}, known=known), []


def _failed(state: State, event: Failed) -> State:
    attempt = state.attempts.get(event.tunnel)
    if attempt is None:
        return state
    return _paused(replace(state, attempts=_without(state.attempts, event.tunnel)), *attempt, event.draw)


def _lost(state: State, event: Lost) -> State:
    gone = state.held.get(event.tunnel)
    if gone is None:
        return _failed(state, Failed(event.now, event.draw, event.tunnel))
    state = replace(state, held=_without(state.held, event.tunnel))
    if gone.finished or state.serving(gone.host_id):
        return state
    target = gone.host_id if state.known.get(gone.host_id) else SEEDS
    if event.now - gone.since < LIVED:
        return _paused(state, target, event.now, event.draw)
    return replace(state, pauses={**state.pauses, target: Pause(0, event.now + SPREAD * event.draw)})


def _told(state: State, event: Told) -> State:
    teller = state.held.get(event.tunnel)
    if teller is None:
        return state
    known = {one.host_id: one.addresses for one in event.proxies[:MOST] if one.host_id}
    if teller.host_id not in known:  # it leads here, whatever it says of itself
        known[teller.host_id] = state.known.get(teller.host_id, ())
    pauses = {target: pause for target, pause in state.pauses.items() if target == SEEDS or target in known}
    if event.leaving and not teller.leaving:
        pauses.pop(teller.host_id, None)  # its next process is tried at once
    held = {**state.held, event.tunnel: replace(teller, leaving=event.leaving or teller.stale)}
    return replace(state, known=known, held=held, pauses=pauses)


def _settle(state: State, event: Event) -> tuple[State, list[Action]]:
    """What is due, whatever happened: dials, tunnels that are not needed any more, and the next look."""
    actions: list[Action] = []
    if any(not one.leaving for one in state.held.values()):
        for number, one in state.held.items():
            if one.leaving and not one.finished:
                state = replace(state, held={**state.held, number: replace(one, finished=True)})
                actions.append(Finish(number))
    for target in list(_wanted(state)) if state.running else ():
        pause = state.pauses.get(target)
        if pause is not None and event.now < pause.until:
            continue
        number = state.last + 1
        state = replace(state, last=number, attempts={**state.attempts, number: (target, event.now)})
        actions.append(Dial(number, state.known.get(target, ())))
    if state.reached_by != state.announced:
        state = replace(state, announced=state.reached_by)
        actions.append(Announce(state.announced))
    waited = [state.pauses[target].until for target in _wanted(state) if target in state.pauses]
    if state.running and waited:
        actions.append(Wake(min(waited)))
    return state, actions


def _wanted(state: State) -> Iterator[str]:
    """The targets that lack a tunnel and are not being dialled."""
    dialled = {target for target, _ in state.attempts.values()}
    served = False
    hopeful = False  # somebody known may still be reached without asking the seeds
    for host_id, addresses in state.known.items():
        if state.serving(host_id):
            served = True
        elif addresses:
            pause = state.pauses.get(host_id)
            hopeful = hopeful or pause is None or pause.failures == 0
            if host_id not in dialled:
                yield host_id
    if not served and not hopeful and SEEDS not in dialled:
        yield SEEDS


def _paused(state: State, target: str, began: float, draw: float) -> State:
    """The target is let alone for a while after an attempt that began then and gave nothing."""
    former = state.pauses.get(target, Pause(0, 0.0))
    length = min(LONGEST, FIRST * 2 ** min(former.failures, 16)) * (0.5 + 0.5 * draw)
    return replace(state, pauses={**state.pauses, target: Pause(former.failures + 1, began + length)})


def _without(table: Mapping[K, V], key: K) -> Mapping[K, V]:
    return {name: value for name, value in table.items() if name != key}


def proxies_of(entries: Sequence[tuple[str, Sequence[str]]]) -> tuple[Proxy, ...]:
    """Proxies as they are told: those that have an address, by UUID, so that equal sets are equal values."""
    return tuple(Proxy(host_id, tuple(addresses)) for host_id, addresses in sorted(entries) if addresses)[:MOST]
