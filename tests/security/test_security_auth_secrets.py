"""Secrets of users and authorities: only the administrator on an auth server reads or writes them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied
from teleport.testing.auth import RunningAuth, running_auth


def _document(**fields: object) -> m.Document:
    return m.Document(json.dumps(fields).encode())


async def _totp(auth: RunningAuth, name: str) -> str:
    found = await auth.call(await auth.admin(), routes.GET["user"], m.GetRequest(name=name, with_secrets=True))
    return str(msgspec.json.decode(bytes(found.item))["spec"]["local_auth"]["totp_key"])


async def test_an_editor_reads_nobodys_password_hash_or_second_factor(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        await auth.person("alice")
        editor = await auth.user("ed", ["editor"])
        with pytest.raises(AccessDenied):
            await auth.call(editor, routes.GET["user"], m.GetRequest(name="alice", with_secrets=True))
        with pytest.raises(AccessDenied):
            await auth.call(editor, routes.LIST["user"], m.ListRequest(with_secrets=True))
        seen = await auth.call(editor, routes.GET["user"], m.GetRequest(name="alice"))
        assert b"local_auth" not in bytes(seen.item)


async def test_an_editor_sets_nobodys_password_or_second_factor(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        secret = await auth.person("alice")
        editor = await auth.user("ed", ["editor"])
        for local_auth in ({"password_hash": "x"}, {"totp_key": "A" * 32}, {}):
            item = _document(
                kind="user",
                version="v2",
                metadata={"name": "alice"},
                spec={"roles": ["access"], "local_auth": local_auth},
            )
            with pytest.raises(AccessDenied):
                await auth.call(editor, routes.STORE["user"], m.StoreRequest(item=item, force=True))
        assert await _totp(auth, "alice") == secret


async def test_a_role_that_may_do_everything_still_gets_no_private_key_of_an_authority(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        role = _document(
            kind="role",
            version="v3",
            metadata={"name": "everything"},
            spec={"allow": {"rules": [{"resources": ["*"], "verbs": ["*"]}]}},
        )
        await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=role))
        root = await auth.user("root-like", ["everything"])
        await auth.call(root, routes.GET["cert_authority"], m.GetRequest(name="user"))
        with pytest.raises(AccessDenied):
            await auth.call(root, routes.GET["cert_authority"], m.GetRequest(name="user", with_secrets=True))
        with pytest.raises(AccessDenied):
            await auth.call(root, routes.LIST["cert_authority"], m.ListRequest(with_secrets=True))
