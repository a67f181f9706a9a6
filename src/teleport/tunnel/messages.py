"""What the two ends of a tunnel say to each other, inside SSH (RFC 4254 sections 4 and 5). Pure.

| message | who sends it | as | data, one SSH string of JSON each |
|---|---|---|---|
| `tunnel-register@teleport` | the host, once | global request with reply | `Register`; the reply is `Registered` |
| `tunnel-news@teleport` | the proxy | global request | `News` |
| `teleport-transport` | the proxy, for each client | channel | `Dial`; its bytes begin with the line of `wire.vouch` |
| `direct-tcpip` to `AUTH`, port 0 | the host | channel | TLS between host and auth, which the proxy cannot read |

Each message has a version and only grows: readers skip keys that they do not know, and refuse a
later version of `Dial`.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from teleport.errors import BadRequest

VERSION: Final = 1
SOFTWARE: Final = b"TeleportTunnel"  # with which the SSH version of a host that keeps a tunnel begins (`one_port`)
MAX_MESSAGE: Final = 64 * 1024  # bytes
AUTH: Final = "@auth"  # no host can be called so
NODE: Final = "node"  # of `conn_type`: the SSH service of a host
KUBE: Final = "kube"  # its Kubernetes service, by tunnels of its own
T = TypeVar("T")


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """The process that dials out; which host it is was proved by its certificate."""

    version: int = VERSION
    epoch: int


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The process of the proxy that answered."""

    version: int = VERSION
    epoch: int


class KnownProxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy of the cluster and where its tunnel listener is reached, `host:port` each."""

    host_id: str
    addresses: tuple[str, ...] = ()


class News(msgspec.Struct, frozen=True, kw_only=True):
    """The proxies there are now; `leaving`: this process takes nothing new.

    `connections`: to how many of them hosts keep a tunnel, 0 (and what hosts of an older version do): to all. The
    number itself a host takes from auth; what it learns here is whether proxies can be asked for others' hosts.

    `spread`: milliseconds over which the hosts of this proxy come back when it ends, so that not all come at once.

    `silence`: seconds without a word of the proxy after which a host asks whether it is there (`tunnel.silence`).
    """

    version: int = VERSION
    proxies: tuple[KnownProxy, ...] = ()
    leaving: bool = False
    connections: int = 0
    spread: int = 0
    silence: int = 0


class Dial(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the channel leads to: a service of the host at the other end (`<uuid>.<cluster>`), and nothing else."""

    version: int = VERSION
    server_id: str
    conn_type: str = NODE


def encode(message: msgspec.Struct) -> bytes:
    """A message as it is sent."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """Reads a message. Raises `BadRequest`, never anything else."""
    if len(data) > MAX_MESSAGE:
        raise BadRequest(f"a message of a tunnel has at most {MAX_MESSAGE} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"a message of a tunnel cannot be read: {error}") from error


def server_id(host_id: str, cluster: str) -> str:
    """How a host is named in a tunnel: as the user that it logs in as, and as whom a client is led to."""
    return f"{host_id}.{cluster}"
