"""The loopback address that tests use: 127.0.0.1, or the one that TELEPORT_TEST_LOOPBACK names (`::1`)."""

from __future__ import annotations

import os
import socket

from teleport.resources.values import HostPort

LOOPBACK = os.environ.get("TELEPORT_TEST_LOOPBACK") or "127.0.0.1"  # where every listener and every client is
PUBLIC = "localhost" if LOOPBACK == "127.0.0.1" else LOOPBACK  # what proxies call themselves


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with loopback_socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def loopback_socket() -> socket.socket:
    """A TCP socket of the loopback address's family."""
    return socket.socket(socket.AF_INET6 if ":" in LOOPBACK else socket.AF_INET)


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
