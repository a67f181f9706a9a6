"""The daemon's listeners: all bound (or inherited) before anything else starts, and where others reach them."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from teleport.daemon.config.values import Config
from teleport.daemon.restarts.handover import Inherited
from teleport.errors import TeleportError
from teleport.resources.names import peer_address
from teleport.resources.values import HostPort
from teleport.transport.listeners import address_of, bind, resolved

log = logging.getLogger(__name__)

PEER: Final = "proxy peer"  # the listener for other proxies
KUBE: Final = "kube"  # that of the Kubernetes service, for proxies
ANY: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, never bound


@dataclass(frozen=True, slots=True)
class ProxyAddresses:
    """Where the listeners are bound, and where others reach them."""

    ssh: HostPort
    web: HostPort
    public_web: tuple[HostPort, ...]
    public_ssh: tuple[HostPort, ...]
    tunnel: HostPort | None  # None: tunnels come by the web listener
    public_tunnel: tuple[HostPort, ...]
    kube: HostPort | None = None  # None: Kubernetes clients are not served
    public_kube: tuple[HostPort, ...] = ()


class Sockets:
    """The listening sockets of one daemon, by service."""

    def __init__(self, config: Config, inherited: Inherited | None = None, *, tunnels: bool = False) -> None:
        """Takes every listener that a parent handed over for the same service and address, and binds the others; or
        none, and raises `TeleportError` that names each one that cannot be bound.

        What was inherited and is not configured any more is closed here: the parent still has it. With `tunnels` the
        node is reached by those that it keeps, and listens nowhere.
        """
        self._config = config
        self._bound: dict[str, socket.socket] = {}
        wanted = []
        if config.auth is not None:
            wanted.append(("auth", config.auth.listen_addr, "auth_service.listen_addr"))
        if config.proxy is not None:
            if config.proxy.listen_addr is not None:
                wanted.append(("proxy ssh", config.proxy.listen_addr, "proxy_service.listen_addr"))
            wanted.append(("proxy web", config.proxy.web_listen_addr, "proxy_service.web_listen_addr"))
            if config.proxy.peer_always or (inherited is not None and inherited.has(_type(PEER))):
                wanted.append((PEER, config.proxy.peer_listen_addr, "proxy_service.peer_listen_addr"))
            if config.proxy.tunnel_listen_addr != config.proxy.web_listen_addr:
                wanted.append(("proxy tunnel", config.proxy.tunnel_listen_addr, "proxy_service.tunnel_listen_addr"))
            if config.proxy.kube_listen_addr is not None:
                wanted.append(("proxy kube", config.proxy.kube_listen_addr, "proxy_service.kube_listen_addr"))
        if config.node is not None and not tunnels:
            wanted.append(("node", config.node.listen_addr, "ssh_service.listen_addr"))
        if config.kube is not None and config.kube.listen_addr is not None:
            wanted.append((KUBE, config.kube.listen_addr, "kubernetes_service.listen_addr"))
        if config.diag_addr is not None:
            wanted.append(("diag", config.diag_addr, "teleport.diag_addr"))
        problems: list[TeleportError] = []
        with ExitStack() as undo:
            for name, address, key in wanted:
                try:
                    found = None
                    if inherited is not None:
                        found = inherited.take_listener(_type(name), resolved(address.host, address.port))
                    self._bound[name] = found or bind(address.host, address.port, f"the {name} service", key)
                    undo.callback(self._bound[name].close)
                except TeleportError as error:
                    problems.append(error)
            if problems:
                raise TeleportError("\n".join(str(error) for error in problems), hint=problems[0].hint)
            undo.pop_all()
        if inherited is not None and (unused := inherited.close_listeners()):
            log.info("listeners of the former process that are not configured any more: %s", ", ".join(unused))

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def __getitem__(self, name: str) -> socket.socket:
        return self._bound[name]

    def close(self) -> None:
        for listener in self._bound.values():
            listener.close()

    def close_one(self, name: str) -> None:
        """Refuses clients of one service from here on, unless another process has the listener, too."""
        if name in self._bound:  # one port may serve more than one of them
            self._bound[name].close()

    def drop(self, name: str) -> None:
        """Gives a listener up that is not needed after all."""
        if name in self._bound:
            self._bound.pop(name).close()

    def settle(self, *, tunnels: bool) -> None:
        """The node listens unless it is reached by tunnels, which is certain only once the host has joined."""
        if self._config.node is None:
            return
        if tunnels:
            self.drop("node")
        elif "node" not in self._bound:
            address = self._config.node.listen_addr
            self._bound["node"] = bind(address.host, address.port, "the node service", "ssh_service.listen_addr")

    def open_peer(self) -> socket.socket:
        """The listener for other proxies, which is bound once the cluster asks for it. Raises `TeleportError`."""
        assert self._config.proxy is not None
        if PEER not in self._bound:
            address = self._config.proxy.peer_listen_addr
            key = "proxy_service.peer_listen_addr"
            self._bound[PEER] = bind(address.host, address.port, f"the {PEER} service", key)
        return self._bound[PEER]

    def peer_address(self) -> HostPort:
        """Where other proxies reach that listener."""
        assert self._config.proxy is not None
        public = self._config.proxy.peer_public_addr
        return self.advertised(PEER, (public,) if public is not None else ())

    def handed(self) -> list[tuple[str, str, int]]:
        """Type, address and descriptor of each, for a child."""
        return [
            (_type(name), str(HostPort(*address_of(listener))), listener.fileno())
            for name, listener in self._bound.items()
        ]

    def names(self) -> list[str]:
        """`service address`, for diagnostics."""
        return [f"{name} {HostPort(*address_of(listener))}" for name, listener in self._bound.items()]

    def ports(self) -> frozenset[int]:
        """The ports that this daemon listens on."""
        return frozenset(address_of(listener)[1] for listener in self._bound.values())

    def own_address(self, name: str) -> tuple[str, int]:
        """How this host itself reaches a listener, also one that listens on every address."""
        host, port = address_of(self._bound[name])
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104

    def advertised(self, name: str, public: tuple[HostPort, ...]) -> HostPort:
        """Where others reach a listener: as configured, else the address of this host that leads to auth."""
        config = self._config
        bound = HostPort(*address_of(self._bound[name]))
        if public:
            return replace(public[0], port=public[0].port or bound.port)
        if config.advertise_ip is not None:
            return HostPort(config.advertise_ip.host, config.advertise_ip.port or bound.port)
        if bound.host not in ANY:
            return bound
        return HostPort(_address_towards(config.auth_servers[0]), bound.port)

    def proxy_addresses(self) -> ProxyAddresses:
        """Where the proxy listens and is reached; a public port 0 stands for the one that is bound."""
        proxy = self._config.proxy
        assert proxy is not None
        web = HostPort(*address_of(self._bound["proxy web"]))
        ssh = (
            HostPort(*address_of(self._bound["proxy ssh"]))
            if "proxy ssh" in self._bound and not proxy.one_port
            else web
        )
        tunnel = HostPort(*address_of(self._bound["proxy tunnel"])) if "proxy tunnel" in self._bound else None
        tunnel_port = (tunnel or web).port
        kube = HostPort(*address_of(self._bound["proxy kube"])) if "proxy kube" in self._bound else None
        return ProxyAddresses(
            kube=kube,
            public_kube=tuple(replace(one, port=one.port or kube.port) for one in proxy.kube_public_addrs)
            if kube is not None
            else (),
            tunnel=tunnel,
            public_tunnel=tuple(replace(one, port=one.port or tunnel_port) for one in proxy.tunnel_public_addrs),
            ssh=ssh,
            web=web,
            public_web=tuple(replace(one, port=one.port or web.port) for one in proxy.public_addrs),
            public_ssh=tuple(replace(one, port=one.port or ssh.port) for one in proxy.ssh_public_addrs),
        )


def _type(name: str) -> str:
    """How a restart names a listener (`operations.md` 2)."""
    return name.replace(" ", ":")


def _address_towards(target: HostPort) -> str:
    """The address of this host that a packet to `target` would leave from; nothing is sent."""
    try:
        infos = socket.getaddrinfo(target.host, target.port or 1, type=socket.SOCK_DGRAM)
        with socket.socket(infos[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(infos[0][4])
            return peer_address(probe.getsockname())[0]
    except OSError:
        return "127.0.0.1"
