"""Events, running sessions and numbers in browsers: each sees what it may see with tctl, and strangers nothing."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from tests.security.test_security_recordings import RecordingHost, _recorded
from tests.web.session_rig import CSRF, Browser, Person, lock, proxy_with_sessions, until
from tests.web.web_rig import RunningWeb

from teleport.audit.events import Exec, SessionStart
from teleport.clock import rfc3339
from teleport.testing.auth import CLUSTER, RunningAuth, present_clock, running_auth
from teleport.web import evidence_routes
from teleport.web.origin import CSRF_COOKIE
from teleport.web.sessions import COOKIE

SITE = f"/webapi/sites/{CLUSTER}"
SID = "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40"
ROUTES = [
    f"{SITE}/events/search",
    f"{SITE}/events/export",
    f"{SITE}/dashboard",
    f"{SITE}/sessions",
    f"{SITE}/namespaces/default/sessions",
    f"{SITE}/sessions/{SID}",
    f"{SITE}/sessions/{SID}/events",
    f"{SITE}/sessions/{SID}/stream",
    f"{SITE}/recordings",
    f"{SITE}/recordings/search?text=x",
    f"{SITE}/recordings/{SID}/cast",
    f"{SITE}/recordings/{SID}/html",
    f"{SITE}/recordings/{SID}/text",
]


async def with_people(
    tmp_path: Path, work: Callable[[RunningAuth, RunningWeb, dict[str, Browser]], Awaitable[None]], **people: str
) -> None:
    """Runs `work` with browsers of people with a role each."""
    async with AsyncExitStack() as stack:
        auth = await stack.enter_async_context(running_auth(tmp_path, clock=present_clock()))
        web = await stack.enter_async_context(proxy_with_sessions(auth, tmp_path))
        windows = {name: await (await Person.made(auth, name, (role,))).browser(web) for name, role in people.items()}
        await work(auth, web, windows)


async def test_strangers_get_nothing(tmp_path: Path) -> None:
    """Neither who has only a cookie, a token, or another site's page, nor who asks about another cluster."""

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        ann, bob = windows["ann"], windows["bob"]
        for path in ROUTES:
            for what, sent in {
                "no token": {"Authorization": ""},
                "no cookie": {"Cookie": f"{CSRF_COOKIE}={CSRF}"},
                "somebody else's token": {"Authorization": f"Bearer {bob.token}"},
                "another secret": {"Cookie": f"{COOKIE}={ann.session.id}.{'A' * 43}"},
            }.items():
                answer = await ann.ask("GET", path, **sent)
                assert answer.status == 401, (path, what, answer.text)
            answer = await ann.ask("GET", path, Origin="https://evil.example.com")
            assert answer.status == 403, (path, answer.text)
            answer = await ann.ask("GET", path.replace(CLUSTER, "other.example.com"))
            assert answer.status == 404, (path, answer.text)
            for method in ("POST", "PUT", "DELETE"):
                assert (await ann.ask(method, path, json={})).status == 405, (method, path)
        await lock(auth, user="ann")
        await until(lambda: ann.cookies[COOKIE].partition(".")[0] not in web.service.sessions._sessions, "the lock")  # type: ignore[union-attr]
        for path in ROUTES:
            assert (await ann.ask("GET", path)).status == 401, path

    await with_people(tmp_path, work, ann="auditor", bob="auditor")


async def test_only_who_may_list_events_gets_them(tmp_path: Path) -> None:
    """As with tctl: the roles `auditor` and `access` read events, `editor` alone does not."""

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        paths = (*ROUTES[:3], f"{SITE}/sessions/{SID}/events")
        for path in paths:
            assert (await windows["eve"].ask("GET", path)).status == 403, path
            assert (await windows["ann"].ask("GET", path)).status == 200, path
            assert (await windows["joe"].ask("GET", path)).status == 200, path

    await with_people(tmp_path, work, ann="auditor", joe="access", eve="editor")


