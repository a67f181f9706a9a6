"""A small cluster of certificates, one proxy and one node on loopback, for tests with real SSH clients.

Everything of ours is real; only what belongs to other services is simple: authorities are made here, events are kept in
a list, access is a set of logins, and sessions may be recorded nowhere (`MemoryRecordings`).
"""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from teleport.clock import SystemClock
from teleport.identity import SystemRole
from teleport.kernel.watcher import Watcher
from teleport.node.needs import Launcher, NodeConfig, Recordings
from teleport.node.service import NodeService
from teleport.proxy.ssh_router import RouterConfig, SshRouter
from teleport.ssh.surface import KeepAlive, ServerLimits
from teleport.store.resolve import RegisteredNode
from teleport.testing.lab_certificates import Authorities, LabHost, LabUser
from teleport.testing.lab_rules import LabControl, LabDirectory, LabLeases, LabRules
from teleport.testing.memory import Events, MemoryRecordings
from teleport.testing.running import listener, served


@dataclass(frozen=True)
class _Labels:
    labels: Mapping[str, str]

    def current(self) -> Mapping[str, str]:
        return self.labels


@dataclass
class Lab:
    """What runs."""

    authorities: Authorities
    node: NodeService
    node_host: LabHost
    node_port: int
    router: SshRouter
    proxy_host: LabHost
    proxy_port: int
    events: Events
    recordings: MemoryRecordings
    rules: LabRules
    directory: LabDirectory
    leases: LabLeases
    control: LabControl

    def client_config(self, folder: Path, user: LabUser, login: str) -> Path:
        """Writes an OpenSSH configuration with which `ssh -F` reaches the node through the proxy by its name."""
        identity = user.write(folder)
        (folder / "known_hosts").write_text(self.authorities.known_hosts_line())
        config = folder / "ssh_config"
        common = f"""
  IdentityFile {identity}
  CertificateFile {identity}-cert.pub
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  Ciphers aes128-gcm@openssh.com
  User {login}
"""
        subsystem = f"ssh -F {config} proxy -s proxy:%h:%p@{self.authorities.cluster}"
        config.write_text(
            f"Host proxy\n  HostName 127.0.0.1\n  Port {self.proxy_port}\n{common}\n"
            f"Host direct\n  HostName 127.0.0.1\n  Port {self.node_port}\n{common}\n"
            f"Host jump\n  HostName {self.node_host.hostname}\n  ProxyJump proxy\n{common}\n"
            f"Host * !proxy !direct !jump\n  ProxyCommand {subsystem}\n{common}\n"
        )
        return config


@asynccontextmanager
async def running_lab(
    launcher: Launcher,
    *,
    recordings: Recordings | None = None,
    limits: ServerLimits | None = None,
    hostname: str = "node1",
    authorities: Authorities | None = None,
    labels: Mapping[str, str] | None = None,
    watcher: Watcher | None = None,
    port_forwarding: bool = True,
) -> AsyncIterator[Lab]:
    """A node and a proxy in this loop until the context ends."""
    authorities = authorities or Authorities()
    clock = SystemClock()
    events, memory = Events(), MemoryRecordings()
    rules, directory = LabRules([getpass.getuser(), "nobody"]), LabDirectory()
    node_host = authorities.host(SystemRole.NODE, hostname)
    proxy_host = authorities.host(SystemRole.PROXY, "proxy")
    node_socket, proxy_socket = listener(), listener()
    node_port, proxy_port = node_socket.getsockname()[1], proxy_socket.getsockname()[1]
    directory.rules = rules
    leases, control = LabLeases(rules), LabControl()
    directory.registered.append(RegisteredNode(str(node_host.host_id), hostname, f"127.0.0.1:{node_port}"))
    config = NodeConfig(authorities.cluster, node_host.host_id, hostname, f"127.0.0.1:{node_port}")
    config = replace(config, probe=KeepAlive(0.2, 2), port_forwarding=port_forwarding, limits=limits or config.limits)
    node = NodeService(
        config,
        certificates=authorities,
        rules=rules,
        labels=_Labels(labels or {}),
        launcher=launcher,
        recordings=recordings or memory,
        emitter=events,
        clock=clock,
        host_keys=[node_host.host_key],
        watcher=watcher,
        control=control,
    )
    router = SshRouter(
        RouterConfig(authorities.cluster, proxy_host.host_id, "proxy", limits=limits or ServerLimits()),
        certificates=authorities,
        directory=directory,
        identity=proxy_host,
        host_keys=[proxy_host.host_key],
        emitter=events,
        clock=clock,
        leases=leases,
    )
    async with (
        AsyncExitStack() as stack,
        served(lambda started: node.run([node_socket], started), "node"),
        served(lambda started: router.run([proxy_socket], started), "proxy"),
    ):
        for sock in (node_socket, proxy_socket):  # services leave them open: they are the supervisor's
            stack.callback(sock.close)
        yield Lab(
            authorities,
            node,
            node_host,
            node_port,
            router,
            proxy_host,
            proxy_port,
            events,
            memory,
            rules,
            directory,
            leases,
            control,
        )
