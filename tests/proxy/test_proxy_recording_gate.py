"""Who gets in where the proxy records."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from teleport.authz.decision import AccessDenial, DenialCode
from teleport.clock import SystemClock
from teleport.identity import RemoteOrigin, UserIdentity
from teleport.proxy.recording.facts import Facts
from teleport.proxy.recording.needs import RecordingConfig
from teleport.proxy.recording.service import RecordingService, _Gate
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.surface import Peer, Refusal, ServerLimits
from teleport.testing.lab_certificates import Authorities
from teleport.testing.memory import Events

ROOT = "root.test"
NOT_HERE = AccessDenial(DenialCode.NOT_GRANTED, "decided about", ("decided about",), "tsh ls")


@pytest.mark.parametrize(
    ("origin", "through", "words"),
    [
        (None, "", "decided about"),
        (None, ROOT, f"Through {ROOT} come its own users only"),
        ("other.test", ROOT, f"Through {ROOT} come its own users only"),
        (ROOT, ROOT, "decided about"),
        (ROOT, "", "decided about"),
    ],
)
async def test_through_the_proxy_of_another_cluster_come_its_own_users_only(
    monkeypatch: pytest.MonkeyPatch, origin: str | None, through: str, words: str
) -> None:
    """That proxy says what address somebody has, and source pins of others hold by theirs."""
    authorities, events, tasks = Authorities("c"), Events(), list[asyncio.Task[None]]()
    user = authorities.user(["root"])

    class View:
        def verify_user(self, certificate: bytes) -> UserIdentity:
            found = authorities.verify_user(certificate)
            return found if origin is None else replace(found, origin=RemoteOrigin(origin, "alice", ("access",)))

    def in_background(work: Coroutine[Any, Any, None], _: str) -> None:
        tasks.append(asyncio.ensure_future(work))

    monkeypatch.setattr(Facts, "decide", lambda facts, tools: NOT_HERE)
    service = RecordingService(
        RecordingConfig("c", uuid.uuid4(), "proxy", ServerLimits()),
        view=cast("Any", View()),
        auth=cast("Any", None),
        recordings=cast("Any", None),
        emitter=events,
        clock=SystemClock(),
        in_background=in_background,
        reach=cast("Any", None),
    )
    node = Server(metadata=Metadata(name=str(uuid.uuid4())), spec=ServerSpec(addr="192.0.2.1:22", hostname="web"))
    refused = await _Gate(service, node, Peer("192.0.2.9", 4444, through)).admit("root", user.certificate.blob)
    assert isinstance(refused, Refusal)
    assert words in refused.message
    await asyncio.gather(*tasks)
    (event,) = await events.wait_for("auth")
    assert ("own users only" in getattr(event, "error", "")) is ("own users only" in words)
