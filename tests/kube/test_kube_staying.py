"""Limits of roles on streams into pods: how many there are at the same time, and for how long one may be idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.kube.test_kube_exec_session import POD, ended, rest, status_of_refusal, stream

from teleport.audit.events import ClientDisconnect, SessionRejected
from teleport.authz.decision import ClusterDefaults
from teleport.kube.pings import only_pings
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role
from teleport.testing.kube_lab import Lab, kube_lab
from teleport.testing.lab_rules import LabControl

LIMITED = """
kind: role
version: v5
metadata: {name: dev}
spec:
  options: {%s}
  allow: {kubernetes_labels: {'*': '*'}, kubernetes_groups: [developers]}
"""


def limit(lab: Lab, options: str) -> None:
    (role,) = parse_resources(LIMITED % options, "role.yaml")
    assert isinstance(role, Role)
    lab.roles["dev"] = role


UNRECORDED = ClusterDefaults(record_sessions=False)


async def test_so_many_streams_and_no_more(tmp_path: Path) -> None:
    """The one above the limit hears why, and it is on record; when one has ended, there is room again."""
    control = LabControl()
    async with kube_lab(tmp_path, control=control) as lab:
        limit(lab, "max_connections: 1")
        async with stream(lab, "cat") as first:
            await first.send_bytes(b"\x00a")
            assert await first.receive_bytes() == b"\x01a"
            async with lab.connected() as wire:
                head = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io"]
                answer = await wire.ask(f"GET {POD}/exec?command=id", *head)
                assert (answer.status, json.loads(answer.body)["reason"]) == (429, "TooManyRequests")
                assert "Your roles allow 1 connections" in json.loads(answer.body)["message"]
                assert (await wire.ask(f"GET {POD}/log")).status == 200  # it leads to nothing that goes on in a pod
            (event,) = lab.events.named("session.rejected")
            assert isinstance(event, SessionRejected)
            assert (event.user, event.reason, event.max) == ("alice", "max_connections", 1)
        await ended(lab)
        await control.wait_held(0)
        async with stream(lab, "echo", "a") as again:
            assert (await rest(again))[1] == b"a\n"


async def test_what_is_not_recorded_counts_too(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab:
        lab.defaults = UNRECORDED
        limit(lab, "max_connections: 1")
        async with stream(lab, "cat"):
            assert await status_of_refusal(lab) == 429


async def test_nobody_with_a_limit_gets_in_uncounted(tmp_path: Path) -> None:
    """While auth is away; who has no limit does."""
    control = LabControl()
    control.away = True
    async with kube_lab(tmp_path, control=control) as lab:
        async with stream(lab, "echo", "a") as found:
            assert (await rest(found))[1] == b"a\n"
        limit(lab, "max_connections: 5")
        assert await status_of_refusal(lab) == 503
        assert [call for call in lab.api.calls if "/exec" in call.target] == lab.api.calls[-1:]


async def test_a_lost_place_ends_the_stream(tmp_path: Path) -> None:
    """Somebody else may have it instead."""
    control = LabControl(seconds=0.4)
    async with kube_lab(tmp_path, control=control) as lab:
        limit(lab, "max_connections: 1")
        async with stream(lab, "cat") as found:
            await found.send_bytes(b"\x00a")
            await found.receive_bytes()
            control.held.clear()
            got = await rest(found)
        assert b"its place was given away" in got[3]
        end, _ = await ended(lab)
        assert end.reason.startswith("too many connections")


@pytest.mark.parametrize("call", ["exec", "attach"])
async def test_an_idle_session_ends(tmp_path: Path, call: str) -> None:
    """Its person reads the cluster's message; it is on record why. What asks whether somebody is there is nothing."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = ClusterDefaults(client_idle_timeout_message="Come back with coffee.")
        limit(lab, "client_idle_timeout: 1s")
        async with stream(lab, "sh", "-c", "while echo a; do sleep 0.1; done", more="&tty=true", call=call) as found:
            pinging = asyncio.create_task(keep(found.ping))
            got = await rest(found)
            pinging.cancel()
        assert b"This session was ended: Come back with coffee." in got[3]
        end, _ = await ended(lab)
        assert end.reason == "idle for more than 1 s"
        (event,) = await lab.events.wait_for("client.disconnect")
        assert isinstance(event, ClientDisconnect)
        assert (event.user, event.reason, event.proto) == ("alice", "idle for more than 1 s", "kube")


async def keep(do: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await do()
            await asyncio.sleep(0.05)


async def test_who_types_is_not_idle(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab:
        limit(lab, "client_idle_timeout: 1s")
        async with stream(lab, "cat", more="&tty=true") as found:
            loop = asyncio.get_running_loop()
            until = loop.time() + 2
            while loop.time() < until:
                await found.send_bytes(b"\x00a")
                await found.receive_bytes()
            assert lab.events.named("session.end") == []


async def test_an_idle_stream_that_is_not_recorded_is_closed(tmp_path: Path) -> None:
    """Though kubectl asks all the time whether we are there."""
    async with kube_lab(tmp_path) as lab:
        lab.defaults = UNRECORDED
        limit(lab, "client_idle_timeout: 1s")
        async with stream(lab, "cat", more="&tty=true") as found:
            pinging = asyncio.create_task(keep(found.ping))
            await rest(found)
            pinging.cancel()
        (event,) = await lab.events.wait_for("client.disconnect")
        assert isinstance(event, ClientDisconnect)
        assert event.reason == "idle for more than 1 s"


async def test_a_limit_that_comes_later_holds_too(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab, stream(lab, "cat", more="&tty=true") as found:
        await found.send_bytes(b"\x00a")
        await found.receive_bytes()
        lab.defaults = ClusterDefaults(client_idle_timeout=timedelta(seconds=0.1))
        assert lab.server is not None
        lab.server.reconsider()
        assert b"idle for more than 0.1 s" in (await rest(found))[3]


@pytest.mark.parametrize(
    ("protocol", "data", "only"),
    [
        (b"websocket", b"", True),
        (b"websocket", b"\x89\x80abcd", True),
        (b"websocket", b"\x89\x82abcdxy\x8a\x80abcd", True),
        (b"websocket", b"\x89\x80abcd\x82\x81abcdx", False),
        (b"websocket", b"\x89\xffabcd" + bytes(126), False),
        (b"websocket", b"\x89\x85abcdx", False),
        (b"SPDY/3.1", b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01", True),
        (b"SPDY/3.1", b"\x80\x03\x00\x06\x00\x00\x00\x04\x00", False),
        (b"SPDY/3.1", b"\x00\x00\x00\x01\x00\x00\x00\x01x", False),
    ],
)
def test_pings_are_told_from_what_is_done(protocol: bytes, data: bytes, only: bool) -> None:
    assert only_pings(protocol, data) is only
