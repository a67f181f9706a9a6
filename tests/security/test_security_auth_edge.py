"""The edge of the auth API: what callers who proved nothing may cost, and what logs and answers never hold."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth import bodies
from teleport.auth.people.invitations import UserTokens
from teleport.errors import BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.x509cert import auth_server_name
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.testing.auth import ANONYMOUS, CLUSTER, RunningAuth, running_auth


async def _raw(auth: RunningAuth, head: str, body: bytes) -> bytes:
    """The answer to a request written by hand, without a certificate."""
    reader, writer = await asyncio.open_connection(
        *auth.address, ssl=auth.context(ANONYMOUS), server_hostname=auth_server_name(CLUSTER)
    )
    try:
        writer.write(head.encode() + body)
        return await asyncio.wait_for(reader.readuntil(b"}"), 10)
    finally:
        writer.close()


async def test_a_large_body_is_refused_before_it_is_read_unless_its_sender_is_known(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        head = "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = await _raw(auth, head + "Content-Length: 9000000\r\n\r\n", b"{")
        assert b" 400 " in answer
        assert b"larger than" in answer
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        answer = await _raw(auth, head + "Transfer-Encoding: chunked\r\n\r\n", chunk * 2)
        assert b"larger than" in answer
        deep = b"[" * 30_000
        answer = await _raw(auth, head + f"Content-Length: {len(deep)}\r\n\r\n", deep)
        assert b" 400 " in answer


async def test_a_body_that_drips_is_given_up_unless_its_sender_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    async with running_auth(tmp_path, sqlite=True) as auth:
        head = "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        answer = await _raw(auth, head, b"{")
        assert b" 400 " in answer
        assert b"did not come" in answer


async def test_the_secret_of_a_link_is_in_no_log_when_a_handler_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> m.UserTokenInfo:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(UserTokens, "info", broken)
    caplog.set_level(logging.DEBUG)
    async with running_auth(tmp_path, sqlite=True) as auth:
        secret = "0123456789abcdef" * 2
        proxy = await auth.host(SystemRole.PROXY, name="gate")
        with pytest.raises(TeleportError) as failed:
            await auth.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=secret))
    assert "user-tokens/{token}" in caplog.text
    assert secret not in caplog.text
    assert secret not in str(failed.value)


async def test_nodes_that_a_user_may_not_see_are_not_told_apart_by_a_shared_name(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        allow = {"logins": ["x"], "node_labels": {"env": ["dev"]}}
        role = {"kind": "role", "version": "v3", "metadata": {"name": "none"}, "spec": {"allow": allow}}
        await auth.call(
            await auth.admin(), routes.STORE["role"], m.StoreRequest(item=m.Document(json.dumps(role).encode()))
        )
        for _ in range(2):
            host = await auth.host(SystemRole.NODE, name="twin")
            server = Server(metadata=Metadata(name=host.host_id), spec=ServerSpec(hostname="twin"))
            await auth.call(host, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
        with pytest.raises(TeleportError) as hidden:
            await auth.call(await auth.user("joe", ["none"]), routes.GET["node"], m.GetRequest(name="twin"))
        assert hidden.value.code == "not_found", str(hidden.value)
        with pytest.raises(BadRequest):
            await auth.call(await auth.admin(), routes.GET["node"], m.GetRequest(name="twin"))
