"""Rotations in a browser: for whoever may by a role of theirs, step by step, with the audit log's word for each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.web.session_rig import NODES, Browser, Person
from tests.web.test_web_admin import SITE, Office, at_work, message

from teleport.api import messages as m
from teleport.api import routes
from teleport.pki.keys import PublicKey
from teleport.pki.sshformat import parse_certificate_line
from teleport.testing.auth import CLUSTER

PLAN = f"{SITE}/authorities/plan"
ROTATE = f"{SITE}/authorities/rotate"
KEEPERS = """\
kind: role
version: v4
metadata:
  name: keepers
spec:
  allow:
    rules:
    - resources: [cert_authority]
      verbs: [list, readnosecrets, rotate]
"""


async def keeper_of(at: Office, rule: str = KEEPERS) -> Browser:
    """Somebody who may rotate, and nothing else."""
    made = await at.admin.ask("POST", "/webapi/roles", json={"yaml": rule})
    assert made.status == 200, made.text
    return await (await Person.made(at.auth, "keeper", ("keepers",))).browser(at.web)


def step(phase: str, seen: str, *types: str, **more: Any) -> dict[str, Any]:
    return {"types": list(types), "phase": phase, "seen": seen, **more}


async def phases(window: Browser) -> dict[str, str]:
    shown = await window.ask("GET", f"{SITE}/authorities")
    return {one["kind"]: one["phase"] for one in shown.json["authorities"]}


async def test_a_rotation_begins_goes_on_and_is_rolled_back(tmp_path: Path) -> None:
    """Each step is on record with the person and the address of the browser, and others log in all the time."""

    async def work(at: Office) -> None:
        keeper = await keeper_of(at)
        ann = await Person.made(at.auth, "bob", ("access",))
        for phase, seen in (
            ("init", "standby"), ("update_clients", "init"), ("rollback", "update_clients"), ("standby", "rollback"),
        ):  # fmt: skip
            answer = await keeper.ask("POST", ROTATE, json=step(phase, seen, "user", "jwt"))
            assert answer.status == 200, answer.text
            assert [one["phase"] for one in answer.json["authorities"]] == [phase, phase]
            await at.auth.follow_rotation()
            assert (await ann.browser(at.web)).token
        assert set((await phases(keeper)).values()) == {"standby"}
        events = await at.auth.events("authority.rotate", wait_for=8)
        assert {(one["user"], one["addr"].partition(":")[0]) for one in events} == {("keeper", "127.0.0.1")}
        user = [(one["previous_phase"], one["phase"]) for one in events if one["authority"] == "user"]
        assert user == [
            ("standby", "init"), ("init", "update_clients"), ("update_clients", "rollback"), ("rollback", "standby"),
        ]  # fmt: skip

    await at_work(tmp_path, work)


async def test_a_browser_s_session_outlives_the_keys_that_signed_its_certificate(tmp_path: Path) -> None:
    """Its certificates are made anew by the keys that sign now: once for each change, before the others end; also of
    a session that was not used between, and after a rollback."""

    async def work(at: Office) -> None:
        admin = await at.auth.admin()

        async def taken(*phases: str) -> bytes:
            """The key that signs after these steps, once the proxy knows of it and ann's session goes by it."""
            for phase in phases:
                request = m.RotateRequest(types=["user"], phase=phase, force=True)
                await at.auth.call(admin, routes.ROTATE, request)
            spec = (await at.auth.service.state.authority("user")).spec
            signs = PublicKey.parse(spec.active_keys.ssh[0].public_key).blob
            async with asyncio.timeout(10):
                while signer_of(at.plain) != signs:
                    await at.plain.ask("GET", NODES)
            assert (await at.plain.ask("GET", NODES)).status == 200
            return signs

        first = signer_of(at.plain)
        assert await taken("init") == first
        second = await taken("update_clients")
        assert second != first
        for _ in range(3):
            assert (await at.plain.ask("GET", NODES)).status == 200
        assert await taken("rollback") == first
        assert await taken("standby", "init", "update_clients", "update_servers", "standby") not in (first, second)
        made = await at.auth.events("cert.create", wait_for=4, where=lambda event: event["user"] == "ann")
        assert len(made) == 4, "of the login, and one for each change"

    await at_work(tmp_path, work)


def signer_of(window: Browser) -> bytes:
    return parse_certificate_line(window.session.certificate).signer


