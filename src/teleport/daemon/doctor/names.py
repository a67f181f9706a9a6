"""DNS: each name of the configuration leads somewhere, seen from here."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
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
    found, answers = named(patient), dict[str, list[str]]()

    def ask(host: str) -> None:
        answers[host] = resolve(host)

    # nobody waits at the end of the process for a name server that is silent
    asking = [threading.Thread(target=ask, args=(host,), name=f"doctor asks for {host}", daemon=True) for host in found]
    for thread in asking:
        thread.start()
    until = time.monotonic() + SECONDS
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    for host, key in found.items():
        if not answers.get(host):
            yield Finding(CHECK, f"the name {host} ({key}) is not known", patient.edit(host))


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
