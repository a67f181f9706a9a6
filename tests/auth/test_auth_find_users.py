"""Looking through users: who sees whom is decided as for every list (T34), and no secret is told. What is changed since
it was looked at is not overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, CompareFailed
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.user import User
from teleport.testing.auth import PASSWORD, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock


async def found(auth: RunningAuth, who: Credentials, **asked: object) -> list[str]:
    page = await auth.call(who, routes.FIND_USERS, m.FindUsersRequest(**asked))  # type: ignore[arg-type]
    return [one.name for one in page.items]


async def add_role(auth: RunningAuth, name: str, *rules: Rule, deny: tuple[Rule, ...] = ()) -> None:
    role = Role(metadata=Metadata(name=name), spec=RoleSpec(allow=Conditions(rules=rules), deny=Conditions(rules=deny)))
    request = m.StoreRequest(item=m.Document(to_json(role)))
    await auth.call(await auth.admin(), routes.STORE["role"], request)


async def log_in(auth: RunningAuth, name: str, code: str, password: str = PASSWORD) -> None:
    proxy = await auth.host(SystemRole.PROXY, name="proxy")
    request = m.LoginRequest(
        user=name, password=password, otp_token=code, public_key=generate_p256().public.line(), ttl=3600,
        client_addr="192.0.2.7:4711",
    )  # fmt: skip
    await auth.call(proxy, routes.LOGIN, request)


async def test_users_are_searched_sorted_and_cut_into_pages(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        await auth.user("Zoe", ["access"], traits={"logins": ["deploy"]})
        await auth.user("ann", ["editor"], traits={"team": ["blue", "green"]})
        await auth.user("bob", ["access", "auditor"])
        assert await found(auth, admin) == ["ann", "bob", "Zoe"]
        assert await found(auth, admin, descending=True) == ["Zoe", "bob", "ann"]
        assert await found(auth, admin, search="AUDIT") == ["bob"]
        assert await found(auth, admin, search="logins=deploy") == ["Zoe"]
        assert await found(auth, admin, search="team=blue editor") == ["ann"]
        page = await auth.call(admin, routes.FIND_USERS, m.FindUsersRequest(limit=2))
        assert ([one.name for one in page.items], page.total, page.next_start) == (["ann", "bob"], 3, 2)
        page = await auth.call(admin, routes.FIND_USERS, m.FindUsersRequest(limit=2, start=2))
        assert ([one.name for one in page.items], page.total, page.next_start) == (["Zoe"], 3, 0)
        for bad in ({"limit": -1}, {"limit": 201}, {"start": -1}, {"sort": "spec"}, {"search": "x" * 300}):
            try:
                await found(auth, admin, **bad)
            except BadRequest:
                continue
            pytest.fail(f"not refused: {bad}")


async def test_a_user_is_shown_with_logins_factors_links_and_locks_and_without_secrets(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        admin = await auth.admin()
        secret = await auth.person("ann", ["access"])
        await auth.user("new", ["access"])
        auth.clock.advance(30)
        await log_in(auth, "ann", auth.code(secret))
        when = auth.clock.now()
        lock = {
            "kind": "lock", "version": "v2", "metadata": {"name": "l1"}, "spec": {"target": {"role": "access"}},
        }  # fmt: skip
        await auth.call(admin, routes.STORE["lock"], m.StoreRequest(item=m.Document(json.dumps(lock).encode())))
        page = await auth.call(admin, routes.FIND_USERS, m.FindUsersRequest(sort="login", descending=True))
        ann, new = page.items
        assert (ann.name, ann.roles, ann.traits, ann.password) == ("ann", ["access"], {"logins": ["root"]}, True)
        assert ann.last_login == when
        assert [(one.name, one.kind, one.last_used) for one in ann.factors] == [("otp", "totp", when)]
        assert (ann.link, ann.locks, ann.locked_out_until) == ("", ["l1"], None)
        assert ann.created_by, "who made the user"
        assert (new.name, new.password, new.factors, new.last_login) == ("new", False, [], None)
        assert new.link == "invite"
        assert new.link_expires is not None
        assert secret not in msgspec.json.encode(page).decode()
        assert "argon2" not in msgspec.json.encode(page).decode()
        await add_role(auth, "users-only", Rule(resources=("user",), verbs=("list", "read")))
        reader = await auth.user("reader", ["users-only"])
        page = await auth.call(reader, routes.FIND_USERS, m.FindUsersRequest(search="ann"))
        assert [one.locks for one in page.items] == [[]], "locks are for those who may list locks"


async def test_a_list_and_a_count_tell_nothing_of_hidden_users(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        await auth.user("seen", ["access"], traits={"team": ["blue"]})
        await auth.user("hidden", ["access"], traits={"team": ["red"]})
        where = 'contains(resource.spec.traits["team"], "blue")'
        await add_role(auth, "blue-only", Rule(resources=("user",), verbs=("list", "read"), where=where))
        narrow = await auth.user("narrow", ["blue-only"])
        for search in ("", "hidden", "team=red"):
            page = await auth.call(narrow, routes.FIND_USERS, m.FindUsersRequest(search=search))
            names = [one.name for one in page.items]
            assert (names, page.total) == ((["seen"], 1) if not search else ([], 0)), search
        plain = await auth.user("plain", ["access"])
        with pytest.raises(AccessDenied):
            await found(auth, plain)


async def test_a_change_of_what_was_changed_since_is_refused(tmp_path: Path) -> None:
    """Two administrators look at the same role and the same user; the second to store is told so."""
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        await add_role(auth, "ops")
        await auth.user("ann", ["access"])
        (ann,) = (await auth.call(admin, routes.FIND_USERS, m.FindUsersRequest())).items
        first = m.UpdateUserRequest(
            name="ann", roles=["access", "ops"], traits={"logins": ["deploy"]}, revision=ann.revision
        )
        await auth.call(admin, routes.UPDATE_USER, first)
        with pytest.raises(CompareFailed, match="changed by somebody else in the meantime"):
            await auth.call(admin, routes.UPDATE_USER, msgspec.structs.replace(first, roles=["access"]))
        stored = from_json(bytes((await auth.call(admin, routes.GET["user"], m.GetRequest(name="ann"))).item))
        assert isinstance(stored, User)
        assert (stored.roles, dict(stored.traits)) == (("access", "ops"), {"logins": ("deploy",)})
        await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["access"]))
        stored = from_json(bytes((await auth.call(admin, routes.GET["user"], m.GetRequest(name="ann"))).item))
        assert isinstance(stored, User)
        assert dict(stored.traits) == {"logins": ("deploy",)}, "tctl users update leaves traits alone"
        bad = m.UpdateUserRequest(name="ann", roles=["access"], traits={"logins": ["not a login"]})
        with pytest.raises(BadRequest, match="logins"):
            await auth.call(admin, routes.UPDATE_USER, bad)

        looked = await auth.call(admin, routes.GET["role"], m.GetRequest(name="ops"))
        store = m.StoreRequest(item=looked.item, force=True, revision=looked.revision)
        await auth.call(admin, routes.STORE["role"], store)
        with pytest.raises(CompareFailed, match="changed by somebody else"):
            await auth.call(admin, routes.STORE["role"], store)
        await auth.call(admin, routes.REMOVE["role"], m.ExpelRequest(name="ops"))
        with pytest.raises(CompareFailed, match="removed in the meantime"):
            await auth.call(admin, routes.STORE["role"], store)


async def test_a_setting_and_a_trust_are_not_overwritten_either(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        kind = "cluster_networking_config"
        looked = await auth.call(admin, routes.GET[kind], m.GetRequest(name="cluster-networking-config"))
        assert looked.revision == 0, "the defaults are not stored"
        await auth.call(admin, routes.STORE[kind], m.StoreRequest(item=looked.item, force=True, confirm=True))
        looked = await auth.call(admin, routes.GET[kind], m.GetRequest(name="cluster-networking-config"))
        store = m.StoreRequest(item=looked.item, force=True, confirm=True, revision=looked.revision)
        await auth.call(admin, routes.STORE[kind], store)
        with pytest.raises(CompareFailed):
            await auth.call(admin, routes.STORE[kind], store)
