"""Joining: a token gives the role it names, under the host's own id and names, and nothing of another host (T14)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import ANONYMOUS, CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

PROXY_NAME = "teleport.example.org"


async def _token(auth: RunningAuth, *roles: str) -> str:
    made = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=list(roles)))
    return str(made.token)


async def _join(
    auth: RunningAuth, who: Credentials = ANONYMOUS, **fields: Any
) -> tuple[Credentials, m.HostCredentials]:
    key = generate_p256()
    asked = {"host_id": str(uuid.uuid4()), "node_name": "web1", "role": "Node", **fields}
    request = m.JoinRequest(public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode(), **asked)
    found = await auth.call(who, routes.JOIN, request)
    return auth.keep(key, found.tls_cert, asked["host_id"]), found


async def _announce(auth: RunningAuth, who: Credentials, kind: Any = "node", **spec: Any) -> None:
    server = Server(kind=kind, metadata=Metadata(name=who.host_id), spec=ServerSpec(**spec))
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))


async def _with_proxy(auth: RunningAuth) -> Credentials:
    proxy = await auth.host(SystemRole.PROXY, name="gate")
    await _announce(auth, proxy, "proxy", hostname="gate", addr="10.0.0.9:3080", public_addrs=(f"{PROXY_NAME}:443",))
    return proxy


async def test_nobody_joins_in_another_role_under_the_id_of_a_host(tmp_path: Path) -> None:
    """Events and recordings count by the host's id: a node token must not speak for the auth server or a proxy."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        proxy = await _with_proxy(auth)
        token = await _token(auth, "node")
        for taken in (auth.host_id, proxy.host_id):
            with pytest.raises(AccessDenied):
                await _join(auth, token=token, host_id=taken)
        other, _ = await _join(auth, token=token)
        with pytest.raises(AccessDenied):
            await _join(auth, other, token=token, host_id=proxy.host_id)


async def test_a_host_takes_a_second_role_by_proving_its_first(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        token = await _token(auth, "node", "proxy")
        node, _ = await _join(auth, token=token)
        with pytest.raises(AccessDenied):
            await _join(auth, token=token, host_id=node.host_id, role="Proxy")
        both, _ = await _join(auth, node, token=token, host_id=node.host_id, role="Proxy")
        assert (await auth.call(both, routes.WHO_AM_I, m.Empty())).roles == ["Proxy"]


NOT_FOR_NODES = (
    PROXY_NAME,
    PROXY_NAME.upper(),
    "gate",
    f"gate.{CLUSTER}",
    "*",
    "*.example.org",
    "teleport.cluster.local",
    "x.teleport.cluster.local",
    "UUID",
    f"UUID.{CLUSTER}",
    "a,b",
    "a\nb",
    "0.0.0.0",
)


async def test_no_node_gets_a_name_of_a_proxy_of_another_host_or_a_pattern(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        proxy = await _with_proxy(auth)
        token = await _token(auth, "node")
        node, _ = await _join(auth, token=token)
        key = generate_p256().public
        assert isinstance(auth.clock, FakeClock)
        for name in (name.replace("UUID", proxy.host_id) for name in NOT_FOR_NODES):
            auth.clock.advance(45)  # a host renews no oftener than it may
            asked: Any
            for asked in ({"node_name": name}, {"additional_principals": [name]}, {"dns_names": [name]}):
                with pytest.raises((AccessDenied, BadRequest)):
                    await _join(auth, token=token, **asked)
                renewal = m.RenewHostRequest(
                    public_ssh_key=key.line(), public_tls_key=key.spki_pem().decode(), **{"node_name": "web1", **asked}
                )
                with pytest.raises((AccessDenied, BadRequest)):
                    await auth.call(node, routes.RENEW_HOST, renewal)


async def test_a_node_announces_neither_a_proxys_name_nor_another_hosts_id(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        proxy = await _with_proxy(auth)
        node, _ = await _join(auth, token=await _token(auth, "node"))
        await _announce(auth, node, hostname="web1", addr="127.0.0.1:3022")
        for spec in (
            {"hostname": proxy.host_id},
            {"hostname": "gate"},
            {"hostname": "web1", "public_addrs": (f"{PROXY_NAME}:3022",)},
        ):
            with pytest.raises(AccessDenied):
                await _announce(auth, node, **spec)
        with pytest.raises(AccessDenied):
            await _announce(auth, node, "proxy", hostname="web1")


async def test_what_a_node_says_of_itself_does_not_keep_a_proxy_from_renewing(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        node, _ = await _join(auth, token=await _token(auth, "node"))
        await _announce(auth, node, hostname="gate", public_addrs=(f"{PROXY_NAME}:3022",))
        proxy = await auth.host(SystemRole.PROXY, name="gate")
        key = generate_p256().public
        renewed = await auth.call(
            proxy,
            routes.RENEW_HOST,
            m.RenewHostRequest(
                public_ssh_key=key.line(),
                public_tls_key=key.spki_pem().decode(),
                node_name="gate",
                additional_principals=[PROXY_NAME],
            ),
        )
        assert renewed.expires > auth.clock.now()


async def test_a_join_that_fails_tells_nothing_of_the_token_and_is_recorded_in_few_words(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        secret = "s3cret-" + "x" * 20
        with pytest.raises(TeleportError):
            await _join(auth, token=secret, node_name="n" * 40_000 + "\n\x1b[31m")
        events = await auth.events("host.join_failed")
        assert secret not in str(events)
        assert len(str(events[0])) < 10_000
        with pytest.raises(TeleportError):
            await _join(auth, token=secret, node_name="n" * 5_000_000)
