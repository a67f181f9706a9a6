"""DNS: each name of the configuration leads somewhere, seen from here."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from teleport.daemon.doctor.patient import Finding, Patient, Said

CHECK = "dns"
SECONDS = 5.0  # for all names


def addresses(host: str) -> list[str]:
    """Those that a name has; nothing when it is not known."""
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    except (OSError, UnicodeError):
        return []


def looked(patient: Patient, resolve: Callable[[str], list[str]] = addresses) -> Said:
    found = named(patient)
    pool = ThreadPoolExecutor(8, thread_name_prefix="doctor")
    try:
        asked = {host: pool.submit(resolve, host) for host in found}
        for host, answer in asked.items():
            try:
                known = bool(answer.result(SECONDS))
            except TimeoutError:
                known = False
            if not known:
                yield Finding(CHECK, f"the name {host} ({found[host]}) is not known", patient.edit(host))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def named(patient: Patient) -> dict[str, str]:
    """The names that the configuration has, with the key of each."""
    config = patient.config
    found: dict[str, str] = {}

    def add(key: str, hosts: Iterable[str]) -> None:
        for host in hosts:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                if host and not host.startswith("/"):
                    found.setdefault(host, key)

    if config.auth is None:
        add("teleport.auth_servers", (one.host for one in config.auth_servers))
    if config.auth is not None and config.storage.etcd is not None:
        add("teleport.storage", (urlsplit(peer).hostname or "" for peer in config.storage.etcd.peers))
    if config.auth is not None and config.storage.postgresql is not None:
        add("teleport.storage", (server.host for server in config.storage.postgresql.servers))
    if config.proxy is not None:
        written = [one for one in config.proxy.public_addrs if one.host in patient.text]  # not the host's own name
        add("proxy_service.public_addr", (one.host for one in written))
        add("proxy_service.kubernetes", (one.address.host for one in config.proxy.kube_clusters))
    return found
