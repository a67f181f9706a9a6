"""The loopback address that tests use: 127.0.0.1, or the one that TELEPORT_TEST_LOOPBACK names (`::1`)."""

from __future__ import annotations

import os
import random
import socket

from teleport.resources.values import HostPort

LOOPBACK = os.environ.get("TELEPORT_TEST_LOOPBACK") or "127.0.0.1"  # where every listener and every client is
PUBLIC = "localhost" if LOOPBACK == "127.0.0.1" else LOOPBACK  # what proxies call themselves
_FAMILY = socket.AF_INET6 if ":" in LOOPBACK else socket.AF_INET
_CHANCE = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nobody listens on now, and that is given out once.

    It is below those that Linux gives to connections by itself (32768 and up, ip(7)): any connection could take one of
    these before who asked here listens.
    """
    while True:
        port = _CHANCE.randrange(12_000, 32_000)
        if port in _given:
            continue
        _given.add(port)
        with loopback_socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port


def loopback_socket() -> socket.socket:
    """A TCP socket of the loopback address's family."""
    return socket.socket(_FAMILY)


def listening(port: int = 0) -> socket.socket:
    """A socket that listens on the loopback address; on a port of the kernel's choice unless one is given."""
    return socket.create_server((LOOPBACK, port), family=_FAMILY)


def at(port: int, host: str = LOOPBACK) -> str:
    """`host:port` as configurations, flags and URLs have it."""
    return str(HostPort(host, port))


def why_no_loopback() -> str:
    """Why nothing can listen on the loopback address here; empty when something can."""
    try:
        with loopback_socket() as probe:
            probe.bind((LOOPBACK, 0))
    except OSError as error:
        return f"nothing can listen on {LOOPBACK} (TELEPORT_TEST_LOOPBACK) on this machine: {error.strerror}"
    return ""
