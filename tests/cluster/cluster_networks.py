"""Network namespaces for end-to-end tests, with the firewall of the kernel, and daemons that live in them."""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from tests.cluster import cluster_packages

from teleport.testing.cluster import BIN, LOOPBACK, DaemonProcess, Host, run

CLONE_NEWNET = 0x40000000


def command(*words: str, stdin: str = "") -> str:
    """What one says that is run; `AssertionError` with what it said when it fails."""
    return run(*words, environment=cluster_packages.ENVIRONMENT, stdin=stdin).ok().stdout


def why_not(version: int, rules: str) -> str:
    """Why there can be no namespaces with these rules here; empty when there can."""
    if version == 4 and ":" in LOOPBACK:
        return f"the cluster's users are at {LOOPBACK} here, and it would listen on IPv4 only"
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    if shutil.which("ip") is None and (why := cluster_packages.install("iproute2", "ip")):
        return why
    if shutil.which("nft") is None and (why := cluster_packages.install("nftables", "nft")):
        return why
    script = "ip link add name one type veth peer name two && nft -f -"
    done = run("unshare", "--net", "sh", "-c", script, environment=cluster_packages.ENVIRONMENT, stdin=rules)
    return f"this kernel cannot do that: {done.stderr.strip()[-200:]}" if done.status else ""


@contextmanager
def moved_to(name: str) -> Iterator[None]:
    """This process is in another network for so long."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as former, open(f"/run/netns/{name}") as here:
        if libc.setns(here.fileno(), CLONE_NEWNET) != 0:
            pytest.skip(f"this process cannot move to another network: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            assert libc.setns(former.fileno(), CLONE_NEWNET) == 0


class Inside(DaemonProcess):
    """A daemon in another network, which nobody here can ask whether it is ready."""

    role = "node"

    def ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        return f"is ready: {self.role}" in self.log()


def put_inside(host: Host, network: str, role: str = "node") -> None:
    """Has the daemon of a host run in a network."""
    program = host.folder / f"in-{network}"
    program.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{network} {BIN}/teleport "$@"\n')
    program.chmod(0o755)
    host.daemon = Inside(host.folder, ["--config", host.config_path], program=program)
    host.daemon.role = role


@dataclass(frozen=True)
class Switch:
    """Hosts on one wire, each in a network of its own: their addresses."""

    mark: str
    hosts: dict[str, str] = field(default_factory=dict)

    def network(self, host: str) -> str:
        return f"{host}{self.mark}"

    def inside(self, host: str, *words: str, stdin: str = "") -> str:
        """Runs a command at a host."""
        return command("ip", "netns", "exec", self.network(host), *words, stdin=stdin)


@contextmanager
def switch(*names: str) -> Iterator[Switch]:
    """Networks with these hosts, 10.77.0.1 and so on, that reach one another."""
    made = Switch(uuid.uuid4().hex[:6])
    with ExitStack() as stack:
        for name in ("wire", *names):
            command("ip", "netns", "add", made.network(name))
            stack.callback(command, "ip", "netns", "del", made.network(name))
            command("ip", "-n", made.network(name), "link", "set", "lo", "up")
        command("ip", "-n", made.network("wire"), "link", "add", "name", "bridge", "type", "bridge")
        command("ip", "-n", made.network("wire"), "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            here, wire = made.network(name), made.network("wire")
            made.hosts[name] = f"10.77.0.{number}"
            command(
                *("ip", "link", "add", "name", "eth", "netns", here, "type", "veth"),
                *("peer", "name", f"port{number}", "netns", wire),
            )
            command("ip", "-n", wire, "link", "set", f"port{number}", "master", "bridge", "up")
            command("ip", "-n", here, "addr", "add", f"{made.hosts[name]}/24", "dev", "eth")
            command("ip", "-n", here, "link", "set", "eth", "up")
        yield made
