"""Which registered node a client means: a pure function over the nodes there are.

Order: the host's UUID; then its name, then `name.cluster`; then its address, or another public one. The port asked for
only separates several matches, because OpenSSH sends 22 when nothing else is configured (`ours.md`, "port asked for").
Among several matches
a node that is heard of goes before those that are lost; a lost one that is the only match is tried. Those that are left
are too many, unless the cluster's routing strategy is `most_recent`: then the one that started last is meant, which
stays the same while all of them live (the latest announcement would be another's every few seconds). Nothing that is
not registered is ever dialled (no open relay).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from teleport.errors import BadRequest, NotFound
from teleport.resources.names import canonical_address, canonical_host
from teleport.resources.server import Glance, Server

_NEAREST = 3
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_COMPARED = 2000  # names compared when nothing matched; enough to help, bounded for large clusters
_SUBSYSTEM = "proxy:"
_FORM = "the configuration that tsh config prints asks as the proxy expects it: proxy:HOST:PORT@CLUSTER"


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """What the resolver needs of a node's presence. `address` is `host:port` (`[v6]:port`)."""

    host_id: str
    hostname: str
    address: str
    lost: bool = False  # silent for so long that it is rather gone
    started: datetime | None = None  # when its service did
    agentless: bool = False  # a plain sshd, where the proxy ends and records what leads there
    tunnel: bool = False  # it has no address: tunnels lead there
    public: tuple[str, ...] = ()  # `host:port`, each a name of it, too

    @classmethod
    def of(cls, server: Server | Glance, now: datetime) -> RegisteredNode:
        """The node that announced itself so."""
        address = server.spec.public_addrs[0] if server.spec.public_addrs else server.spec.addr
        if server.spec.use_tunnel:
            address = ""
        return cls(
            server.host_id,
            server.hostname,
            address,
            lost=server.lost(now),
            started=server.spec.started,
            agentless=server.agentless,
            tunnel=server.spec.use_tunnel,
            public=server.spec.public_addrs,
        )

    @property
    def places(self) -> tuple[str, ...]:
        """The hosts of its addresses, in their one spelling."""
        return tuple(_canonical(_endpoint(address)[0]) for address in (self.address, *self.public))

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of the address; port 0 when it names none."""
        return _endpoint(self.address)


def _endpoint(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return address.strip("[]"), 0
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a client wants to go: a host as typed, a port (0: any) and a cluster (empty: not said)."""

    host: str
    port: int = 0
    cluster: str = ""

    @classmethod
    def of_subsystem(cls, name: str) -> Destination:
        """Reads `proxy:host:port[@[namespace@]cluster]` (`protocols.md` 3). Raises `BadRequest`."""
        if not name.startswith(_SUBSYSTEM):
            raise BadRequest(f"the proxy serves only the subsystem proxy:host:port, not {name[:80]!r}", hint=_FORM)
        where, *rest = name.removeprefix(_SUBSYSTEM).split("@")
        if len(rest) > 2 or (len(rest) == 2 and rest[0] != "default"):
            raise BadRequest(f"{name[:200]!r} names a namespace; there is only `default`", hint=_FORM)
        host, port = _host_and_port(where)
        if not host:
            raise BadRequest(f"{name[:200]!r} names no host", hint=_FORM)
        return cls(host, port, rest[-1] if rest else "")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f"@{self.cluster}" if self.cluster else "")


