"""Ports: whether what is to be listened on is free, or the daemon's; and whether it is an address of this host."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, pids
from teleport.daemon.identities import leads_through_proxy
from teleport.daemon.needed_ports import ANY, Direction, Port, Surroundings, needed
from teleport.resources.values import HostPort

CHECK = "ports"
_LISTEN = "0A"  # proc(5)
_UNITS = ("etc/systemd/system/teleport.service", "usr/lib/systemd/system/teleport.service")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens on this machine."""

    host: str
    port: int
    inode: int


def looked(patient: Patient) -> Said:
    there = list(listeners(patient.proc))
    for one in wanted(patient):
        if one.port == 0:
            continue
        yield from _of_address(patient, one)
        same = [found for found in there if found.port == one.port and _meet(found.host, one.host)]
        owners = {found: _owner(patient.proc, found.inode) for found in same}
        if patient.pids:
            if not same:
                yield Finding(
                    CHECK,
                    f"the daemon does not listen on {one.host}:{one.port} ({one.key}): it was started with another "
                    "configuration",
                    f"kill -HUP {patient.pids[0]}",
                )
            continue
        change = patient.edit(one.key.rpartition(".")[2])
        for pid in {pid for pid in owners.values() if pid}:
            yield Finding(
                CHECK,
                f"port {one.port} ({one.key}) is taken by the program {_name(patient.proc, pid)}, pid {pid}; stop it, "
                f"or set another one: {change}",
                f"kill {pid}",
            )
        if same and not any(owners.values()) and not patient.seen:
            yield Unseen(CHECK, f"whose port {one.port} ({one.key}) is", patient.again)
        elif same and not any(owners.values()):
            yield Finding(
                CHECK,
                f"port {one.port} ({one.key}) is taken by a program of another user",
                f"sudo ss -ltnp 'sport = :{one.port}'   # says which; stop it, or: {change}",
            )
        if not same:
            yield from _of_privilege(patient, one)


def wanted(patient: Patient) -> list[Port]:
    """What the daemon listens on whatever the cluster says."""
    config = patient.config
    through = config.auth is None and leads_through_proxy(config.data_dir / "proc", config)
    found = needed(config, Surroundings(through_proxy=through))
    return [
        one
        for one in found
        if one.direction is Direction.IN and not one.only_if and one.key.endswith(("listen_addr", "diag_addr"))
    ]


def _of_address(patient: Patient, one: Port) -> Said:
    """Whether the address is one of this host's: asked by a port that the kernel chooses."""
    if one.host in ANY:
        return
    try:
        infos = socket.getaddrinfo(one.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = infos[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
            return
        any_host = "[::]" if ":" in one.host else "0.0.0.0"  # noqa: S104 - written into a configuration by its owner
        shown = HostPort(one.host, one.port)
        yield Finding(
            CHECK,
            f"{one.key}: {one.host} is no address of this host; the command has all of them listened on",
            patient.replace(str(shown), f"{any_host}:{one.port}"),
        )


def _of_privilege(patient: Patient, one: Port) -> Said:
    """A low port and a daemon that is not root's; a unit gives what is needed."""
    try:
        first = int((patient.proc / "sys/net/ipv4/ip_unprivileged_port_start").read_text())
        owner = patient.config.data_dir.stat().st_uid
    except (OSError, ValueError):
        return
    if owner and one.port < first and not any((patient.root / unit).exists() for unit in _UNITS):
        yield Finding(
            CHECK,
            f"port {one.port} ({one.key}) is for root only, and the daemon is the uid {owner}",
            f"sysctl -w net.ipv4.ip_unprivileged_port_start={one.port}",
        )


def listeners(proc: Path) -> Iterator[Listener]:
    """All that listen, of whichever user (proc(5), net/tcp)."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN:
                host, _, port = words[1].partition(":")
                yield Listener(_address(host), int(port, 16), int(words[9]))


def _address(text: str) -> str:
    """Words of four bytes, each in the order of this machine."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    found = ipaddress.ip_address(raw)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _meet(one: str, other: str) -> bool:
    """Whether both cannot be listened on at once."""
    if one in ANY or other in ANY:
        return True
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one == other or other == "localhost"


def _owner(proc: Path, inode: int) -> int:
    """The process that has a socket; 0 where that is not to be seen."""
    for pid in pids(proc):
        try:
            entries = os.listdir(proc / str(pid) / "fd")
        except OSError:
            continue
        for entry in entries:
            try:
                if os.readlink(proc / str(pid) / "fd" / entry) == f"socket:[{inode}]":
                    return pid
            except OSError:
                continue
    return 0


def _name(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "?"
