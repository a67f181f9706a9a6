"""Looking through nodes: who sees what is decided as for every list (T34), and thousands are searched at once."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp, Write
from teleport.errors import BadRequest
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.server import Server, ServerSpec
from teleport.store.records import NODES
from teleport.testing.auth import Credentials, RunningAuth, running_auth

PROMISED = 0.1  # seconds for a search among 10,000 nodes; tests allow five times that


def node(number: int, hostname: str = "", **labels: str) -> Server:
    return Server(
        metadata=Metadata(name=str(uuid.UUID(int=number)), labels=labels),
        spec=ServerSpec(hostname=hostname or f"host-{number:05}", addr=f"192.0.2.{number % 250}:3022"),
    )


async def store(auth: RunningAuth, nodes: list[Server]) -> None:
    for begin in range(0, len(nodes), 500):
        writes: list[Write] = [PutOp(NODES + one.name, to_json(one)) for one in nodes[begin : begin + 500]]
        await auth.service.state.commit(writes, events=[])


async def role(
    auth: RunningAuth,
    name: str,
    labels: dict[str, tuple[str, ...]],
    rules: tuple[Rule, ...] = (),
    deny: tuple[Rule, ...] = (),
) -> None:
    allow = Conditions(logins=("root",), node_labels=labels, rules=rules)
    made = Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, deny=Conditions(rules=deny)))
    request = m.StoreRequest(item=m.Document(to_json(made)))
    await auth.call(await auth.admin(), routes.STORE["role"], request)


async def found(auth: RunningAuth, who: Credentials, **asked: object) -> list[str]:
    page = await auth.call(who, routes.FIND_NODES, m.FindNodesRequest(**asked))  # type: ignore[arg-type]
    return [one.hostname for one in page.items]


async def test_nodes_are_searched_sorted_and_cut_into_pages(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await store(
            auth,
            [
                node(1, "web-1", env="prod", team="Blue"),
                node(2, "web-2", env="test"),
                node(3, "db-1", env="prod"),
                node(4, "Zebra"),
            ],
        )
        admin = await auth.admin()
        assert await found(auth, admin) == ["db-1", "web-1", "web-2", "Zebra"]
        assert await found(auth, admin, sort="hostname", descending=True) == ["Zebra", "web-2", "web-1", "db-1"]
        assert await found(auth, admin, sort="addr") == ["web-1", "web-2", "db-1", "Zebra"]
        assert await found(auth, admin, sort="label:env") == ["Zebra", "db-1", "web-1", "web-2"]
        assert await found(auth, admin, search="WEB") == ["web-1", "web-2"]
        assert await found(auth, admin, search="web team=blue") == ["web-1"]
        assert await found(auth, admin, search=str(uuid.UUID(int=3))) == ["db-1"]
        assert await found(auth, admin, search="192.0.2.4") == ["Zebra"]
        assert await found(auth, admin, labels=["env=prod"]) == ["db-1", "web-1"]
        assert await found(auth, admin, labels=["env=prod", "team=Blue"]) == ["web-1"]
        assert await found(auth, admin, labels=["env=pro"]) == [], "labels are whole, unlike words"
        page = await auth.call(admin, routes.FIND_NODES, m.FindNodesRequest(limit=3))
        assert (len(page.items), page.total, page.next_start) == (3, 4, 3)
        page = await auth.call(admin, routes.FIND_NODES, m.FindNodesRequest(limit=3, start=3))
        assert (len(page.items), page.total, page.next_start) == (1, 4, 0)
        for bad in (
            {"limit": 201},
            {"start": -1},
            {"sort": "spec"},
            {"labels": ["env"]},
            {"search": "x" * 300},
        ):
            try:
                await found(auth, admin, **bad)
            except BadRequest:
                continue
            pytest.fail(f"not refused: {bad}")


async def test_a_list_a_count_and_a_search_tell_nothing_of_hidden_nodes(tmp_path: Path) -> None:
    """T34: also not by the total, the paging, or a label that only a hidden node has."""
    async with running_auth(tmp_path) as auth:
        await store(auth, [node(1, "seen", env="test"), node(2, "hidden", env="prod", secret="plan")])
        await role(auth, "testers", {"env": ("test",)})
        await role(auth, "listing", {}, (Rule(resources=("node",), verbs=("list", "read")),))
        narrow = Rule(
            resources=("node",), verbs=("list", "read"), where='equals(resource.metadata.labels["env"], "prod")'
        )
        await role(auth, "narrow", {"*": ("*",)}, deny=(narrow,))
        tester, lister = await auth.user("tess", ["testers"]), await auth.user("lis", ["listing"])
        for search in ("", "hidden", "secret=plan", "env=prod"):
            page = await auth.call(tester, routes.FIND_NODES, m.FindNodesRequest(search=search))
            assert [one.hostname for one in page.items] == (["seen"] if not search else [])
            assert page.total == len(page.items)
            assert "hidden" not in str(msgspec.json.encode(page))
        assert await found(auth, lister) == ["hidden", "seen"], "who may list all sees all, and may enter none"
        page = await auth.call(lister, routes.FIND_NODES, m.FindNodesRequest())
        assert [one.logins for one in page.items] == [[], []]
        nora = await auth.user("nora", ["narrow"])
        assert await found(auth, nora) == ["seen"], "a rule that looks at single nodes"
        listed = await auth.call(nora, routes.LIST["node"], m.ListRequest())
        assert [msgspec.json.decode(item)["spec"]["hostname"] for item in listed.items] == ["seen"], "as every list"
        page = await auth.call(tester, routes.FIND_NODES, m.FindNodesRequest())
        assert page.items[0].logins == ["root"]


async def test_a_rule_looks_at_nodes_as_they_are_now(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        narrow = Rule(resources=("node",), verbs=("list",), where='equals(resource.metadata.labels["env"], "prod")')
        await role(auth, "narrow", {"*": ("*",)}, deny=(narrow,))
        nora = await auth.user("nora", ["narrow"])
        await store(auth, [node(1, "one", env="test"), node(2, "two", env="prod")])
        assert await found(auth, nora) == ["one"]
        await store(auth, [node(1, "one", env="prod"), node(2, "two", env="test"), node(3, "three", env="prod")])
        assert await found(auth, nora) == ["two"]
        assert await found(auth, nora, search="env=prod") == []
        await store(auth, [node(3, "three")])
        assert await found(auth, nora) == ["three", "two"]
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=node(2).name))
        assert await found(auth, nora) == ["three"]


async def test_a_page_stays_small_whatever_labels_say(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await store(auth, [node(number, note="x" * 4000) for number in range(1, 60)])
        admin = await auth.admin()
        seen, start = 0, 0
        while True:
            page = await auth.call(admin, routes.FIND_NODES, m.FindNodesRequest(limit=200, start=start))
            assert len(msgspec.json.encode(page)) < 100_000
            seen += len(page.items)
            if not page.next_start:
                break
            start = page.next_start
        assert seen == page.total == 59


async def test_ten_thousand_nodes_are_searched_in_time(tmp_path: Path) -> None:
    """Issue: search answers within 100 ms, a page is under 100 kB. What the loop needs for itself is looked at, as the
    best of some tries: other tests run beside."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        await store(
            auth,
            [node(number, env="prod" if number % 2 else "test", rack=f"r{number % 40}") for number in range(10_000)],
        )
        await role(auth, "prod", {"env": ("prod",)})
        user = await auth.user("pru", ["prod"])
        client = auth.async_client(user)
        best = float("inf")
        async with client:
            for number in range(5):
                begin = time.perf_counter()
                asked = m.FindNodesRequest(search=f"host-0{number} rack=r1", limit=100)
                page = await client.call(routes.FIND_NODES, asked)
                best = min(best, time.perf_counter() - begin)
                assert 0 < page.total < 5000
                assert len(msgspec.json.encode(page)) < 100_000
                await asyncio.sleep(0)
        print(f"10,000 nodes, best of 5: {best * 1000:.0f} ms")
        assert best < PROMISED * 5
