"""PostgreSQL first in `audit_events_uri`: searches go there, proofs to auth's own log, and who may ask is as before."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.test_tctl_commands import Admin
from tests.web.session_rig import Person, proxy_with_sessions

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.postgresql.settings import parse
from teleport.copies.settings import PostgresqlCopy
from teleport.errors import AccessDenied
from teleport.testing import postgresql
from teleport.testing.auth import CLUSTER, running_auth

ROLE = """
kind: role
version: v4
metadata: {name: logs-in}
spec: {allow: {logins: [root], node_labels: {env: test}}}
"""


def names(out: str) -> list[str]:
    return sorted(json.loads(line)["name"] for line in out.splitlines())


async def test_searches_go_to_the_database_and_to_the_log_while_it_is_down(tmp_path: Path) -> None:
    """A row taken out of the database shows who answered; the proof does not look there."""
    if postgresql.programs() is None:
        pytest.skip(postgresql.MISSING)
    with postgresql.PostgresqlServer() as database:
        copy = PostgresqlCopy(replace(parse(database.url()), schema="audit"))
        async with running_auth(tmp_path, copies=[copy], searched=copy) as auth:
            admin = Admin(auth, str(await auth.local_config()))
            await admin.ok("users", "add", "bob", "--roles=access")
            await admin.ok("users", "add", "eve", "--roles=access")
            await auth.events("user.create", wait_for=2)
            listing = ("audit", "ls", "--type=user.create", "--format=json")
            ran = (await admin(*listing)).ok()
            assert (names(ran.out), "not searched" in ran.err) == (["bob", "eve"], False)

            await asyncio.to_thread(database.sql, 'DELETE FROM audit.events WHERE line LIKE \'%"name":"eve"%\'')
            assert names((await admin(*listing)).ok().out) == ["bob"]
            await admin.ok("audit", "verify")

            await admin.ok("create", stdin=ROLE.encode())
            denied = await auth.user("mallory", roles=("logs-in",))
            with pytest.raises(AccessDenied):
                await auth.call(denied, routes.SEARCH_EVENTS, m.SearchEventsRequest())

            await asyncio.to_thread(database.kill)
            ran = (await admin(*listing)).ok()
            assert names(ran.out) == ["bob", "eve", "mallory"]
            assert f"{copy.name} is not searched: " in ran.err
            await admin.ok("audit", "verify")
            folder = tmp_path / "web"
            folder.mkdir()
            web = proxy_with_sessions(auth, folder)
            async with web as proxy:
                ann = await (await Person.made(auth, "ann", ("auditor",))).browser(proxy)
                found = (await ann.ask("GET", f"/webapi/sites/{CLUSTER}/events/search")).json
                assert found["notice"].startswith(f"{copy.name} is not searched: ")
                assert found["events"]
            await asyncio.to_thread(database.start)
            async with asyncio.timeout(60):
                while "not searched" in (ran := (await admin(*listing)).ok()).err:
                    continue
            assert names(ran.out) == ["ann", "bob", "mallory"]
