"""The tunnels of a node as its daemon keeps them: with which certificates, to whom, and to what they lead."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from teleport.audit.emitter import Emitter
from teleport.audit.events import Event, TunnelEnded, new_event
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.live_settings import NETWORKING
from teleport.daemon.view import View
from teleport.errors import BadRequest
from teleport.identity import HostIdentity
from teleport.resources.values import HostPort
from teleport.ssh.client_connection import ClientKey
from teleport.store.records import HOSTS
from teleport.tunnel.agent import AgentConfig, TunnelAgent
from teleport.tunnel.messages import NODE
from teleport.tunnel.reaching import PORT, tunnel_address
from teleport.tunnel.seeds import seeds

VARIABLE: Final = "TELEPORT_TUNNEL_PUBLIC_ADDR"


class Behind(Protocol):
    """A service that is reached by tunnels."""

    agent: TunnelAgent | None

    def accepted(self, transport: asyncio.Transport) -> None:
        """Takes a connection, as its listener would."""
        ...

    def in_background(self, work: Coroutine[Any, Any, None]) -> None: ...

    def busy(self) -> bool:
        """Whether something goes on, perhaps with nobody there, that a lock would have to end."""
        ...


def keep_tunnels(
    side: Behind,
    host: Host,
    view: View,
    held: Callable[[], Credentials],
    changed: Callable[[], None],
    proxies: Sequence[tuple[str, int]],
    emitter: Emitter,
    conn_type: str = NODE,
) -> TunnelAgent:
    """What keeps the tunnels by which a service is reached from here on; to be run. `proxies` are configured web
    addresses, `changed` hears that what the service announces is other now. Raises `BadRequest` for a variable that
    cannot be meant."""
    told = said_by_hand(os.environ)

    def key() -> ClientKey:
        now = held()
        return ClientKey(now.ssh_key.openssh_pem().reveal(), now.ssh_cert.line())

    def ended(proxy: HostIdentity, peer: tuple[str, int], reason: str) -> None:
        event = new_event(
            TunnelEnded,
            view.clock.now(),
            str(uuid4()),
            cluster_name=view.cluster,
            server_id=host.host_id,
            addr_remote=str(HostPort(*peer)),
            proto="ssh",
            host=proxy.host_id,
            role=str(proxy.role),
            reason=reason,
        )
        side.in_background(_emit(emitter, event))

    def tunnels_changed() -> None:
        if agent.proxies:
            view.cache.hurry()  # it is by the tunnel that auth is heard
        changed()

    agent = side.agent = TunnelAgent(
        AgentConfig(
            view.cluster,
            UUID(host.host_id),
            host.epoch,
            (*(name for name, _ in proxies), *(one.host for one in told)),
            conn_type,
        ),
        hosts=view,
        key=key,
        seeds=lambda: _seeds(told, proxies),
        accept=side.accepted,
        changed=tunnels_changed,
        clock=view.clock,
        connections=lambda: view.networking().spec.tunnel_strategy.connections,
        ended=ended,
    )
    view.cache.subscribe(NETWORKING, lambda _: agent.settings_changed())
    for prefix in ("locks/", "authorities/", HOSTS):
        view.cache.subscribe(prefix, lambda _: agent.reconsider())
    return agent


def said_by_hand(environ: Mapping[str, str]) -> tuple[HostPort, ...]:
    """Where tunnels end by the word of whoever started the daemon; empty when nothing is said. Raises `BadRequest`."""
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return ()
    try:
        return (tunnel_address(text),)
    except BadRequest as error:
        raise BadRequest(f"{VARIABLE}: {error.message}", hint=f"{VARIABLE}=host:{PORT}, or none") from None


async def _seeds(told: Sequence[HostPort], proxies: Sequence[tuple[str, int]]) -> list[str]:
    return [str(one) for one in told] or await seeds(proxies)


async def _emit(emitter: Emitter, event: Event) -> None:
    await emitter.emit(event)
