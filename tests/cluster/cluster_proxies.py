"""Several proxies on hosts of their own, behind a haproxy that takes them in turn; auth is alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.cluster_haproxy import Front, haproxy, needs_haproxy

from teleport.testing.cluster import LOOPBACK, PUBLIC, RUNNING, Cluster, DaemonProcess, Host, at, free_port, wait_until


class ProxyHost(Host):
    """One proxy; others reach it past the balancer at `peer_port`."""

    def __init__(self, farm: Farm, name: str) -> None:
        self.name = name
        self.web_port, self.ssh_port, self.tunnel_port, self.peer_port = (free_port() for _ in range(4))
        self._farm = farm
        public = farm.public
        super().__init__(
            farm.folder / name,
            {
                "teleport": {"nodename": name, "auth_servers": [at(farm.auth_port)]},
                "auth_service": {"enabled": False},
                "ssh_service": {"enabled": False},
                "proxy_service": {
                    "enabled": True,
                    "web_listen_addr": at(self.web_port),
                    "listen_addr": at(self.ssh_port),
                    "tunnel_listen_addr": at(self.tunnel_port),
                    "peer_listen_addr": at(self.peer_port),
                    "public_addr": at(public[0], PUBLIC),
                    "ssh_public_addr": at(public[1], PUBLIC),
                    "tunnel_public_addr": at(public[2]),
                },
            },
        )

        self.pid_file = self.folder / "teleport.pid"
        self.daemon = DaemonProcess(
            self.folder, ["--config", self.config_path, "--pid-file", self.pid_file], diag_port=self.diag_port
        )

    @property
    def host_id(self) -> str:
        return (self.data_dir / "host_uuid").read_text().strip()

    def begin(self) -> None:
        """Starts it and waits for nothing."""
        if "auth_token" not in self.config["teleport"]:
            self.config["teleport"] |= self._farm.joining(self.name, "proxy")
            self.write()
        self.daemon.begin()
        self._farm.ends(self.daemon)

    def drain(self) -> None:
        """Asks it to leave when its clients have."""
        os.kill(self.daemon.pid, signal.SIGQUIT)


class TunnelNode(Host):
    """A host whose configuration names the balancer."""

    def __init__(self, farm: Farm, name: str) -> None:
        self._farm = farm
        config = farm.node_config(name)
        config["teleport"]["auth_servers"] = [at(farm.web_port)]
        self.name = name
        super().__init__(farm.folder / name, config)

    @property
    def host_id(self) -> str:
        return (self.data_dir / "host_uuid").read_text().strip()

    def begin(self) -> None:
        if "auth_token" not in self.config["teleport"]:
            self.config["teleport"] |= self._farm.joining(self.name, "node")
            self.write()
        self.daemon.begin()


class Farm(Cluster):
    """Auth by itself, and proxies that share the addresses of one balancer."""

    def __init__(self, folder: Path, names: Sequence[str], **auth_service: Any) -> None:
        super().__init__(folder, **auth_service)
        self.public = (self.web_port, self.proxy_ssh_port, self.tunnel_port)  # where the balancer listens
        self.config["proxy_service"] = {"enabled": False}
        self.config["ssh_service"] = {"enabled": False}
        self._ends = ExitStack()
        self.write()
        self.proxies = {name: ProxyHost(self, name) for name in names}

    def joining(self, name: str, kind: str) -> dict[str, str]:
        """The keys with which a host joins."""
        token = self.folder / f"{name}-token"
        self.tctl("tokens", "add", f"--type={kind}", f"--out={token}").ok()
        return {"auth_token": str(token), "ca_pin": self.ca_pin()}

    @property
    def running(self) -> list[ProxyHost]:
        """The proxies that were started and have not ended since."""
        return [proxy for proxy in self.proxies.values() if proxy.daemon in RUNNING]

    def proxy_ids(self, name: str) -> list[str]:
        """The proxies to which a node says that it keeps a tunnel."""
        for node in self.tctl("get", "nodes", "--format=json").json():
            if node["spec"]["hostname"] == name:
                return list(node["spec"].get("proxy_ids", ()))
        return []

    def ends(self, daemon: DaemonProcess) -> None:
        """A proxy was started, perhaps in the middle of a test: it ends with the others."""
        self._ends.push(daemon)

    @contextmanager
    def served(self, running: Sequence[str], nodes: Sequence[TunnelNode]) -> Iterator[None]:
        """Auth, the balancer before all proxies, those that are named, and hosts behind them."""
        needs_haproxy()
        ports = [
            [getattr(proxy, f"{kind}_port") for proxy in self.proxies.values()] for kind in ("web", "ssh", "tunnel")
        ]
        fronts = [
            Front(targets[0], more=targets[1:], port=port) for targets, port in zip(ports, self.public, strict=True)
        ]
        with ExitStack() as stack:
            stack.enter_context(self)
            stack.enter_context(haproxy(self.folder / "haproxy", fronts))
            hosts: list[ProxyHost | TunnelNode] = [*(self.proxies[name] for name in running), *nodes]
            self._ends = stack
            for host in hosts:
                host.begin()
                if isinstance(host, TunnelNode):
                    stack.push(host.daemon)
            for host in hosts:
                wait_until(f"{host.name} is ready", host.daemon.ready, 60)
            yield


__all__ = ["LOOPBACK", "Farm", "ProxyHost", "TunnelNode"]
