"""Rules with `where`: decided with the thing at hand, never without its facts, on every route."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied
from teleport.resources.user import User
from teleport.testing.auth import Credentials, RunningAuth, running_auth


async def _role(auth: RunningAuth, name: str, **conditions: object) -> None:
    document = {"kind": "role", "version": "v3", "metadata": {"name": name}, "spec": conditions}
    item = m.Document(json.dumps(document).encode())
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=item))


def _rule(kind: str, where: str = "") -> dict[str, object]:
    return {"resources": [kind], "verbs": ["list", "create", "read", "update", "delete"], "where": where}


async def _helpdesk(auth: RunningAuth, **conditions: object) -> Credentials:
    """Somebody who may change users by these conditions; `boss` and `joe` are there to be changed."""
    await _role(auth, "helpdesk", **conditions)
    await auth.person("boss", ["editor"])
    await auth.person("joe", ["access"])
    return await auth.user("helga", ["helpdesk"])


CONDITIONS = [
    {"allow": {"rules": [_rule("user", '!equals(resource.metadata.name, "boss")')]}},
    {
        "allow": {"rules": [_rule("user")]},
        "deny": {"rules": [_rule("user", 'equals(resource.metadata.name, "boss")')]},
    },
]


@pytest.mark.parametrize("conditions", CONDITIONS, ids=["allow where not", "deny where"])
async def test_resetting_and_updating_a_user_is_decided_about_that_user(
    tmp_path: Path, conditions: dict[str, object]
) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        helga = await _helpdesk(auth, **conditions)
        with pytest.raises(AccessDenied):
            await auth.call(helga, routes.RESET_USER, m.ResetUserRequest(name="boss"))
        with pytest.raises(AccessDenied):
            await auth.call(helga, routes.UPDATE_USER, m.UpdateUserRequest(name="boss", roles=["access"]))
        await auth.call(helga, routes.RESET_USER, m.ResetUserRequest(name="joe"))
        await auth.call(helga, routes.UPDATE_USER, m.UpdateUserRequest(name="joe", roles=["access"]))
        boss, _ = await auth.service.state.need("users/", "boss", User)
        assert boss.roles == ("editor",)


async def test_adding_a_user_is_decided_about_that_user(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        only = _rule("user", 'contains(resource.spec.roles, "access")')
        helga = await _helpdesk(auth, allow={"rules": [only]})
        await auth.call(helga, routes.ADD_USER, m.AddUserRequest(name="new", roles=["access"]))
        with pytest.raises(AccessDenied):
            await auth.call(helga, routes.ADD_USER, m.AddUserRequest(name="newer", roles=["editor"]))
        with pytest.raises(AccessDenied):
            await auth.call(helga, routes.UPDATE_USER, m.UpdateUserRequest(name="new", roles=["editor"]))


@pytest.mark.parametrize("conditions", CONDITIONS, ids=["allow where not", "deny where"])
async def test_a_list_leaves_out_what_a_condition_denies(tmp_path: Path, conditions: dict[str, object]) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        helga = await _helpdesk(auth, **conditions)
        page = await auth.call(helga, routes.LIST["user"], m.ListRequest())
        names = {json.loads(bytes(item))["metadata"]["name"] for item in page.items}
        assert names == {"joe", "helga"}
        with pytest.raises(AccessDenied):
            await auth.call(helga, routes.GET["user"], m.GetRequest(name="boss"))


async def test_an_empty_list_is_a_refusal_only_for_those_who_may_list_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        nobody = await auth.user("joe", ["access"])
        with pytest.raises(AccessDenied):
            await auth.call(nobody, routes.LIST["user"], m.ListRequest())
        editor = await auth.user("ed", ["editor"])
        assert (await auth.call(editor, routes.LIST["lock"], m.ListRequest())).items == []
