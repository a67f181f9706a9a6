"""Two auth servers over one storage that share the folders of records, and a proxy and a node that name both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from teleport.testing.cluster import PUBLIC, Cluster, Host, at, free_port, wait_until
from teleport.testing.etcd import EtcdCluster

NODE_NAME = "nadir"


class AuthPair(Cluster):
    """Auth A is this host itself, B is `other`; `proxy` and `node` are daemons of their own."""

    def __init__(
        self, folder: Path, state: EtcdCluster | str | dict[str, Any], *, shared: bool = True, **auth_service: Any
    ) -> None:
        """`state`: etcd, the connection string of PostgreSQL, or a `teleport.storage`. `shared`: whether the folders of
        records are."""
        super().__init__(folder / "a", **auth_service)
        self.state = state
        self.root = folder
        self._shared = shared
        self.config["teleport"]["nodename"] = "auth-a"
        self.config["teleport"]["storage"] = self._storage()
        self.config["ssh_service"] = {"enabled": False}
        proxy_service, self.config["proxy_service"] = self.config["proxy_service"], {"enabled": False}
        self.write()
        self._more = auth_service
        self.other = self.another_auth("b")
        self.auth_addresses = [at(self.auth_port), self.other.config["auth_service"]["listen_addr"]]
        self.proxy = Host(
            folder / "proxy",
            {
                "teleport": {"nodename": "proxy-1", "auth_servers": self.auth_addresses},
                "auth_service": {"enabled": False},
                "proxy_service": proxy_service,
                "ssh_service": {"enabled": False},
            },
        )
        self.node = Host(folder / "node", self.node_config(NODE_NAME))
        self.node.config["teleport"]["auth_servers"] = self.auth_addresses[::-1]  # it asks B, and the proxy A
        self.node.write()

    def _storage(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "postgresql", "conn_string": self.state}
        if isinstance(self.state, dict):
            found = dict(self.state)
        if isinstance(self.state, EtcdCluster):
            found = {"type": "etcd", "peers": list(self.state.urls), "insecure": True}
        if self._shared:
            found["audit_events_uri"] = f"file://{self.root / 'shared' / 'log'}"
            found["audit_sessions_uri"] = f"file://{self.root / 'shared' / 'records'}"
        return found

    def another_auth(self, letter: str) -> Host:
        """A further auth server, not started."""
        address = at(free_port())
        service = {"enabled": True, "cluster_name": self.name, "listen_addr": address, **self._more}
        return Host(
            self.root / letter,
            {
                "teleport": {"nodename": f"auth-{letter}", "auth_servers": [address], "storage": self._storage()},
                "auth_service": service,
                "proxy_service": {"enabled": False},
                "ssh_service": {"enabled": False},
            },
        )

    def auth_of(self, letter: str) -> Host:
        """Auth A or B."""
        return {"a": self, "b": self.other}[letter]

    @contextmanager
    def served(self, *, members: Sequence[str] = ("proxy", "node")) -> Iterator[None]:
        """Both auth servers, begun at the same moment, then the others."""
        (self.root / "shared").mkdir(exist_ok=True)
        with ExitStack() as stack:
            servers = [self.daemon, self.other.daemon]
            for daemon in servers:
                daemon.begin()
                stack.push(daemon)
            for daemon in servers:
                wait_until(f"{daemon.folder.name} is ready", daemon.ready, 60)
            for kind in members:
                host = {"proxy": self.proxy, "node": self.node}[kind]
                token = self.root / f"{kind}-token"
                self.tctl("tokens", "add", f"--type={kind}", f"--out={token}").ok()
                host.config["teleport"] |= {"auth_token": str(token), "ca_pin": self.ca_pin()}
                host.write()
                stack.enter_context(host)
            yield


__all__ = ["NODE_NAME", "PUBLIC", "AuthPair"]
