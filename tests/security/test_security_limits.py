"""What one caller may cost: tunnels of one address, attempts to join, bodies that never come whole (threat T17)."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import aiohttp
import pytest
from tests.web.test_web_tunnel import TUNNEL, tunnel_to_target, websocket

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth import bodies
from teleport.auth.caller import Caller
from teleport.auth.hosts import joining
from teleport.errors import AccessDenied, LimitExceeded
from teleport.identity import Anonymous, SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import auth_server_name
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


async def test_one_address_leaves_tunnels_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They carry whatever joins and whoever lists: one silent client must not take them all."""
    monkeypatch.setattr("teleport.web.service.TUNNELS_OF_ONE", 2)
    async with tunnel_to_target(tmp_path) as (web, target):
        opened = [await websocket(web), await websocket(web)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await websocket(web)
        assert caught.value.status == 429
        own = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), ssl=web.session.connector._ssl)  # type: ignore[union-attr]
        own._resolver = web.session.connector._resolver  # type: ignore[union-attr]
        async with aiohttp.ClientSession(connector=own) as elsewhere:
            opened.append(await elsewhere.ws_connect(web.url + TUNNEL))
            for one in opened:
                (await target.next())[1].close()
                await one.close()


def _join(token: str) -> m.JoinRequest:
    key = generate_p256()
    return m.JoinRequest(
        token=token,
        host_id=str(uuid.uuid4()),
        node_name="web1",
        role="Node",
        public_ssh_key=key.public.line(),
        public_tls_key=key.public.spki_pem().decode(),
    )


async def _turned_away(auth: RunningAuth, caller: Caller, tries: int) -> int:
    """How many of so many bad attempts were refused for their number."""
    count = 0
    for _ in range(tries):
        try:
            await auth.service._joining.join(caller, _join("guess"))
        except LimitExceeded:
            count += 1
        except AccessDenied:
            pass
    return count


async def test_attempts_to_join_are_limited_by_address_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "JOIN_BURST", 3.0)
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        guessing, other = (Caller(Anonymous(), f"{host}:4000") for host in ("192.0.2.1", "192.0.2.2"))
        assert await _turned_away(auth, guessing, 10) == 7
        assert len(await auth.events("host.join_failed", wait_for=3)) == 3
        assert await _turned_away(auth, other, 1) == 0
        found = await auth.events("host.join_failed", wait_for=4)
        assert len(found) == 4
        assert any("7 attempts" in event["error"] for event in found)
        with pytest.raises(LimitExceeded):
            await auth.service._joining.join(guessing, _join("guess"))
        token = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
        auth.clock.advance(5)
        await auth.service._joining.join(guessing, _join(token.token))


async def test_many_addresses_together_fill_no_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "FAILURE_BURST", 2.0)
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        for number in range(10):
            assert await _turned_away(auth, Caller(Anonymous(), f"192.0.2.{number}:4000"), 1) == 0
        assert len(await auth.events("host.join_failed", wait_for=2)) == 2
        auth.clock.advance(1)
        await _turned_away(auth, Caller(Anonymous(), "192.0.2.99:4000"), 1)
        assert "8 attempts" in (await auth.events("host.join_failed", wait_for=3))[-1]["error"]


@pytest.mark.parametrize("what", ["body", "upload"])
async def test_the_body_of_a_known_caller_has_to_come_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(bodies, "KNOWN_BODY_SECONDS", 0.2)
    monkeypatch.setattr(bodies, "UPLOAD_SECONDS", 0.2)
    async with running_auth(tmp_path) as auth:
        context = auth.context(await auth.host(SystemRole.NODE))
        reader, writer = await asyncio.open_connection(
            *auth.address, ssl=context, server_hostname=auth_server_name(CLUSTER)
        )
        route = routes.INTAKE if what == "body" else routes.APPEND_RECORDING
        path = route.path.replace("{sid}", str(uuid.uuid4()))
        query = "?offset=0" if what == "upload" else ""
        writer.write(f"{route.method} {path}{query} HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{{".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"within"), 10)
        assert answer.startswith(b"HTTP/1.1 400")
        writer.close()
