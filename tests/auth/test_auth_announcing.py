"""Where the watch ends within which a host announces itself: another connection is for whose turn it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.daemon.remote import watch
from teleport.daemon.view import NODE_KINDS
from teleport.errors import ConnectionProblem
from teleport.identity import SystemRole
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.records import NODES
from teleport.testing.auth import running_auth
from teleport.testing.running import wait_until

HOST = "7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11"


class Others:
    """Whether they come first."""

    waiting = True

    async def wait(self) -> None:
        raise AssertionError("what is said would be said as it was before the wait")


async def test_an_announcement_whose_watch_ended_makes_no_connection_before_its_turn(tmp_path: Path) -> None:
    """Ten thousand hosts would make one each, beside their watches, while the rest have no tunnel yet."""
    spec = ServerSpec(hostname="alpha", use_tunnel=True, epoch="1")
    said = m.HeartbeatRequest(item=m.Document(to_json(Server(metadata=Metadata(name=HOST), spec=spec))))
    async with running_auth(tmp_path) as auth:
        who = await auth.host(SystemRole.NODE, host_id=HOST, name="alpha")
        async with auth.async_client(who) as client:
            lines = watch(client, NODE_KINDS)
            await anext(lines)
            client.turn = others = Others()
            assert client._spoken is not None
            client._spoken.end()  # the loss is known, and the watch not closed yet
            with pytest.raises(ConnectionProblem, match="turn"):
                await client.announce(said)
            assert await auth.service.state.backend.get(NODES + HOST) is None
            others.waiting = False
            await client.announce(said)
            assert await auth.service.state.backend.get(NODES + HOST) is not None
            await lines.aclose()
            await wait_until(lambda: client._spoken is None)
