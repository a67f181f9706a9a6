"""No user is left with a role that is not there: what it denies would be allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import DeleteOp
from teleport.errors import BadRequest, TeleportError
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.resources.user import User, UserSpec
from teleport.store import records
from teleport.testing.auth import RunningAuth, running_auth


async def _with_role(auth: RunningAuth) -> None:
    item = m.Document(to_json(Role(metadata=Metadata(name="no-prod"))))
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=item, force=True))


async def _give(auth: RunningAuth, how: str) -> None:
    admin, roles = await auth.admin(), ("access", "no-prod")
    match how:
        case "added":
            await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="ann", roles=list(roles)))
        case "stored":
            item = m.Document(to_json(User(metadata=Metadata(name="ann"), spec=UserSpec(roles=roles))))
            await auth.call(admin, routes.STORE["user"], m.StoreRequest(item=item, force=True))
        case _:
            await auth.call(admin, routes.UPDATE_USER, m.UpdateUserRequest(name="bob", roles=list(roles)))


@pytest.mark.parametrize("how", ["added", "stored", "changed"])
@pytest.mark.parametrize("first", ["given", "removed"])
async def test_giving_a_role_and_removing_it_at_once_do_not_both_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, first: str
) -> None:
    """The one that comes between the other's look and its write wins."""
    async with running_auth(tmp_path) as auth:
        await auth.user("bob", ["access"])
        await _with_role(auth)
        admin, state = await auth.admin(), auth.service.state
        commit, done = state.commit, False

        async def between(*args: Any, **kwargs: Any) -> int:
            nonlocal done
            if not done:
                done = True
                if first == "given":
                    await _give(auth, how)
                else:
                    await auth.backend.commit([DeleteOp(records.ROLES + "no-prod")])
            return await commit(*args, **kwargs)

        monkeypatch.setattr(state, "commit", between)
        removing = auth.call(admin, routes.REMOVE["role"], m.ExpelRequest(name="no-prod"))
        late = removing if first == "given" else _give(auth, how)
        with pytest.raises(TeleportError) as caught:
            await late
        removing.close()
        assert not isinstance(caught.value, BadRequest)
        monkeypatch.setattr(state, "commit", commit)
        names = {"bob": await state.user("bob"), "ann": await state.user("ann")}
        held = {name for name, user in names.items() if user is not None and "no-prod" in user.roles}
        assert bool(await state.roles(["no-prod"])) is (first == "given")
        assert bool(held) is (first == "given")


async def test_a_role_that_nobody_has_is_removed(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        for _ in range(2):  # before and after the first user was given roles
            await _with_role(auth)
            await auth.call(await auth.admin(), routes.REMOVE["role"], m.ExpelRequest(name="no-prod"))
            await auth.user("bob", ["access"])
