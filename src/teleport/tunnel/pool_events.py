"""What the pool of a host's tunnels hears, and what it asks for in return: values, which `tunnel.agent` makes of what
happens, and carries out.

Times are seconds of a monotonic clock; `draw` is a random number from 0 to 1, for pauses that spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST: Final = 64  # proxies that are known at once, and that one of them may name


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as others name it: its UUID and where its tunnel listener is reached, `host:port` each."""

    host_id: str
    addresses: tuple[str, ...]


def proxies_of(entries: Sequence[tuple[str, Sequence[str]]]) -> tuple[Proxy, ...]:
    """Proxies as they are told: those that have an address, by UUID, so that equal sets are equal values."""
    return tuple(Proxy(host_id, tuple(addresses)) for host_id, addresses in sorted(entries) if addresses)[:MOST]


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
    """The attempt `tunnel` has become a tunnel to this process of a proxy, by that address."""

    tunnel: int
    host_id: str
    epoch: int
    address: str = ""


@dataclass(frozen=True, slots=True)
class Failed(_Event):
    """The attempt `tunnel` came to nothing; `answered`: there was an answer, if only that nobody listens."""

    tunnel: int
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Lost(_Event):
    """The tunnel ended, whoever ended it; `answered`: the other end did, rather than the network."""

    tunnel: int
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Told(_Event):
    """A proxy says by `tunnel` which proxies there are, to how many of them a tunnel is kept, and whether its own
    process leaves."""

    tunnel: int
    proxies: tuple[Proxy, ...]
    leaving: bool
    most: int = 0  # to how many proxies a tunnel is kept; 0: to all
    spread: float = 0.0  # seconds over which the proxy's hosts come back


@dataclass(frozen=True, slots=True)
class Renewed(_Event):
    """The host has new certificates: tunnels that were made with the former ones are replaced."""


@dataclass(frozen=True, slots=True)
class Distrusted(_Event):
    """The certificate by which the proxy proved itself does not count any more; or, `at_once`, that proxy may not be
    here (it is locked, or was expelled)."""

    tunnel: int
    at_once: bool


Event = Begun | Halted | Woke | Reached | Failed | Lost | Told | Renewed | Distrusted


# actions


@dataclass(frozen=True, slots=True)
class Dial:
    """Try the addresses in turn; none stands for those of the configuration."""

    tunnel: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """End the tunnel now: there is another one to the same process, or its proxy may not be here."""

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
