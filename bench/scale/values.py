"""What the processes of the simulator hand to each other: files of JSON, and one JSON value a line over pipes."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated host."""

    host_id: str
    name: str
    ssh_cert: str  # OpenSSH line
    tls_cert: str  # PEM


class Estate(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of simulated hosts is told. All hosts have the same keys, each its own certificates."""

    cluster: str
    hosts: list[Host]
    ssh_key: str
    tls_key: str
    tls_ca_certs: list[str]
    auth: int  # port
    web: int
    through_proxy: bool  # auth is reached as hosts behind a proxy reach it: by a websocket of the proxy
    views: bool  # each host keeps a view of the cluster of its own, as real ones do
    at_once: int  # hosts that start at the same time
    folder: str


class Clients(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of clients is told."""

    cluster: str
    names: list[str]
    ids: list[str]
    key: str
    certificate: str
    login: str
    ssh: int  # port of the proxy
    host_authorities: list[str]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A line to such a process."""

    do: str
    count: int = 0
    at_once: int = 1
    of: int = 0  # how many of the hosts to choose from; 0: all
    seed: int = 0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer."""

    tunnels: int = 0
    hearing: int = 0  # have a watch open
    announced: int = 0
    problems: list[str] = []
    seconds: list[float] = []  # of each connect
    failed: list[str] = []


def descriptors() -> tuple[int, int]:
    """Takes as many as the system allows; gives the limit of before and of now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def read(path: str | Path, kind: type[T]) -> T:
    return msgspec.json.decode(Path(path).read_bytes(), type=kind)
