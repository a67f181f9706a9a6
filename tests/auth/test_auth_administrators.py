"""The last user who can edit roles is not removed, locked or stripped of that without a word more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest, CompareFailed, TeleportError
from teleport.resources.codec import Resource, from_json, to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.presets import editor
from teleport.resources.role import Conditions, Role, RoleSpec, Rule
from teleport.resources.user import User, UserSpec
from teleport.testing.auth import RunningAuth, running_auth

Act = Callable[[RunningAuth, bool], Awaitable[object]]


@asynccontextmanager
async def _cluster(tmp_path: Path, *editors: str, sqlite: bool = False) -> AsyncIterator[RunningAuth]:
    async with running_auth(tmp_path, sqlite=sqlite) as auth:
        for name in editors:
            await _add(auth, name, "editor")
        await _add(auth, "plain", "access")
        yield auth


async def _add(auth: RunningAuth, name: str, *roles: str) -> None:
    await auth.call(await auth.admin(), routes.ADD_USER, m.AddUserRequest(name=name, roles=list(roles)))


async def _store(auth: RunningAuth, resource: Resource, confirm: bool) -> object:
    request = m.StoreRequest(item=m.Document(to_json(resource)), force=True, confirm=confirm)
    return await auth.call(await auth.admin(), routes.STORE[resource.kind], request)


async def _removed(auth: RunningAuth, force: bool) -> object:
    return await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="eve", force=force))


async def _updated(auth: RunningAuth, force: bool) -> object:
    request = m.UpdateUserRequest(name="eve", roles=["access"], force=force)
    return await auth.call(await auth.admin(), routes.UPDATE_USER, request)


async def _replaced(auth: RunningAuth, confirm: bool) -> object:
    return await _store(auth, User(metadata=Metadata(name="eve"), spec=UserSpec(roles=("access",))), confirm)


async def _expiring(auth: RunningAuth, confirm: bool) -> object:
    metadata = Metadata(name="eve", expires=auth.clock.now())
    return await _store(auth, User(metadata=metadata, spec=UserSpec(roles=("editor",))), confirm)


async def _locked(auth: RunningAuth, confirm: bool) -> object:
    return await _store(auth, _lock(user="eve"), confirm)


async def _role_locked(auth: RunningAuth, confirm: bool) -> object:
    return await _store(auth, _lock(role="editor"), confirm)


async def _role_emptied(auth: RunningAuth, confirm: bool) -> object:
    return await _store(auth, Role(metadata=Metadata(name="editor")), confirm)


async def _role_denies(auth: RunningAuth, confirm: bool) -> object:
    deny = Conditions(rules=(Rule(resources=("*",), verbs=("update",)),))
    preset = editor()
    spec = RoleSpec(options=preset.spec.options, allow=preset.spec.allow, deny=deny)
    return await _store(auth, Role(version=preset.version, metadata=preset.metadata, spec=spec), confirm)


def _lock(**target: str) -> Lock:
    return Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(**target)))


EVERY = [_removed, _updated, _replaced, _expiring, _locked, _role_locked, _role_emptied, _role_denies]


@pytest.mark.parametrize("act", EVERY)
async def test_the_last_one_is_asked_about_and_goes_when_that_is_confirmed(tmp_path: Path, act: Act) -> None:
    async with _cluster(tmp_path, "eve") as auth:
        before = await auth.backend.range("users/")
        with pytest.raises(BadRequest, match="nobody would be left who may edit roles") as refused:
            await act(auth, False)
        assert "--force" in refused.value.hint
        assert await auth.backend.range("users/") == before
        assert await auth.backend.range("locks/") == []
        await act(auth, True)


@pytest.mark.parametrize("act", [_removed, _updated, _locked, _expiring])
async def test_one_of_two_goes_without_a_question(tmp_path: Path, act: Act) -> None:
    async with _cluster(tmp_path, "eve", "eva") as auth:
        await act(auth, False)


async def test_others_are_removed_and_changed_freely(tmp_path: Path) -> None:
    async with _cluster(tmp_path, "eve") as auth:
        admin = await auth.admin()
        await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="plain", roles=["auditor"]))
        await auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name="plain"))
        await _store(auth, _lock(login="root"), False)
        await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="eve", roles=["editor", "access"]))


async def test_one_who_is_locked_does_not_count(tmp_path: Path) -> None:
    async with _cluster(tmp_path, "eve", "eva") as auth:
        await _store(auth, _lock(user="eva"), False)
        with pytest.raises(BadRequest, match="nobody would be left"):
            await _removed(auth, False)


async def test_a_cluster_without_any_is_not_asked_about(tmp_path: Path) -> None:
    async with _cluster(tmp_path) as auth:
        await _store(auth, _lock(role="editor"), False)
        await _role_emptied(auth, False)


async def test_two_who_remove_each_other_do_not_both_go(tmp_path: Path) -> None:
    """Both changes rest on somebody being left, so they depend on one another (threat T32)."""
    async with _cluster(tmp_path, "eve", "eva", sqlite=True) as auth:
        admin = await auth.admin()
        for _ in range(5):
            results = await asyncio.gather(
                *(auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name=name)) for name in ("eve", "eva")),
                return_exceptions=True,
            )
            left = [from_json(item.value).metadata.name for item in await auth.backend.range("users/")]
            assert {"eve", "eva"} & set(left), results
            assert all(isinstance(one, m.Done | BadRequest | CompareFailed) for one in results), results
            for name in {"eve", "eva"} - set(left):
                await _add(auth, name, "editor")


async def test_a_role_that_is_about_other_things_is_stored_freely(tmp_path: Path) -> None:
    async with _cluster(tmp_path, "eve") as auth:
        rule = Rule(resources=("event",), verbs=("list",))
        await _store(
            auth, Role(metadata=Metadata(name="access"), spec=RoleSpec(allow=Conditions(rules=(rule,)))), False
        )
        with pytest.raises(TeleportError):
            await _role_emptied(auth, False)