def _host_and_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]`, `[v6]:port`; also `v6:port`, as `proxy:%h:%p` comes out of OpenSSH, and `v6`."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadRequest(f"{text[:80]!r} is no host and port", hint=_FORM)
        port = rest.removeprefix(":")
    else:
        host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
        if ":" in host and not canonical_address(host):
            host, port = text, ""
    if port and (not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535):
        raise BadRequest(f"{port[:20]!r} is not a port", hint="a port is a number up to 65535")
    return host, int(port or 0)


class NodesByName(ABC):
    """Nodes of which those that a name may mean are found without looking at the others."""

    @abstractmethod
    def __iter__(self) -> Iterator[RegisteredNode]: ...

    @abstractmethod
    def named(self, names: Collection[str]) -> Iterable[RegisteredNode]:
        """Those for which `names_of` gives one of `names`, in the order of iteration."""


def names_of(node: RegisteredNode) -> tuple[str, ...]:
    """All by which `resolve` finds a node, in the spelling that it compares."""
    names = (node.host_id.lower(), _canonical(node.hostname), *node.places)
    return tuple(dict.fromkeys(name for name in names if name))


def with_id(host_id: str, nodes: Iterable[RegisteredNode]) -> RegisteredNode | None:
    """The node with this UUID."""
    among = nodes.named((host_id.lower(),)) if isinstance(nodes, NodesByName) else nodes
    return next((node for node in among if node.host_id == host_id), None)


class Ambiguous(BadRequest):
    """Several nodes fit (the original's error id is `err-node-is-ambiguous`)."""

    def __init__(self, destination: Destination, matches: Sequence[RegisteredNode]) -> None:
        lines = ", ".join(f"{node.host_id} ({node.hostname}, {node.address})" for node in matches[:8])
        super().__init__(
            f"{destination.host} fits {len(matches)} nodes: {lines}.",
            hint=f"name one by its id: tsh ssh LOGIN@{matches[0].host_id}, with ssh LOGIN@ID.CLUSTER",
        )
        self.matches = tuple(matches)


def resolve(
    destination: Destination,
    nodes: Iterable[RegisteredNode],
    cluster: str,
    may_see: Callable[[RegisteredNode], bool],
    *,
    most_recent: bool = False,
) -> RegisteredNode:
    """The one node that `destination` means, among those that the caller may see.

    Raises `Ambiguous`, or `NotFound` with the nearest names; a node that the caller may not see is as if it were not.
    """
    if destination.cluster not in ("", cluster):
        raise NotFound(
            f"The cluster {destination.cluster} is not known here, this one is {cluster}.",
            hint=f"tsh clusters lists what is known; name a host of this cluster: LOGIN@HOST.{cluster}",
        )
    host = _canonical(destination.host)
    short = host.removesuffix("." + cluster.lower())
    among = list(nodes.named((host, short)) if isinstance(nodes, NodesByName) else nodes) if host else []
    rules: tuple[Callable[[RegisteredNode], bool], ...] = (
        lambda node: node.host_id.lower() in (host, short),
        lambda node: _canonical(node.hostname) == host,
        lambda node: short != host and _canonical(node.hostname) == short,
        lambda node: host in node.places,
    )
    for fits in rules:
        matches = [node for node in among if fits(node) and may_see(node)]
        if len(matches) > 1:  # a host that lives before its lost predecessors
            matches = [node for node in matches if not node.lost] or matches
        if len(matches) > 1 and destination.port:
            matches = [node for node in matches if node.endpoint[1] == destination.port] or matches
        if len(matches) > 1 and most_recent:
            return max(matches, key=_started)
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Ambiguous(destination, matches)
    raise NotFound(
        f"No node {destination.host} is registered here for you.{_nearest(host, nodes, may_see)}",
        hint="tsh ls shows the hosts that you may reach; an administrator sees what hides others: tctl access explain",
    )


def _started(node: RegisteredNode) -> tuple[datetime, str]:
    return (node.started or _LONG_AGO, node.host_id)


def _nearest(host: str, nodes: Iterable[RegisteredNode], may_see: Callable[[RegisteredNode], bool]) -> str:
    import difflib  # a node resolves nothing, and would keep it in memory

    names = sorted({node.hostname for node in islice(nodes, _COMPARED) if may_see(node)})
    near = difflib.get_close_matches(host, names, n=_NEAREST, cutoff=0.5)
    first = host.partition(".")[0]  # with the domain or cluster that was meant
    near += [name for name in difflib.get_close_matches(first, names, n=_NEAREST, cutoff=0.7) if name not in near]
    near = near[:_NEAREST]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _canonical(host: str) -> str:
    """One spelling for each host (`resources.names`), however many dots and blanks surround it."""
    return canonical_host(host.strip().rstrip("."))
