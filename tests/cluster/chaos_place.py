"""A cluster in which anything may break: two auth servers over three members of etcd, a proxy, a host that is reached
directly and one behind a tunnel, and a relay on each way between them that can be cut or held."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.cluster.cluster_auth_servers import AuthPair
from tests.cluster.survival_workload import Worked
from tests.cluster.test_cluster_tunnel import TunnelHost

from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.clock import SystemClock
from teleport.testing.cluster import NODE, Host, Person, at, wait_until
from teleport.testing.cut_relay import CutRelay
from teleport.testing.etcd import EtcdCluster
from teleport.testing.survival import Evidence

T = TypeVar("T")
INNER = "inner"  # behind a tunnel


class Relays:
    """Relays in a thread of their own, by what they lie between."""

    def __init__(self) -> None:
        self.between: dict[str, CutRelay] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, name: str, port: int) -> int:
        """The port that leads to that one."""
        relay = self._run(self._stack.enter_async_context(CutRelay(port)))
        self.between[name] = relay
        return relay.port

    def cut(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self.between[name].cut)

    def hold(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self.between[name].hold)

    def mend(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self.between[name].mend)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class ChaosPlace(Worked):
    """All of it, and somebody who may enter and somebody who is locked."""

    def __init__(self, folder: Path, login: str) -> None:
        self.login, self.folder, self.mode = login, folder, "node"
        self.relays = Relays()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            (self.folder / "etcd").mkdir()
            self.etcd = stack.enter_context(EtcdCluster(self.folder / "etcd", members=3))
            stack.enter_context(self.relays)
            peers = [
                f"http://127.0.0.1:{self.relays.add(f'auth and etcd {number}', _port(url))}"
                for number, url in enumerate(self.etcd.urls)
            ]
            storage = {"type": "etcd", "peers": peers, "insecure": True}
            self.pair = pair = AuthPair(
                self.folder, storage, authentication={"type": "local", "second_factor": "off"}, session_recording="node"
            )
            self.auth = pair
            ways = {
                host: [at(self.relays.add(f"{host} and auth {letter}", _port(address)))
                       for letter, address in zip("ab", pair.auth_addresses, strict=True)]
                for host in ("proxy", "node")
            }  # fmt: skip
            pair.proxy.config["teleport"]["auth_servers"] = ways["proxy"]
            tunnels = at(self.relays.add("proxy and tunnel", pair.tunnel_port))
            pair.proxy.config["proxy_service"]["tunnel_public_addr"] = tunnels
            pair.proxy.write()
            pair.node.config["teleport"] |= {"auth_servers": ways["node"][::-1], "nodename": NODE}
            pair.node.write()
            stack.enter_context(pair.served())
            inner = TunnelHost(self.folder / INNER, pair, INNER)
            stack.enter_context(inner)
            self.hosts: dict[str, Host] = {
                "auth": pair, "auth b": pair.other, "proxy": pair.proxy, "node": pair.node, "inner": inner,
            }  # fmt: skip
            self.person = self._person("erin")
            self.locked = self._person("mallory")
            pair.tctl("lock", "--user=mallory").ok()
            wait_until("who is locked gets in nowhere", lambda: not any(map(self._enters, (NODE, INNER))))
            self._stack = stack.pop_all()
        return self

    def _person(self, name: str) -> Person:
        person = self.pair.add_person(name, logins=[self.login])
        person.log_in()
        wanted = {NODE, INNER}
        wait_until("all hosts are listed", lambda: wanted <= set(person.tsh("ls", "--format=names").stdout.split()))
        return person

    def _enters(self, host: str) -> bool:
        return self.locked.ssh(f"{self.login}@{host}.{self.pair.name}", "true").status == 0

    def evidence(self) -> Evidence:
        """What lies in etcd, in the shared folders, and on the disks of all."""

        async def items() -> dict[str, bytes]:
            settings = EtcdSettings(self.etcd.urls, insecure=True)
            async with EtcdBackend(settings, SystemClock(), sweep_every=None) as backend:
                return {item.key: item.value for item in await backend.range()}

        shared = self.pair.root / "shared"
        found = Evidence.of(shared / "log", shared / "records", asyncio.run(items()), self.data_dirs)
        # each auth server writes to a folder of its own, and an emitter tells now one, now the other
        found.events.sort(key=lambda event: (event["emitter"], event["epoch"], event["seq"]))
        return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
