"""Certificates that were overtaken: by an expelled host, a removed authority, a user made anew, a role given since."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth import records
from teleport.auth.records import HostRecord
from teleport.auth.standing import CLOCK_SLACK, host_counts
from teleport.backend.interface import PutOp
from teleport.daemon.remote import watch
from teleport.daemon.view import NODE_KINDS, PROXY_KINDS, View
from teleport.errors import AccessDenied
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.sshcert import HOST_LIFETIME
from teleport.pki.sshformat import parse_certificate_line
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.cache import Cache
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


async def _until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not found():  # noqa: ASYNC110 - auth makes it true
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _view(auth: RunningAuth, role: SystemRole = SystemRole.NODE) -> AsyncIterator[View]:
    """What a service of another host knows of the cluster."""
    cache, ready = Cache("test", auth.clock, jitter=lambda: 0.5), asyncio.Event()
    kinds = PROXY_KINDS if role is SystemRole.PROXY else NODE_KINDS
    async with auth.async_client(await auth.host(role, name="watcher")) as client:
        running = asyncio.create_task(cache.run(lambda: watch(client, kinds), ready.set), name="cache")
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            yield View(cache, auth.clock, CLUSTER)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def _host_certificate(auth: RunningAuth, role: SystemRole, host_id: str) -> bytes:
    """The SSH certificate of a host of the cluster."""
    key = generate_p256()
    found = await auth.service.local_host(host_id, "gate", role, [], key.public.line(), key.public.spki_pem().decode())
    return parse_certificate_line(found.ssh_cert).blob


def _roles(view: View, host_id: str) -> list[str]:
    item = view.cache.get(records.HOSTS + host_id)
    return msgspec.json.decode(item.value, type=HostRecord).roles if item is not None else []


@pytest.mark.parametrize("role", [SystemRole.NODE, SystemRole.PROXY])
async def test_services_refuse_the_certificate_of_an_expelled_host(tmp_path: Path, role: SystemRole) -> None:
    """An expelled proxy could otherwise vouch for any client address until its certificate ends, for 90 days."""
    async with running_auth(tmp_path) as auth, _view(auth, role) as view:
        host_id = str(uuid.uuid4())
        certificate = await _host_certificate(auth, SystemRole.PROXY, host_id)
        node = await auth.host(SystemRole.NODE, host_id=host_id, name="gate")
        item = to_json(Server(metadata=Metadata(name=host_id), spec=ServerSpec(hostname="gate")))
        await auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(item)))
        await _until(lambda: _roles(view, host_id) == ["Node", "Proxy"])
        assert view.verify_host(certificate).role is SystemRole.PROXY
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=host_id))
        await _until(lambda: not _roles(view, host_id))
        with pytest.raises(AccessDenied, match="does not belong to the cluster any more"):
            view.verify_host(certificate)


async def test_what_services_hear_of_hosts_is_only_whether_their_certificates_count(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, _view(auth) as view:
        record = HostRecord(host_id="h", node_name="vault", roles=["Node"], labels={"owner": "treasury"})
        await auth.backend.commit([records_put("h", record)])
        await _until(lambda: view.cache.get("hosts/h") is not None)
        found = view.cache.get("hosts/h")
        assert found is not None
        assert b"vault" not in found.value
        assert b"treasury" not in found.value


@pytest.mark.parametrize("why", ["unknown", "expelled", "role gone", "joined anew", None])
def test_a_hosts_certificate_counts_only_while_the_host_is_what_it_says(why: str | None) -> None:
    now = FakeClock().now()
    identity = HostIdentity("h", CLUSTER, SystemRole.PROXY, now + HOST_LIFETIME)
    record = {
        "unknown": None,
        "expelled": HostRecord(host_id="h", roles=["Proxy"], expelled=True),
        "role gone": HostRecord(host_id="h", roles=["Node"]),
        "joined anew": HostRecord(
            host_id="h", roles=["Proxy"], valid_from=now + CLOCK_SLACK + timedelta(milliseconds=1)
        ),
        None: HostRecord(host_id="h", roles=["Node", "Proxy"], valid_from=now),
    }[why]
    assert host_counts(identity, record) is (why is None)


def records_put(host_id: str, record: HostRecord) -> PutOp:
    return PutOp(records.HOSTS + host_id, record.encode())
