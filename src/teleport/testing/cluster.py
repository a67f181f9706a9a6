"""Real daemons and real clients for end-to-end tests: `teleport start`, `tctl`, `tsh` and OpenSSH as processes.

    with Cluster(tmp_path) as cluster:
        alice = cluster.add_person("alice", logins=["root"])
        alice.log_in()
        alice.tsh("ssh", "root@alpha", "echo", "hello")

Everything lies below one folder and listens on free ports of one loopback address. What tests of clusters need is
imported from here, wherever it lies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teleport.testing.daemon_process import RUNNING, DaemonProcess, Host
from teleport.testing.loopback import LOOPBACK, PUBLIC, at, free_port, listening, loopback_socket, why_no_loopback
from teleport.testing.person import PASSWORD, Person
from teleport.testing.processes import BIN, Ran, alive, descendants, plain_environment, processes_with, run, wait_until

__all__ = [
    "BIN",
    "LOOPBACK",
    "NAME",
    "NODE",
    "PASSWORD",
    "PUBLIC",
    "RUNNING",
    "Cluster",
    "DaemonProcess",
    "Host",
    "Person",
    "Ran",
    "alive",
    "at",
    "descendants",
    "free_port",
    "listening",
    "loopback_socket",
    "plain_environment",
    "processes_with",
    "run",
    "wait_until",
    "why_no_loopback",
]

NAME = "example.test"  # of clusters that are made here
NODE = "alpha"  # and of their node


class Cluster(Host):
    """Auth, proxy and node in one daemon."""

    web_host = LOOPBACK  # where people reach the proxy
    public_host = PUBLIC  # what it calls itself

    def __init__(self, folder: Path, *, name: str = NAME, **auth_service: Any) -> None:
        """`auth_service`: further keys of that section."""
        self.name = name
        self._pin = self._authority = ""
        self.auth_port, self.proxy_ssh_port, self.web_port, self.node_port, self.tunnel_port = (
            free_port() for _ in range(5)
        )
        config = {
            "teleport": {"nodename": NODE, "auth_servers": [at(self.auth_port)]},
            "auth_service": {
                "enabled": True,
                "cluster_name": name,
                "listen_addr": at(self.auth_port),
                **auth_service,
            },
            "proxy_service": {
                "enabled": True,
                "listen_addr": at(self.proxy_ssh_port),
                "web_listen_addr": at(self.web_port),
                "tunnel_listen_addr": at(self.tunnel_port),
                "tunnel_public_addr": at(self.tunnel_port),
                "public_addr": at(self.web_port, PUBLIC),
                "ssh_public_addr": at(self.proxy_ssh_port, PUBLIC),
            },
            "ssh_service": {
                "enabled": True,
                "listen_addr": at(self.node_port),
                "labels": {"env": "test", "team": "core"},
            },
        }
        super().__init__(folder, config)

    @property
    def web_address(self) -> str:
        return at(self.web_port, self.public_host)

    def ca_pin(self) -> str:
        """As `tctl status` prints it."""
        if not self._pin:
            words = self.tctl("status").ok().stdout.split()
            self._pin = next(word for word in words if word.startswith("sha256:"))
        return self._pin

    def authority(self) -> str:
        """The host authority's certificate, PEM."""
        if not self._authority:
            self._authority = self.tctl("auth", "export", "--type=tls").ok().stdout
        return self._authority

    def node_config(self, name: str, **teleport: Any) -> dict[str, Any]:
        """The configuration of a host that runs the node service only; `teleport`: keys of that section."""
        return {
            "teleport": {"nodename": name, "auth_servers": [at(self.auth_port)], **teleport},
            "auth_service": {"enabled": False},
            "proxy_service": {"enabled": False},
            "ssh_service": {
                "enabled": True,
                "listen_addr": at(free_port()),
                "labels": {"host": name},
            },
        }

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """`tctl audit ls --format=json` with more arguments; oldest first."""
        lines = self.tctl("audit", "ls", "--format=json", *arguments).ok().stdout.splitlines()
        return sorted(map(json.loads, lines), key=lambda event: (event["time"], event["emitter"], event["seq"]))

    def wait_event(self, kind: str, seconds: float = 30.0, **fields: object) -> dict[str, Any]:
        """The first event called `kind` with these fields, once auth has it."""

        def found() -> dict[str, Any] | None:
            for event in self.events(f"--type={kind}"):
                if all(event.get(name) == value for name, value in fields.items()):
                    return event
            return None

        return wait_until(f"an event {kind} with {fields}", found, seconds)

    def add_person(self, name: str, *, roles: Sequence[str] = ("access",), logins: Sequence[str] = ("root",)) -> Person:
        """A user who has followed the invitation, by the web API, and has logged in nowhere yet."""
        added = self.tctl(
            "users", "add", name, f"--roles={','.join(roles)}", f"--logins={','.join(logins)}", "--format=json"
        ).json()
        person = Person(self, name, self.folder / "homes" / name)
        person.accept(added["url"])
        return person