async def test_events_are_searched_and_paged(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        ann = windows["ann"]
        host = await RecordingHost.join(auth)
        await host.tell(Exec, SID, user="joe", login="root", command="cat /etc/Motd")
        web.clock.advance(1)
        await host.tell(Exec, SID, user="joe", login="root", command="uptime")
        await auth.events("exec", wait_for=2)

        async def found(query: str) -> list[str]:
            answer = await ann.ask("GET", f"{SITE}/events/search?{query}")
            assert answer.status == 200, answer.text
            return [event.get("command", event["event"]) for event in answer.json["events"]]

        assert await found("include=exec&order=asc") == ["cat /etc/Motd", "uptime"]
        assert set(await found("include=exec;user.login")) == {"cat /etc/Motd", "uptime", "user.login"}
        assert await found("text=motd") == ["cat /etc/Motd"]
        assert await found("user=joe&include=exec&text=nothing") == []
        assert len(await found(f"sid={SID}")) == len(await found(f"host={host.host_id}&include=exec")) == 2
        now = auth.clock.now()
        assert await found(f"include=exec&from={rfc3339(now + timedelta(hours=1))}") == []
        assert await found(f"include=exec&to={rfc3339(now - timedelta(hours=1))}") == []
        first = await ann.ask("GET", f"{SITE}/events/search?include=exec&limit=1&order=asc")
        rest = await ann.ask("GET", f"{SITE}/events/search?include=exec&order=asc&startKey={first.json['startKey']}")
        commands = [event["command"] for event in first.json["events"] + rest.json["events"]]
        assert (commands, rest.json["startKey"]) == (["cat /etc/Motd", "uptime"], "")
        of_session = await ann.ask("GET", f"{SITE}/sessions/{SID}/events")
        assert [event["command"] for event in of_session.json["events"]] == ["cat /etc/Motd", "uptime"]
        for bad in (
            "limit=0", "limit=501", "limit=x", "limit=-1", "from=yesterday", "to=2026-01-01T00:00:00", "order=x",
            f"text={'x' * 201}", f"user={'x' * 201}", f"include={'x' * 65}", f"include={'x,' * 51}", "startKey=x",
        ):  # fmt: skip
            answer = await ann.ask("GET", f"{SITE}/events/search?{bad}")
            assert answer.status == 400, (bad, answer.text)

    await with_people(tmp_path, work, ann="auditor")


async def test_an_export_has_every_event_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many pages as it takes, as an attachment that is no page of ours."""
    monkeypatch.setattr(evidence_routes, "EXPORTED", 2)

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        host = await RecordingHost.join(auth)
        for number in range(5):
            await host.tell(Exec, SID, user="joe", login="root", command=f"echo {number}")
        events = await auth.events("exec", wait_for=5)
        answer = await windows["ann"].ask("GET", f"{SITE}/events/export?include=exec")
        assert answer.status == 200
        exported = [json.loads(line) for line in answer.text.splitlines()]
        assert sorted(exported, key=lambda event: event["seq"]) == sorted(events, key=lambda event: event["seq"])
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="events-')
        assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
        assert (await windows["ann"].ask("GET", f"{SITE}/events/export?format=xml")).status == 400

    await with_people(tmp_path, work, ann="auditor")


async def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """Whatever people and hosts are called: a spreadsheet that opens the file computes nothing."""

    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        host = await RecordingHost.join(auth)
        strange = ["=cmd|' /C calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", 'a"b,c', "\r\n=1", "\uff1d1"]
        for name in strange:
            await host.tell(SessionStart, str(uuid.uuid4()), user=name, login="root", server_hostname="=2")
        await auth.events("session.start", wait_for=len(strange))
        answer = await windows["ann"].ask("GET", f"{SITE}/events/export?format=csv&include=session.start")
        head, *rows = csv.reader(io.StringIO(answer.text))
        assert tuple(head) == evidence_routes.COLUMNS
        assert len(rows) == len(strange)
        for row in rows:
            assert not any(cell.lstrip().startswith(("=", "\uff1d", "+", "-", "@", "\t", "\r")) for cell in row), row
        assert {row[head.index("user")] for row in rows} == {
            "'=cmd|' /C calc'!A1", "'+1", "'-1", "'@SUM(A1)", "\\t=1", "'  =1", 'a"b,c', "\\r\\n=1", "'\uff1d1",
        }  # fmt: skip

    await with_people(tmp_path, work, ann="auditor")


async def test_running_sessions_are_those_of_ones_own_unless_a_rule_says_more(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        host = await RecordingHost.join(auth)
        await host.track(SID, user="joe")

        async def seen(name: str, path: str = f"{SITE}/sessions") -> list[str]:
            answer = await windows[name].ask("GET", path)
            assert answer.status == 200, answer.text
            return [one["sid"] for one in answer.json["sessions"]]

        assert await seen("joe") == await seen("ann") == [SID]
        assert await seen("joe", f"{SITE}/namespaces/default/sessions") == [SID]
        assert await seen("joe", f"{SITE}/sessions/{SID}") == [SID]
        assert await seen("bob") == await seen("eve") == []
        assert (await windows["bob"].ask("GET", f"{SITE}/sessions/{SID}")).status == 404
        assert (await windows["bob"].ask("GET", f"{SITE}/sessions/{'x' * 101}")).status == 404

    await with_people(tmp_path, work, joe="access", ann="auditor", bob="access", eve="editor")


async def test_the_dashboard_has_numbers_by_the_hour(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        ann = windows["ann"]
        host = await RecordingHost.join(auth)
        await host.tell(SessionStart, SID, user="joe", login="root")
        await auth.events("session.start", wait_for=1)
        wrong = Browser(web)
        assert (await wrong.log_in("ann", "000000")).status == 403
        await auth.events("user.login", wait_for=2)
        answer = await ann.ask("GET", f"{SITE}/dashboard?hours=168")
        assert answer.status == 200, answer.text
        totals = {
            name: sum(hour[name] for hour in answer.json["hours"]) for name in ("sessions", "logins", "failed_logins")
        }
        assert totals == {"sessions": 1, "logins": 1, "failed_logins": 1}
        assert answer.json["complete"]
        assert answer.json["start"] < answer.json["hours"][0]["hour"] < answer.json["end"]
        for bad in ("hours=0", "hours=745", "hours=x"):
            assert (await ann.ask("GET", f"{SITE}/dashboard?{bad}")).status == 400

    await with_people(tmp_path, work, ann="auditor")


async def test_recordings_are_listed_and_searched_for_who_may(tmp_path: Path) -> None:
    async def work(auth: RunningAuth, web: RunningWeb, windows: dict[str, Browser]) -> None:
        joes = await _recorded(auth, "joe", text=b"the needle\n")
        bosses = await _recorded(auth, "boss", text=b"my needle\n")

        async def listed(name: str, query: str = "") -> list[str]:
            answer = await windows[name].ask("GET", f"{SITE}/recordings{query}")
            assert answer.status == 200, answer.text
            return [one["sid"] for one in answer.json["items"]]

        assert set(await listed("ann")) == {joes, bosses}
        assert await listed("ann", "?user=joe") == await listed("joe") == [joes]
        assert await listed("ann", "?kind=shell") == await listed("bob") == []
        assert await listed("joe", "/search?text=needle") == [joes]
        assert set(await listed("ann", "/search?text=needle")) == {joes, bosses}
        assert await listed("bob", "/search?text=needle") == []
        for path in (f"{SITE}/recordings", f"{SITE}/recordings/search?text=needle"):
            answer = await windows["eve"].ask("GET", path)
            assert answer.status == 403, (path, answer.text)
            assert joes not in answer.text
        for bad in ("?limit=0", "?limit=201", "?kind=x", "?from=x", "/search", "/search?text=%1b", "?startKey=x"):
            assert (await windows["ann"].ask("GET", f"{SITE}/recordings{bad}")).status == 400, bad

    await with_people(tmp_path, work, joe="access", ann="auditor", bob="access", eve="editor")
