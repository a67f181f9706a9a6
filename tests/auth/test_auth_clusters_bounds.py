"""What a cluster that is known may cost this one: how often its keys change, and what one that is broken keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities import trusting
from teleport.auth.clusters.changes import BURST, EVERY, TOO_OFTEN, counted
from teleport.backend.interface import PutOp
from teleport.pki.cluster_statement import Purpose, StatedKeys, Statement, sign_statement
from teleport.pki.keys import PublicKey, generate_ed25519
from teleport.resources.authority import Authority, KeySet, SSHKeyPair
from teleport.resources.codec import from_json, to_json
from teleport.store import records
from teleport.store.records import ClusterLink
from teleport.testing.auth import ANONYMOUS, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until
from teleport.testing.two_clusters import TwoClusters, lead_to, two_clusters


async def ssh_keys(auth: RunningAuth, kind: str, cluster: str) -> tuple[str, ...]:
    item = await auth.backend.get(records.authority_key(kind, cluster))
    found = from_json(item.value) if item is not None else None
    return found.trusted_ssh_keys if isinstance(found, Authority) else ()


async def say(both: TwoClusters, more: tuple[str, ...] = ()) -> Statement:
    """The leaf says that it has these keys, too; what the root answers."""
    known = await both.root.service.state.record(records.CLUSTER_LINKS + "leaf", ClusterLink)
    assert known is not None
    signed, _ = await both.leaf.service.clusters.statements.make(
        Purpose.EXCHANGE, "root", sent=known[0].taken + 1, holds=()
    )
    honest = msgspec.json.decode(signed.document, type=Statement)
    stated = StatedKeys(ssh=(*honest.host.ssh, *more), tls=honest.host.tls)
    secret = (await both.leaf.service.state.authority("host")).spec.active_keys.ssh[0].private_key
    assert secret is not None
    key = both.leaf.service.state.keys.load(secret)
    signed = sign_statement(msgspec.structs.replace(honest, host=stated), [key])
    request = m.ExchangeRequest(document=signed.document, signatures=dict(signed.signatures))
    reply = await both.root.call(ANONYMOUS, routes.EXCHANGE_AUTHORITIES, request)
    return msgspec.json.decode(reply.document, type=Statement)


def too_often(event: dict[str, Any]) -> bool:
    """Whether this is what is told of changes that come too soon."""
    return bool(event["error"] == TOO_OFTEN)


def new_key() -> str:
    return generate_ed25519().public.line()


async def test_a_leaf_changes_its_keys_no_oftener_than_rotations_do(tmp_path: Path) -> None:
    """What comes too soon is on record once, costs no write of authorities, and is taken up later; keys that are
    withdrawn are gone at once."""
    async with two_clusters(tmp_path) as both:
        await both.establish()
        await both.cut()  # what is said in the leaf's name is newer than what it says itself
        clock = both.root.clock
        assert isinstance(clock, FakeClock)
        honest = await ssh_keys(both.leaf, "host", "leaf")
        for _ in range(30):
            answer = await say(both, (last := new_key(),))
        changes = await both.root.events("cluster_authority.update", wait_for=int(BURST))
        assert len(changes) == BURST
        (told,) = await both.root.events("cluster_statement.refused", where=too_often)
        assert (told["name"], told["code"]) == ("leaf", "T9325W")
        held = await ssh_keys(both.root, "host", "leaf")
        assert last not in held
        assert answer.holds == tuple(PublicKey.parse(line).fingerprint() for line in held), "a rotation there waits"
        await say(both)
        assert await ssh_keys(both.root, "host", "leaf") == honest, "what only takes keys away counts at once"
        await say(both, (last,))
        assert await ssh_keys(both.root, "host", "leaf") == honest
        for _ in range(3):  # the former keys in between: what comes too soon is not told each time
            await say(both)
            await say(both, (new_key(),))
        assert len(await both.root.events("cluster_statement.refused", where=too_often)) == 1
        clock.advance(EVERY)
        await say(both, (last,))
        assert await ssh_keys(both.root, "host", "leaf") == (*honest, last)


async def test_a_root_changes_its_keys_no_oftener_either(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        clock = both.root.clock
        assert isinstance(clock, FakeClock)
        state, key = both.root.service.state, records.authority_key("user", "root")

        async def another() -> str:
            now = await state.authority("user")
            more = KeySet(ssh=(SSHKeyPair(public_key=new_key()),))
            spec = msgspec.structs.replace(now.spec, additional_trusted_keys=more)
            await state.commit(
                [PutOp(key, to_json(msgspec.structs.replace(now, spec=spec), with_secrets=True))], events=[]
            )
            return more.ssh[0].public_key

        problems = []
        for _ in range(int(BURST) + 2):
            last = await another()
            problems.append(await both.exchange())
        assert problems == [""] * int(BURST) + [TOO_OFTEN] * 2
        assert last not in await ssh_keys(both.leaf, "user", "root")
        (told,) = await both.leaf.events("cluster_statement.refused", where=too_often)
        assert told["name"] == "root"
        shown = await both.leaf.call(await both.leaf.admin(), routes.GET["trusted_cluster"], m.GetRequest(name="root"))
        assert from_json(bytes(shown.item)).status.problem == TOO_OFTEN  # type: ignore[union-attr]
        clock.advance(EVERY)
        assert await both.exchange() == ""
        assert last in await ssh_keys(both.leaf, "user", "root")


def test_changes_are_forgiven_with_time() -> None:
    clock = FakeClock()
    link: ClusterLink | None = ClusterLink()
    for _ in range(int(BURST)):
        assert link is not None
        former, link = link, counted(link, clock.now())
    assert link is not None
    assert counted(link, clock.now()) is None
    clock.advance(EVERY)
    assert counted(link, clock.now()) is not None
    assert counted(link, FakeClock().now() - timedelta(days=1)) is None, "a clock that goes back forgives nothing"
    assert former.changes == BURST - 1


async def test_the_listener_believes_those_who_count_now_and_nobody_who_did(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        before = len(both.leaf.server_context().get_ca_certs())
        wanted = await both.establish()
        assert len(both.leaf.server_context().get_ca_certs()) == before + 1
        off = msgspec.structs.replace(wanted, spec=msgspec.structs.replace(wanted.spec, enabled=False))
        await both.create(off, force=True)
        assert len(both.leaf.server_context().get_ca_certs()) == before
        await both.create(wanted, force=True)
        assert len(both.leaf.server_context().get_ca_certs()) == before + 1
        leo = await both.leaf.user("leo", ["access"])
        assert (await both.leaf.call(leo, routes.WHO_AM_I, m.Empty())).name == "leo"


# what is stored of another cluster and is no authority


def _no_certificate(authority: Authority) -> bytes:
    (pair,) = authority.spec.active_keys.tls
    broken = msgspec.structs.replace(pair, cert="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    keys = msgspec.structs.replace(authority.spec.active_keys, tls=(broken,))
    return to_json(msgspec.structs.replace(authority, spec=msgspec.structs.replace(authority.spec, active_keys=keys)))


def _no_key(authority: Authority) -> bytes:
    keys = msgspec.structs.replace(authority.spec.active_keys, ssh=(SSHKeyPair(public_key="ssh-ed25519 AAAA"),))
    return to_json(msgspec.structs.replace(authority, spec=msgspec.structs.replace(authority.spec, active_keys=keys)))


def _nothing(_: Authority) -> bytes:
    return b"\xff{"


def _believes(auth: RunningAuth, certificates: int) -> bool:
    return len(auth.server_context().get_ca_certs()) == certificates


@pytest.mark.parametrize("broken", [_no_certificate, _no_key, _nothing])
async def test_what_is_stored_of_one_cluster_keeps_nobody_else_out(
    tmp_path: Path, broken: Callable[[Authority], bytes]
) -> None:
    """The leaf's own people, its own authorities and those of a third cluster go on; both services stay up."""
    async with (
        two_clusters(tmp_path) as both,
        running_auth(tmp_path / "third", clock=both.root.clock, cluster="third") as third,
    ):
        await both.establish()
        lead_to(both.leaf, third)
        await TwoClusters(third, both.leaf).establish()
        for auth, kind, other in ((both.leaf, "user", "root"), (both.root, "host", "leaf")):
            found = await auth.service.state.need(f"{records.AUTHORITIES}{kind}/", other, Authority)
            put = PutOp(records.authority_key(kind, other), broken(found[0]))
            await auth.service.state.commit([put], events=[])
            await auth.service.believe_now()
        leo = await both.leaf.user("leo", ["access"])
        assert (await both.leaf.call(leo, routes.WHO_AM_I, m.Empty())).name == "leo"
        theirs = await third.user("tina", ["access"])
        assert (await both.leaf.call(theirs, routes.WHO_AM_I, m.Empty())).name == "remote-tina-third"
        ann = await both.root.user("ann", ["access"])
        reply = await both.root.call(ann, routes.RENEW_USER, m.RenewUserRequest())
        assert [one.domain_name for one in reply.host_signers] == ["root"]
        assert await both.leaf.service.clusters.leaf.exchange("third") == ""
        for auth in (both.leaf, both.root):  # what it believes of its own is still followed
            request = m.RotateRequest(types=["user"], phase="init", mode="manual", grace_period=3600)
            await auth.call(await auth.admin(), routes.ROTATE, request)
            certs = len(await auth.service.client_authorities())
            await wait_until(partial(_believes, auth, certs))


async def test_a_fault_in_what_follows_the_authorities_ends_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusting, "PAUSE", 0.01)
    async with running_auth(tmp_path, cluster="one") as auth:
        calls: list[int] = []

        async def act() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("whatever")

        following = asyncio.create_task(trusting.whenever_authorities_change(auth.service.state, act))
        await wait_until(lambda: len(calls) > 1)
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