async def test_a_rotation_that_goes_by_itself_has_its_times(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        keeper = await keeper_of(at)
        asked = step("init", "standby", "jwt", mode="auto", grace_period=3600)
        (jwt,) = (await keeper.ask("POST", ROTATE, json=asked)).json["authorities"]
        assert (jwt["mode"], jwt["grace_period"]) == ("auto", 3600)
        assert list(jwt["schedule"]) == ["update_clients", "update_servers", "standby"]
        plan = (await keeper.ask("GET", f"{PLAN}?type=jwt")).json
        assert plan["ends"] == {"jwt": jwt["schedule"]["standby"]}

    await at_work(tmp_path, work)


async def test_the_plan_says_who_would_be_left_behind_and_no_more_than_a_page_of_it(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        keeper = await keeper_of(at)
        admin = await at.auth.admin()
        for _ in range(205):
            await at.auth.user("alice", ["access"])
        plan = (await keeper.ask("GET", f"{PLAN}?type=user&grace_period=60")).json
        assert [one["kind"] for one in plan["authorities"]] == ["user"]
        told = await at.auth.call(admin, routes.ROTATION_PLAN, m.RotationPlanRequest(types=["user"], grace_period=60))
        assert len(told.left_behind) > 200
        assert (len(plan["left_behind"]), plan["more"]) == (200, len(told.left_behind) - 200)
        first = plan["left_behind"][0]
        assert first["authority"] == "user"
        assert first["why"]
        assert first["remedy"]
        everything = (await keeper.ask("GET", PLAN)).json
        assert {one["kind"] for one in everything["authorities"]} == {"user", "host", "jwt", "openssh"}
        for bad in ("type=x", "grace_period=x", "grace_period=-1", "grace_period=999999999"):
            assert (await keeper.ask("GET", f"{PLAN}?{bad}")).status == 400, bad

    await at_work(tmp_path, work)


async def test_a_step_that_was_seen_otherwise_or_says_too_little_is_not_taken(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        keeper = await keeper_of(at)
        for body, status, why in (
            (step("init", "rollback", "user"), 412, "by now"),
            (step("update_clients", "standby", "user"), 400, "standby"),
            (step("init", "standby"), 400, "names its authorities"),
            (step("init", "", "user"), 400, "names its authorities"),
            (step("init", "standby", "db"), 400, "authorities are"),
            (step("init", "standby", "user", mode="quick"), 400, "no mode"),
            (step("init", "standby", "user", grace_period=-1), 400, "grace period"),
            ({"types": ["user"]}, 400, "cannot be read"),
            ({**step("init", "standby", "user"), "forced": True}, 400, "cannot be read"),
        ):
            answer = await keeper.ask("POST", ROTATE, json=body)
            assert (answer.status, why in message(answer)) == (status, True), (body, answer.text)
        assert set((await phases(keeper)).values()) == {"standby"}
        assert not await at.auth.events("authority.rotate", wait_for=0)

    await at_work(tmp_path, work)


async def test_whoever_may_rotate_is_held_to_the_page_and_to_their_rule(tmp_path: Path) -> None:
    """Without the page's token, from elsewhere, for another cluster, beyond what the rule says, and when locked."""
    rule = KEEPERS.replace("rotate]\n", 'rotate]\n      where: equals(system.catype(), "user")\n')

    async def work(at: Office) -> None:
        keeper = await keeper_of(at, rule)
        body = step("init", "standby", "user")
        for what, sent in {
            "no page's token": {"X-CSRF-Token": ""},
            "a wrong one": {"X-CSRF-Token": "guessed"},
            "from elsewhere": {"Origin": "https://evil.example.com"},
            "without a bearer": {"Authorization": ""},
        }.items():
            answer = await keeper.ask("POST", ROTATE, json=body, **sent)
            assert answer.status in (401, 403), (what, answer.text)
        elsewhere = ROTATE.replace(CLUSTER, "other.example.com")
        assert (await keeper.ask("POST", elsewhere, json=body)).status == 404
        for types in (("host",), ("user", "host")):
            assert (await keeper.ask("POST", ROTATE, json=step("init", "standby", *types))).status == 403
            query = "&".join(f"type={one}" for one in types)
            assert (await keeper.ask("GET", f"{PLAN}?{query}")).status == 403
        assert set((await phases(keeper)).values()) == {"standby"}
        assert (await keeper.ask("GET", f"{PLAN}?type=user")).status == 200
        lock = await at.admin.ask("POST", f"{SITE}/locks", json={"target": {"user": "keeper"}})
        assert lock.status == 200, lock.text
        for answer in (
            await keeper.ask("POST", ROTATE, json=body),
            await keeper.ask("GET", f"{PLAN}?type=user"),
        ):
            assert answer.status in (401, 403)
        assert not await at.auth.events("authority.rotate", wait_for=0)

    await at_work(tmp_path, work)
