"""Running the cluster in a browser: the same calls, decisions and events as from tctl, for whoever may (T34, T54)."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.web.session_rig import Browser, Person, proxy_with_sessions
from tests.web.web_rig import RunningWeb

from teleport.api import messages as m
from teleport.api import routes
from teleport.backend.interface import PutOp
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, TrustedClusterSpec
from teleport.store import records
from teleport.testing.auth import CLUSTER, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock
from teleport.web.admin_roles import MOST, OF_ONE
from teleport.web.origin import CSRF_COOKIE, CSRF_HEADER, SAFE

SITE = f"/webapi/sites/{CLUSTER}"
OPS = """\
kind: role
version: v4
metadata:
  name: ops
spec:
  allow:
    logins: [deploy]
    node_labels:
      env: [prod, test]
"""


@dataclass
class Office:
    """A cluster with an administrator, an auditor, somebody without rights, and a stranger."""

    auth: RunningAuth
    web: RunningWeb
    admin: Browser
    auditor: Browser
    plain: Browser
    stranger: Browser


async def at_work(tmp_path: Path, work: Callable[[Office], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(running_auth(tmp_path, clock=present_clock()))
        people = [
            await Person.made(auth, name, roles)
            for name, roles in (("eve", ("editor",)), ("aud", ("auditor",)), ("ann", ("access",)))
        ]
        web = await stack.enter_async_context(proxy_with_sessions(auth, tmp_path))
        admin, auditor, plain = [await person.browser(web) for person in people]
        await work(Office(auth, web, admin, auditor, plain, Browser(web)))


def message(answer: Any) -> str:
    return str(answer.json["error"]["message"])


# who may

LOCK = {"target": {"user": "somebody"}}
TRUST = {
    "name": "root", "token": "t" * 32, "web_proxy_addr": "127.0.0.1:1",
    "role_map": [{"remote": "access", "local": ["access"]}],
}  # fmt: skip
# what somebody may do who is: (method, path, body, status of the administrator, of the auditor, of the plain user)
TABLE: list[tuple[str, str, Any, int, int, int]] = [
    ("GET", "/webapi/users", None, 200, 403, 403),
    ("POST", "/webapi/users", {"name": "new", "roles": ["access"]}, 200, 403, 403),
    ("PUT", "/webapi/users", {"name": "ann", "roles": ["access"], "revision": 1}, 412, 403, 403),
    ("POST", "/webapi/users/new/unlock", {}, 200, 403, 403),
    ("POST", "/webapi/users/password/token", {"name": "new"}, 200, 403, 403),
    ("DELETE", "/webapi/users/new", None, 200, 403, 403),
    ("GET", "/webapi/roles", None, 200, 403, 403),
    ("POST", "/webapi/roles", {"yaml": OPS}, 200, 403, 403),
    ("POST", "/webapi/roles/check", {"yaml": OPS, "compare": True}, 200, 403, 403),
    ("GET", "/webapi/roles/access", None, 200, 403, 403),
    ("PUT", "/webapi/roles/ops", {"yaml": OPS, "revision": 1}, 412, 403, 403),
    ("DELETE", "/webapi/roles/ops", None, 200, 403, 403),
    ("GET", f"{SITE}/tokens", None, 200, 403, 403),
    ("POST", f"{SITE}/tokens", {"roles": ["node"]}, 200, 403, 403),
    ("DELETE", f"{SITE}/tokens/00000000", None, 404, 403, 403),
    ("GET", f"{SITE}/locks", None, 200, 403, 403),
    ("POST", f"{SITE}/locks", LOCK, 200, 403, 403),
    ("DELETE", f"{SITE}/locks/none", None, 404, 403, 403),
    ("GET", "/webapi/trustedclusters", None, 200, 200, 200),  # others whose hosts they may reach
    ("POST", "/webapi/trustedclusters", TRUST, 502, 403, 403),  # nobody is there
    ("PUT", "/webapi/trustedclusters/none", {"enabled": False}, 404, 403, 403),
    ("DELETE", "/webapi/trustedclusters/none", None, 404, 403, 403),
    ("DELETE", f"{SITE}/remoteclusters/none", None, 404, 403, 403),
    ("GET", f"{SITE}/authorities", None, 200, 200, 200),  # what `tctl status` says; keys and hosts: see below
    (
        "GET",
        f"{SITE}/authorities/plan?type=user",
        None,
        403,
        403,
        403,
    ),  # no preset rotates; tests/web/test_web_rotation.py
    ("POST", f"{SITE}/authorities/rotate", {"types": ["user"], "phase": "init", "seen": "standby"}, 403, 403, 403),
    ("GET", f"{SITE}/diagnostics", None, 200, 200, 200),  # likewise
]


async def test_each_route_is_for_those_whom_auth_lets(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        for method, path, body, *wanted in TABLE:
            for who, window, status in zip(
                ("plain", "auditor", "admin"), (at.plain, at.auditor, at.admin), reversed(wanted), strict=True
            ):
                answer = await window.ask(method, path, json=body)
                assert answer.status == status, (who, method, path, answer.text)
            answer = await at.stranger.ask(method, path, json=body)
            assert answer.status == 401, ("stranger", method, path, answer.text)
        refused = sum(wanted[-1] == 403 for _, _, _, *wanted in TABLE)
        denied = await at.auth.events("api.denied", wait_for=refused, where=lambda event: event.get("user") == "ann")
        assert {"find_users", "add_user", "store_role", "add_token", "store_lock"} <= {
            event["route"] for event in denied
        }

    await at_work(tmp_path, work)


async def test_the_table_has_every_route_of_administration(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        assert at.web.service._admin is not None
        known: set[tuple[str, str]] = set()
        at.web.service._admin.add(lambda method, path, handler: known.add((method, path)), "")
        listed = {(method, path.partition("?")[0]) for method, path, *_ in TABLE}
        for method, path in sorted(known):
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))
            assert any(method == one and re.fullmatch(pattern, there) for one, there in listed), (method, path)
        assert len(known) == len(TABLE)
        page = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()
        for method, path in known:
            shown = re.sub(r"\{(\w+)\}", r":\1", path)
            assert f"| {method} `{shown}` |" in page, (method, shown)

    await at_work(tmp_path, work)


async def test_no_change_is_made_from_another_page_or_without_the_page_s_token(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        before = await at.admin.ask("GET", "/webapi/users")
        for method, path, body, *_ in TABLE:
            for what, sent in {
                "from elsewhere": {"Origin": "https://evil.example.com"},
                "without a bearer": {"Authorization": "", CSRF_HEADER: ""},
                "somebody else's bearer": {"Authorization": f"Bearer {at.plain.token}"},
            }.items():
                answer = await at.admin.ask(method, path, json=body, **sent)
                assert answer.status in (401, 403), (method, path, what, answer.text)
            if method not in SAFE:
                for what, sent in {
                    "no page's token": {CSRF_HEADER: ""},
                    "a wrong one": {CSRF_HEADER: "guessed"},
                    "no cookie of it": {"Cookie": f"{CSRF_COOKIE}=other"},
                }.items():
                    answer = await at.admin.ask(method, path, json=body, **sent)
                    assert answer.status in (401, 403), (method, path, what, answer.text)
        assert (await at.admin.ask("GET", "/webapi/users")).json == before.json

    await at_work(tmp_path, work)


async def test_another_cluster_s_things_are_not_shown_here(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        for method, path, body, *_ in TABLE:
            if SITE in path:
                answer = await at.admin.ask(method, path.replace(CLUSTER, "other.example.com"), json=body)
                assert answer.status == 404, (method, path)

    await at_work(tmp_path, work)


async def test_who_is_locked_runs_nothing_any_more(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        second = await (await Person.made(at.auth, "second", ("editor",))).browser(at.web)
        answer = await second.ask("POST", f"{SITE}/locks", json={"target": {"user": "eve"}})
        assert answer.status == 200, answer.text
        for method, path, body, *_ in TABLE:
            answer = await at.admin.ask(method, path, json=body)
            assert answer.status in (401, 403), (method, path, answer.text)

    await at_work(tmp_path, work)


# users


async def test_a_user_is_invited_changed_reset_and_removed(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        asked = {"name": "new", "roles": ["access"], "traits": {"logins": ["deploy"]}, "ttl": 600}
        made = await at.admin.ask("POST", "/webapi/users", json=asked)
        assert made.status == 200, made.text
        assert made.json["url"].startswith("https://")
        assert "/web/invite/" in made.json["url"]
        (event,) = await at.auth.events("user.create", where=lambda event: event["name"] == "new")
        assert (event["user"], event["addr"].partition(":")[0]) == ("eve", "127.0.0.1"), "audited with the browser"
        twice = await at.admin.ask("POST", "/webapi/users", json=asked)
        assert (twice.status, "already" in message(twice)) == (409, True)
        page = await at.admin.ask("GET", "/webapi/users?search=new")
        (new,) = page.json["items"]
        assert (new["roles"], new["traits"], new["link"], page.json["total"]) == (
            ["access"], {"logins": ["deploy"]}, "invite", 1,
        )  # fmt: skip
        change = {"name": "new", "roles": ["access", "auditor"], "traits": {}, "revision": new["revision"]}
        assert (await at.admin.ask("PUT", "/webapi/users", json=change)).status == 200
        late = await at.admin.ask("PUT", "/webapi/users", json={**change, "roles": ["access"]})
        assert (late.status, "changed by somebody else" in message(late)) == (412, True)
        without = await at.admin.ask("PUT", "/webapi/users", json={**change, "revision": 0})
        assert without.status == 400
        (new,) = (await at.admin.ask("GET", "/webapi/users?search=new")).json["items"]
        assert (new["roles"], new["traits"]) == (["access", "auditor"], {})
        link = await at.admin.ask("POST", "/webapi/users/password/token", json={"name": "new", "ttl": 60})
        assert "/web/reset/" in link.json["url"]
        assert (await at.admin.ask("DELETE", "/webapi/users/new")).status == 200
        assert (await at.admin.ask("DELETE", "/webapi/users/new")).status == 404

    await at_work(tmp_path, work)


async def test_pages_of_users_and_words_that_are_no_numbers(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        page = await at.admin.ask("GET", "/webapi/users?limit=2&sort=-name")
        assert [one["name"] for one in page.json["items"]] == ["eve", "aud"]
        assert (page.json["total"], page.json["next_start"]) == (3, 2)
        assert page.json["items"][0]["last_login"], "eve has logged in"
        for bad in ("limit=x", "start=-1", "limit=1000", "sort=spec", "limit=٣"):
            assert (await at.admin.ask("GET", f"/webapi/users?{bad}")).status == 400, bad

    await at_work(tmp_path, work)


async def test_the_last_administrator_stays_unless_it_is_confirmed(tmp_path: Path) -> None:
    """By the user, its roles, a role, and a lock: each as from tctl."""

    async def work(at: Office) -> None:
        (eve,) = (await at.admin.ask("GET", "/webapi/users?search=eve")).json["items"]
        editor = (await at.admin.ask("GET", "/webapi/roles/editor")).json
        weaker = {"kind": "role", "version": "v4", "metadata": {"name": "editor"}, "spec": {}}
        text = (await at.admin.ask("POST", "/webapi/roles/check", json={"document": weaker})).json["yaml"]
        for method, path, body in (
            ("DELETE", "/webapi/users/eve", None),
            ("PUT", "/webapi/users", {"name": "eve", "roles": ["access"], "revision": eve["revision"]}),
            ("PUT", "/webapi/roles/editor", {"yaml": text, "revision": editor["revision"]}),
            ("POST", f"{SITE}/locks", {"target": {"user": "eve"}}),
        ):
            answer = await at.admin.ask(method, path, json=body)
            assert answer.status == 400, (method, path, answer.text)
            assert "nobody would be left who may edit roles" in message(answer)
        assert (await at.admin.ask("GET", "/webapi/users")).status == 200, "all is as it was"
        assert (await at.admin.ask("DELETE", "/webapi/users/eve?confirm=true")).status == 200
        assert (await at.admin.ask("GET", "/webapi/users")).status == 401, "and the session is over"

    await at_work(tmp_path, work)


async def test_a_lockout_after_failed_logins_is_shown_and_ended(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        for _ in range(5):
            await Browser(at.web).log_in("aud", "000000", password="wrong")
            assert isinstance(at.auth.clock, FakeClock)
            at.web.clock.advance(120)
        at.admin.token = (await at.admin.ask("POST", "/webapi/sessions/renew", Authorization="")).json["token"]
        (aud,) = (await at.admin.ask("GET", "/webapi/users?search=aud")).json["items"]
        unlocked = await at.admin.ask("POST", "/webapi/users/aud/unlock")
        assert unlocked.json == {"was_locked": aud["locked_out_until"] is not None}
        (aud,) = (await at.admin.ask("GET", "/webapi/users?search=aud")).json["items"]
        assert aud["locked_out_until"] is None

    await at_work(tmp_path, work)


# roles


async def test_a_role_is_looked_over_with_the_place_of_each_mistake(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        async def check(**asked: Any) -> Any:
            answer = await at.admin.ask("POST", "/webapi/roles/check", json=asked)
            assert answer.status == 200, answer.text
            return answer.json

        bad = (
            OPS.replace("logins: [deploy]", "logins: [deploy]\n    loggins: [x]") + "  options:\n    max_sessions: -1\n"
        )
        found = await check(yaml=bad)
        assert found["ok"] is False
        assert [(one["line"], one["path"]) for one in found["problems"]] == [
            (8, "spec.allow.loggins"), (12, "spec.options.max_sessions"),
        ]  # fmt: skip
        assert all(one["allowed"] for one in found["problems"])
        assert (await check(yaml="a: [b"))["problems"][0]["line"] == 1
        assert (await check(yaml=""))["ok"] is False
        good = await check(yaml=OPS, compare=True)
        assert (good["ok"], good["name"], good["problems"], good["yaml"]) == (True, "ops", [], OPS)
        assert "Logs in as deploy on hosts with env = prod or test." in [one["text"] for one in good["sentences"]]
        assert good["touches"]["users"] == []
        assert good["document"]["spec"]["allow"]["node_labels"] == {"env": ["prod", "test"]}
        back = await check(document=good["document"])
        assert (back["ok"], back["document"]) == (True, good["document"])
        assert back["yaml"].startswith("kind: role\n")
        wrong = await check(document={"kind": "role", "version": "v4", "metadata": {"name": "x"}, "spec": {"alow": 1}})
        assert wrong["problems"][0]["path"] == "spec.alow"
        for other, why in {OPS + "---\n" + OPS.replace("ops", "b"): "2 resources", _USER: "a user"}.items():
            answer = await at.admin.ask("POST", "/webapi/roles/check", json={"yaml": other})
            assert (answer.status, why in message(answer)) == (400, True)
        root = await check(yaml=OPS.replace("deploy", "root").replace("env: [prod, test]", "'*': '*'"))
        assert [one["check"] for one in root["remarks"]] == ["root-everywhere"]
        later = await check(yaml=OPS + "    db_users: [x]\n")
        assert "not available yet" in later["notices"][0]["text"]

    await at_work(tmp_path, work)


_USER = "kind: user\nversion: v2\nmetadata:\n  name: x\n"


async def test_a_role_is_made_changed_and_removed_and_no_change_is_lost(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        made = await at.admin.ask("POST", "/webapi/roles", json={"yaml": OPS})
        assert made.status == 200, made.text
        (event,) = await at.auth.events("role.created", where=lambda event: event["name"] == "ops")
        assert event["user"] == "eve"
        assert (await at.admin.ask("POST", "/webapi/roles", json={"yaml": OPS})).status == 409
        one, other = [(await at.admin.ask("GET", "/webapi/roles/ops")).json for _ in range(2)]
        assert "deploy" in one["yaml"]
        change = {"yaml": one["yaml"].replace("deploy", "admin"), "revision": one["revision"]}
        assert (await at.admin.ask("PUT", "/webapi/roles/ops", json=change)).status == 200
        late = {"yaml": other["yaml"].replace("deploy", "root"), "revision": other["revision"]}
        answer = await at.admin.ask("PUT", "/webapi/roles/ops", json=late)
        assert (answer.status, "changed by somebody else" in message(answer)) == (412, True)
        stored = await at.auth.call(await at.auth.admin(), routes.GET["role"], m.GetRequest(name="ops"))
        role = from_json(bytes(stored.item))
        assert isinstance(role, Role)
        assert role.allow.logins == ("admin",)
        assert (await at.admin.ask("PUT", "/webapi/roles/other", json=change)).status == 400, "a role keeps its name"
        assert (await at.admin.ask("PUT", "/webapi/roles/ops", json={"yaml": OPS})).status == 400, "without revision"
        bad = await at.admin.ask("POST", "/webapi/roles", json={"yaml": "kind: role\n"})
        assert (bad.status, "role:1" in message(bad)) == (400, True)
        listed = (await at.admin.ask("GET", "/webapi/roles")).json["items"]
        assert {"access", "auditor", "editor", "ops"} <= {one["name"] for one in listed}
        held = await at.admin.ask("DELETE", "/webapi/roles/access")
        assert (held.status, "is held by ann" in message(held)) == (400, True)
        assert (await at.admin.ask("DELETE", "/webapi/roles/ops")).status == 200
        gone = await at.admin.ask("PUT", "/webapi/roles/ops", json=change)
        assert (gone.status, "removed" in message(gone)) == (412, True)
        assert (await at.admin.ask("GET", "/webapi/roles/ops")).status == 404

    await at_work(tmp_path, work)


async def test_a_role_as_large_as_auth_takes_one_is_edited(tmp_path: Path) -> None:
    """And a larger one refused, as is what somebody sends who changes no roles, and what is too deep to be read."""
    many = "".join(f"      - environment-{number:05}-of-many\n" for number in range(12_000))
    large = OPS.replace("      env: [prod, test]\n", f"      env:\n{many}")
    assert len(large) > 300_000

    async def work(at: Office) -> None:
        assert (await at.admin.ask("POST", "/webapi/roles", json={"yaml": large})).status == 200
        one = (await at.admin.ask("GET", "/webapi/roles/ops")).json
        found = (await at.admin.ask("POST", "/webapi/roles/check", json={"document": one["document"]})).json
        assert (found["ok"], found["document"]) == (True, one["document"])
        change = {"yaml": one["yaml"].replace("deploy", "admin"), "revision": one["revision"]}
        assert (await at.admin.ask("PUT", "/webapi/roles/ops", json=change)).status == 200

        async def sent(text: str) -> Any:
            body = io.BytesIO(json.dumps({"yaml": text}).encode())
            return await at.web.ask("POST", "/webapi/roles", data=body, headers=at.admin.headers())

        assert (await sent("#" * MOST)).status == 413
        above = large.replace(many, many.replace("-of-many", "-" + "y" * 100))
        refused = await sent(above.replace("ops", "more"))
        assert (refused.status, "the limit is" in message(refused)) == (400, True)
        for browser in (at.auditor, at.plain):
            assert (await browser.ask("POST", "/webapi/roles", json={"yaml": large})).status == 413
        deep: Any = "x"
        for _ in range(500):
            deep = {"x": deep}
        answer = await at.admin.ask("POST", "/webapi/roles/check", json={"document": deep})
        assert (answer.status, "deeper" in message(answer)) == (400, True)

    await at_work(tmp_path, work)


async def test_one_user_has_few_roles_looked_over_at_a_time(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        asked = [at.admin.ask("POST", "/webapi/roles/check", json={"yaml": OPS}) for _ in range(40)]
        statuses = Counter([answer.status for answer in await asyncio.gather(*asked)])
        assert set(statuses) <= {200, 429}
        assert statuses[200] >= OF_ONE

    await at_work(tmp_path, work)


# join tokens


async def test_a_token_comes_with_the_command_that_tctl_prints(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        asked = {"roles": ["node"], "ttl": 600, "labels": {"env": "prod"}, "single_use": True}
        made = await at.admin.ask("POST", f"{SITE}/tokens", json=asked)
        assert made.status == 200, made.text
        first, _, rest = made.json["command"].partition("\n")
        assert made.json["token"] in first
        status = await at.auth.call(await at.auth.admin(), routes.STATUS, m.Empty())
        words = shlex.split(rest.replace("\\\n", " "))
        port = at.auth.address[1]
        assert words == [
            "teleport", "start", "--roles=node", "--token=/etc/teleport.token", f"--ca-pin={status.ca_pins[0]}",
            f"--auth-server=127.0.0.1:{port}",
        ]  # fmt: skip
        assert made.json["token"] not in rest, "no process list shows it"
        assert "this host only" in made.json["warning"]
        listed = await at.admin.ask("GET", f"{SITE}/tokens")
        (token,) = listed.json["items"]
        assert (token["id"], token["roles"], token["labels"], token["single_use"], token["static"]) == (
            made.json["id"], ["node"], {"env": "prod"}, True, False,
        )  # fmt: skip
        assert made.json["token"] not in listed.text
        (event,) = await at.auth.events("token.create")
        assert event["user"] == "eve"
        assert (await at.admin.ask("DELETE", f"{SITE}/tokens/{token['id']}")).status == 200
        assert (await at.admin.ask("GET", f"{SITE}/tokens")).json["items"] == []
        bad: dict[str, Any]
        for bad in ({"roles": []}, {"roles": ["root"]}, {"roles": ["node"], "ttl": 1}, {"roles": ["node"], "ttl": 1e9}):
            assert (await at.admin.ask("POST", f"{SITE}/tokens", json=bad)).status == 400, bad

    await at_work(tmp_path, work)


async def test_a_token_for_another_cluster_comes_with_its_document(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        made = await at.admin.ask("POST", f"{SITE}/tokens", json={"roles": ["trusted_cluster"]})
        assert made.json["document"].startswith("kind: trusted_cluster\n")
        assert made.json["token"] in made.json["document"]
        assert "no cluster is named" in made.json["warning"]
        named = await at.admin.ask("POST", f"{SITE}/tokens", json={"roles": ["trusted_cluster"], "cluster": "leaf"})
        assert (named.json["cluster"], named.json["warning"]) == ("leaf", "")
        later = await at.admin.ask("POST", f"{SITE}/tokens", json={"roles": ["app"]})
        assert "no service" in later.json["warning"]
        kube = await at.admin.ask("POST", f"{SITE}/tokens", json={"roles": ["kube"]})
        assert "kubernetes_service:\n  enabled: yes\n" in kube.json["command"]

    await at_work(tmp_path, work)


# locks


async def test_a_lock_is_made_shown_and_lifted(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        asked = {"target": {"user": "ann"}, "message": "on holiday", "ttl": 3600}
        made = await at.admin.ask("POST", f"{SITE}/locks", json=asked)
        assert (made.status, made.json["warning"]) == (200, ""), made.text
        (shown,) = (await at.admin.ask("GET", f"{SITE}/locks")).json["items"]
        assert (shown["kind"], shown["target"], shown["message"], shown["in_force"]) == (
            "user", "ann", "on holiday", True,
        )  # fmt: skip
        (ann,) = (await at.admin.ask("GET", "/webapi/users?search=ann")).json["items"]
        assert ann["locks"] == [made.json["name"]]
        assert (await at.plain.ask("GET", "/webapi/user/status")).status == 401, "the session has ended"
        assert (await at.admin.ask("DELETE", f"{SITE}/locks/{made.json['name']}")).status == 200
        assert (await at.admin.ask("GET", f"{SITE}/locks")).json["items"] == []
        unknown = await at.admin.ask("POST", f"{SITE}/locks", json={"target": {"user": "nobody"}})
        assert "there is no user of this name" in unknown.json["warning"]
        past = "2020-01-01T00:00:00Z"
        bad: dict[str, Any]
        for bad in (
            {"target": {}},
            {"target": {"user": "a", "role": "b"}},
            {"target": {"cat": "a"}},
            {"target": {"user": ""}},
            {"target": {"user": "a"}, "ttl": -1},
            {"target": {"user": "a"}, "ttl": 1e300},
            {"target": {"user": "a"}, "expires": past},
            {"target": {"user": "a"}, "expires": "2999-01-01T00:00:00"},
            {"target": {"user": "a"}, "expires": past, "ttl": 60},
            {"target": {"serial": "x"}},
        ):
            assert (await at.admin.ask("POST", f"{SITE}/locks", json=bad)).status == 400, bad

    await at_work(tmp_path, work)


# clusters


async def test_other_clusters_are_shown_without_tokens_switched_and_removed(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        spec = TrustedClusterSpec(
            enabled=True, web_proxy_addr="127.0.0.1:1", role_map=(RoleMapping(remote="access", local=("access",)),)
        )
        trusted = TrustedCluster(metadata=Metadata(name="root.example.com"), spec=spec)
        remote = RemoteCluster(metadata=Metadata(name="leaf.example.com", labels={"env": "prod"}))
        await at.auth.service.state.commit(
            [
                PutOp(records.TRUSTED_CLUSTERS + trusted.name, to_json(trusted)),
                PutOp(records.REMOTE_CLUSTERS + remote.name, to_json(remote)),
            ],
            events=[],
        )
        shown = (await at.admin.ask("GET", "/webapi/trustedclusters")).json
        (one,) = shown["trusted"]
        assert (one["name"], one["enabled"], one["role_map"]) == (
            "root.example.com", True, [{"remote": "access", "local": ["access"]}],
        )  # fmt: skip
        assert "token" not in one
        assert (await at.plain.ask("GET", "/webapi/trustedclusters")).json["trusted"] is None
        off = await at.admin.ask("PUT", "/webapi/trustedclusters/root.example.com", json={"enabled": False})
        assert off.status == 200, off.text
        (one,) = (await at.admin.ask("GET", "/webapi/trustedclusters")).json["trusted"]
        assert one["enabled"] is False
        assert (await at.admin.ask("DELETE", "/webapi/trustedclusters/root.example.com")).status == 200
        assert (await at.admin.ask("DELETE", f"{SITE}/remoteclusters/leaf.example.com")).status == 200
        shown = (await at.admin.ask("GET", "/webapi/trustedclusters")).json
        assert shown == {"trusted": [], "remote": []}
        for bad in (
            {**TRUST, "role_map": []},
            {**TRUST, "role_map": [{"remote": 1}]},
            {**TRUST, "token": ""},
            {**TRUST, "web_proxy_addr": "not an address:"},
        ):
            assert (await at.admin.ask("POST", "/webapi/trustedclusters", json=bad)).status == 400, bad

    await at_work(tmp_path, work)


async def test_authorities_are_shown_with_pins_keys_and_rotation(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        shown = (await at.admin.ask("GET", f"{SITE}/authorities")).json
        status = await at.auth.call(await at.auth.admin(), routes.STATUS, m.Empty())
        assert shown["ca_pins"] == status.ca_pins
        assert [one["kind"] for one in shown["authorities"]] == ["host", "user", "openssh", "jwt"]
        host = shown["authorities"][0]
        assert (host["phase"], host["ca_pins"]) == ("standby", status.ca_pins)
        assert "PRIVATE" not in str(shown)
        plain = (await at.plain.ask("GET", f"{SITE}/authorities")).json
        assert plain["waiting"] is None, "who has not followed is for those who rotate"
        assert plain["authorities"][0]["fingerprints"] == host["fingerprints"], "public halves are for everybody"

    await at_work(tmp_path, work)


async def test_keys_and_who_has_not_followed_are_shown_to_those_who_may(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        rule = (
            "kind: role\nversion: v4\nmetadata:\n  name: keys\nspec:\n  allow:\n    rules:\n"
            "    - resources: [cert_authority]\n      verbs: [list, readnosecrets, rotate]\n"
        )
        assert (await at.admin.ask("POST", "/webapi/roles", json={"yaml": rule})).status == 200
        keeper = await (await Person.made(at.auth, "keeper", ("keys",))).browser(at.web)
        shown = (await keeper.ask("GET", f"{SITE}/authorities")).json
        assert shown["waiting"] == []
        keys = shown["authorities"][0]["fingerprints"]
        assert {(one["use"], one["state"]) for one in keys} == {("ssh", "signs"), ("tls", "signs")}
        assert all(one["fingerprint"].startswith("SHA256:") and one["algorithm"] for one in keys)

    await at_work(tmp_path, work)


async def test_diagnostics_say_how_the_services_are(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        shown = (await at.admin.ask("GET", f"{SITE}/diagnostics")).json
        assert (shown["cluster"], shown["version"]) == (CLUSTER, shown["proxy_version"])
        assert abs(shown["proxy_ahead"]) < 60
        assert shown["nodes"]["total"] == 0
        assert shown["auth_servers"] is not None
        assert shown["audit"] is not None
        assert (await at.plain.ask("GET", f"{SITE}/diagnostics")).json["audit"] is None

    await at_work(tmp_path, work)


async def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    async def work(at: Office) -> None:
        for method, path, *_ in TABLE:
            if method in ("POST", "PUT") and not path.endswith("/unlock"):
                for body in (b"", b"[]", b'{"yaml": 1}', b"\xff", b"{" * 1000):
                    answer = await at.web.ask(method, path, data=body, headers=at.admin.headers())
                    assert answer.status == 400, (method, path, body, answer.text)

    await at_work(tmp_path, work)


BOMB = "kind: role\na: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghijkl")
)


async def test_a_role_that_explodes_is_refused_at_once(tmp_path: Path) -> None:
    """T19: aliases of aliases, and brackets without end: said as a mistake of the text, in no time."""

    async def work(at: Office) -> None:
        for text in (BOMB, "a: " + "[" * 20_000, "a: " + "{a: " * 5_000, "- " * 20_000):
            async with asyncio.timeout(5.0):
                answer = await at.admin.ask("POST", "/webapi/roles/check", json={"yaml": text})
            assert answer.status == 400 or answer.json["ok"] is False, answer.text[:200]
        deep = b'{"yaml": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
        answer = await at.web.ask("POST", "/webapi/roles/check", data=deep, headers=at.admin.headers())
        assert answer.status == 400

    await at_work(tmp_path, work)
