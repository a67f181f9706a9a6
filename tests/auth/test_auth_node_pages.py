"""Lists of nodes: read at a glance where no rule looks at single ones, and the same as where one does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, BadRequest
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.server import CommandLabelState, Server, ServerSpec
from teleport.resources.values import Duration
from teleport.store.records import NODES
from teleport.testing.auth import ANONYMOUS, RunningAuth, running_auth

IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]


async def store(auth: RunningAuth) -> None:
    """Four nodes: with a label, with a dynamic one, lost, and one of neither."""
    now = auth.clock.now()
    specs = [
        ServerSpec(hostname="plain", heard=now),
        ServerSpec(
            hostname="dynamic",
            heard=now,
            cmd_labels={"env": CommandLabelState(period=Duration.of(seconds=60), command=("env",), result="prod")},
        ),
        ServerSpec(hostname="lost", heard=now - timedelta(hours=1)),
        ServerSpec(hostname="bare", heard=now),
    ]
    labels: list[dict[str, str]] = [{"env": "prod"}, {"env": "test"}, {"env": "prod"}, {}]
    nodes = [
        Server(metadata=Metadata(name=name, labels=label), spec=spec)
        for name, label, spec in zip(IDS, labels, specs, strict=True)
    ]
    await auth.backend.commit([PutOp(NODES + node.name, to_json(node)) for node in nodes])


async def add_role(auth: RunningAuth, name: str, allow: Conditions) -> None:
    role = Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow))
    item = m.Document(to_json(role))
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=item))


def shown(page: m.Page) -> list[str]:
    return [from_json(bytes(item)).name for item in page.items]


async def test_both_ways_of_listing_nodes_show_the_same(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await store(auth)
        reach = Conditions(logins=("root",), node_labels={"env": ("prod",)})
        every = Rule(resources=("node",), verbs=("list", "read"), where='contains(user.spec.roles, "one-by-one")')
        await add_role(auth, "prod", reach)
        await add_role(auth, "one-by-one", msgspec.structs.replace(reach, rules=(every,)))
        await add_role(auth, "all", Conditions(rules=(Rule(resources=("node",), verbs=("list", "read")),)))
        pages = [
            await auth.call(await auth.user(role, [role]), routes.LIST["node"], m.ListRequest())
            for role in ("prod", "one-by-one", "all")
        ]
        assert shown(pages[0]) == IDS[:3]
        assert pages[0].logins == [["root"]] * 3
        assert shown(pages[2]) == IDS
        by_itself = dict(zip(shown(pages[1]), pages[1].items, strict=True))
        for page in (pages[0], pages[2]):
            for name, item in zip(shown(page), page.items, strict=True):
                if name in by_itself:
                    assert msgspec.json.decode(item) == msgspec.json.decode(by_itself[name])
        lost = from_json(bytes(pages[0].items[2]))
        assert isinstance(lost, Server)
        assert lost.spec.silent_for == Duration.of(seconds=3600)
        admin = await auth.call(await auth.admin(), routes.LIST["node"], m.ListRequest(start_key=IDS[0], limit=2))
        assert (shown(admin), admin.next_key, admin.logins) == (IDS[1:3], IDS[2], [])


async def test_who_may_not_list_nodes_gets_none(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await store(auth)
        await add_role(auth, "prod", Conditions(logins=("root",), node_labels={"*": ("*",)}))
        role = Role(
            metadata=Metadata(name="blind"),
            spec=RoleSpec(deny=Conditions(rules=(Rule(resources=("node",), verbs=("readnosecrets",)),))),
        )
        item = m.Document(to_json(role))
        await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=item))
        user = await auth.user("ann", ["prod", "blind"])
        assert (await auth.call(user, routes.LIST["node"], m.ListRequest())).items == []
        with pytest.raises(AccessDenied):
            await auth.call(ANONYMOUS, routes.LIST["node"], m.ListRequest())


async def test_pages_and_their_keys_tell_of_nothing_that_is_hidden(tmp_path: Path) -> None:
    """Threat T34: neither names of what lies between, nor how much of it there is."""
    async with running_auth(tmp_path) as auth:
        await store(auth)
        names = ["ann", "bob", "carl", "dora", "emil"]
        for name in names:
            await auth.user(name, ["access"])
        rule = 'contains(user.spec.traits["team"], resource.metadata.name)'
        rules = (Rule(resources=("user",), verbs=("list", "read"), where=rule),)
        await add_role(auth, "some", Conditions(rules=rules))
        await add_role(auth, "prod", Conditions(logins=("root",), node_labels={"env": ("prod",)}))
        lead = await auth.user("lead", ["some", "prod"], traits={"team": ["bob", "dora"]})
        for kind, visible in (("user", ["bob", "dora"]), ("node", IDS[:3])):
            key, found, keys = "", [], []
            for _ in visible:
                page = await auth.call(lead, routes.LIST[kind], m.ListRequest(start_key=key, limit=1))
                found += shown(page)
                keys.append(key := page.next_key)
            assert found == visible
            assert keys == [*visible[:-1], ""]
        nobody = await auth.user("nobody", ["some"])
        with pytest.raises(AccessDenied):
            await auth.call(nobody, routes.LIST["user"], m.ListRequest(limit=1))
        page = await auth.call(nobody, routes.LIST["node"], m.ListRequest(limit=1))
        assert (page.items, page.next_key) == ([], "")


async def test_a_role_that_is_held_names_holders_to_those_only_who_may_list_users(tmp_path: Path) -> None:
    """Threat T34: who may remove roles tries each of them, and would have the list of users."""
    async with running_auth(tmp_path) as auth:
        await add_role(auth, "gardener", Conditions(rules=(Rule(resources=("role",), verbs=("*",)),)))
        await auth.user("ann", ["access"])
        gardener = await auth.user("gus", ["gardener"])
        for who, told in ((gardener, "is held by users$"), (await auth.admin(), "is held by ann$")):
            with pytest.raises(BadRequest, match=told) as refused:
                await auth.call(who, routes.REMOVE["role"], m.ExpelRequest(name="access"))
            assert ("ann" in str(refused.value)) == (who is not gardener)
