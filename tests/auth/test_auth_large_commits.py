"""What auth writes at once, where the storage takes 1.5 MiB and 128 operations in a request: over a real etcd."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest
from tests.auth.test_auth_certificates import _revoke, _signed

from teleport.audit.chain import ChainKey, Head
from teleport.audit.events import SessionEnd, SessionStart, encode_event, new_event
from teleport.auth.authorities.keys import StoredKeys
from teleport.auth.certificates.live import MOST_ENDED
from teleport.auth.cluster.bootstrap import bootstrap
from teleport.auth.cluster.from_file import given
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.sessions.claims import HOSTS, Claims
from teleport.auth.sessions.opened import OPEN, SessionTracker
from teleport.auth.state import ClusterState
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.backend.interface import MAX_WRITES, PutOp
from teleport.backend.parts import PART_BYTES, in_parts
from teleport.clock import SystemClock
from teleport.errors import BadRequest
from teleport.pki.trust import AuthorityKind
from teleport.resources.cluster import AuthPreference
from teleport.resources.codec import Resource
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.store import records
from teleport.store.issued import ISSUED, IssuedCert
from teleport.testing import etcd
from teleport.testing.auth import present_clock, running_auth

needs_etcd = pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)
HOST, OTHER = str(uuid.uuid4()), str(uuid.uuid4())
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd.EtcdCluster]:
    with etcd.EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@asynccontextmanager
async def storage(servers: etcd.EtcdCluster) -> AsyncIterator[EtcdBackend]:
    async with EtcdBackend(EtcdSettings(servers.urls, f"/{token_hex(8)}/", insecure=True), CLOCK) as backend:
        yield backend


def test_parts_hold_what_belongs_together_and_fit() -> None:
    groups = [[PutOp(f"{number}/{part}", bytes(20_000)) for part in range(3)] for number in range(400)]
    groups.append([PutOp("large", bytes(PART_BYTES))])
    parts = list(in_parts(groups, most=100))
    assert [write for part in parts for write in part] == [write for group in groups for write in group]
    assert max(len(part) for part in parts) <= 100
    assert all(len(part) % 3 == 0 for part in parts[:-1])
    assert all(sum(len(one.value) for one in part if isinstance(one, PutOp)) <= PART_BYTES for part in parts)
    assert list(in_parts([])) == []


@needs_etcd
async def test_a_thousand_sessions_with_long_commands_begin_and_end_at_once(servers: etcd.EtcdCluster) -> None:
    sids = [str(uuid.uuid4()) for _ in range(MAX_WRITES)]
    command = ["x" * 3000]  # of all together more than a request holds
    lines = [
        encode_event(
            new_event(
                SessionStart, CLOCK.now(), f"s{sid}", sid=sid, server_id=HOST, user="ann", initial_command=command
            )
        )
        for sid in sids
    ]
    async with storage(servers) as backend:
        tracker = SessionTracker(backend)
        await tracker.append(lines)
        assert len(await backend.range(OPEN)) == len(sids)
        await tracker.append(
            [
                encode_event(new_event(SessionEnd, CLOCK.now(), f"e{sid}", sid=sid, server_id=HOST, user="ann"))
                for sid in sids
            ]
        )
        assert await backend.range(OPEN) == []


@needs_etcd
async def test_a_hundred_disputed_sessions_are_told_of_at_once(servers: etcd.EtcdCluster) -> None:
    sids = [str(uuid.uuid4()) for _ in range(100)]
    async with storage(servers) as backend:
        await backend.commit([PutOp(f"{HOSTS}{sid}/{OTHER}", b"started") for sid in sids])
        await Claims(backend).note_running(HOST, sids)
        assert len(await backend.range(HOSTS)) == 2 * len(sids)
        assert len(await backend.range("audit/outbox/")) == len(sids)


@needs_etcd
async def test_heads_of_many_chains_are_saved_after_a_crash(servers: etcd.EtcdCluster) -> None:
    heads = {ChainKey(str(uuid.uuid4()), 1): Head(1, "a" * 64) for _ in range(2500)}
    async with storage(servers) as backend:
        store = EvidenceStore(backend, CLOCK)
        await store.save_heads(heads, "2026-01-01.00:00:00.log 5")
        assert await store.load_heads() == (heads, "2026-01-01.00:00:00.log 5")


@needs_etcd
async def test_a_cluster_is_made_from_a_file_of_many_and_large_resources(servers: etcd.EtcdCluster) -> None:
    def made(number: int) -> Role:
        return Role(metadata=Metadata(name=f"r{number}", labels={"why": "x" * 9000}))

    authorities = [StoredKeys().make(kind, "c.test", CLOCK.now()) for kind in AuthorityKind]
    async with storage(servers) as backend:
        state = ClusterState(backend, CLOCK, "c.test", on_events=lambda: None)
        resources: list[Resource] = [*authorities, *(made(number) for number in range(300)), AuthPreference()]
        assert await bootstrap(state, (), given(resources))
        roles = {item.key for item in await backend.range(records.ROLES)}
        assert {f"{records.ROLES}r{number}" for number in range(300)} <= roles
        assert len(await backend.range(records.AUTHORITIES)) == len(authorities)
        told = [item for item in await backend.range("audit/outbox/") if b'"role.created"' in item.value]
        assert len(told) == len(roles)


@needs_etcd
async def test_a_certificate_is_ended_with_all_that_came_of_it(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    """As many as are ended in one transaction; more are refused with what to do instead."""
    clock = present_clock()
    settings = EtcdSettings(servers.urls, f"/{token_hex(8)}/", insecure=True)
    async with (
        EtcdBackend(settings, clock) as backend,
        running_auth(tmp_path, clock=clock, storage=backend, shared=tmp_path / "shared") as auth,
    ):
        _, certs = await _signed(auth, "ann")
        item = await backend.get(f"{ISSUED}user/{certs.serial}")
        assert item is not None
        first = msgspec.json.decode(item.value, type=IssuedCert)
        family = [
            msgspec.structs.replace(first, serial=str(number), renewed_from=first.serial)
            for number in range(1, MOST_ENDED)
        ]
        await backend.commit([PutOp(one.key, one.encode(), one.expires) for one in family])
        assert len((await _revoke(auth, first.serial)).serials) == MOST_ENDED
        more = msgspec.structs.replace(first, serial="9999", renewed_from="1")
        await backend.put(more.key, more.encode(), expires=more.expires)
        with pytest.raises(BadRequest, match="too many to end one by one") as caught:
            await _revoke(auth, first.serial)
        assert "tctl lock --user=ann" in caught.value.hint
