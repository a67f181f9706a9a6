"""Searching and proving recordings over the API: complete for who may, silent for who may not, on record, bounded."""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.security.test_security_recordings import _read, _recorded, _reviewer, _rule

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import SessionEnd, SessionJoin, SessionStart, encode_event, new_event
from teleport.auth.evidence import recorded
from teleport.auth.evidence.store import EvidenceStore
from teleport.auth.sessions.opened import SessionTracker
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.recording import indexing
from teleport.recording.directory import RecordingDirectory
from teleport.recording.index import build_index
from teleport.testing.auth import Credentials, RunningAuth, present_clock, running_auth

_Told = type[SessionStart] | type[SessionJoin] | type[SessionEnd]


def stored(auth: RunningAuth, sid: str) -> Path:
    """The file of a recording that auth keeps."""
    (found,) = [path for path in auth.directory.rglob(f"{sid}.rec") if path.parent.name == "records"]
    return found


async def search(auth: RunningAuth, who: Credentials, text: str, **asked: Any) -> list[m.RecordingMatch]:
    """All pages."""
    found: list[m.RecordingMatch] = []
    key = ""
    for _ in range(200):
        request = m.SearchRecordingsRequest(text=text, start_key=key, **asked)
        page = await auth.call(who, routes.SEARCH_RECORDINGS, request)
        found += page.items
        if not page.next_key:
            return found
        key = page.next_key
    raise AssertionError("it does not end")


async def test_sessions_are_found_by_what_they_showed_newest_first(tmp_path: Path) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        admin = await auth.admin()
        first = await _recorded(auth, "ann", text=b"pass\x1b[31mword\x1b[0m accepted\n")
        clock.advance(60)
        second = await _recorded(auth, "ann", text=b"Password refused\n")
        clock.advance(60)
        third = await _recorded(auth, "bob", text=b"nothing\n")
        found = await search(auth, admin, "password")
        assert [(one.sid, one.hits[0].text, one.user) for one in found] == [
            (second, "Password refused", "ann"), (first, "password accepted", "ann"),
        ]  # fmt: skip
        assert [one.sid for one in await search(auth, admin, "password", limit=1)] == [second, first], "in pages"
        assert [one.sid for one in await search(auth, admin, "nothing", user="bob", host="node", kind="exec")] == [
            third
        ]
        for nobody in ({"user": "eve"}, {"host": "x"}, {"login": "x"}, {"kind": "shell"}, {"end": found[1].started}):
            assert await search(auth, admin, "password", **nobody) == []
        assert [one.sid for one in await search(auth, admin, "password", start=found[0].started)] == [second]
        events = await auth.events("session_recording.search", wait_for=2)
        told = {(event["query"], tuple(event["sids"]), event["code"]) for event in events}
        assert ("password", (second, first), "T9250I") in told
        for request in ({"text": ""}, {"text": "x" * 201}, {"text": "a\x1bb"}, {"text": "x", "kind": "y"},
                        {"text": "x", "start_key": "z"}, {"text": "x", "limit": 0}):  # fmt: skip
            with pytest.raises(BadRequest):
                await auth.call(admin, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(**request))


async def test_a_search_that_begins_in_the_middle_is_on_record(tmp_path: Path) -> None:
    """Also one that finds nothing: that a text was never shown is an answer, too."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        await _recorded(auth, "ann", text=b"nothing of that\n")
        asked = m.SearchRecordingsRequest(text="needle", start_key="2999-01-01T00:00:00+00:00|x")
        assert (await auth.call(await auth.admin(), routes.SEARCH_RECORDINGS, asked)).searched == 1
        [event] = await auth.events("session_recording.search", wait_for=1)
        assert (event["query"], event["searched"]) == ("needle", 1)


async def test_nothing_is_found_of_sessions_that_one_may_not_read(tmp_path: Path) -> None:
    """Neither lines nor ids, nor keys of pages; and a user has the own sessions."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        boss = await _recorded(auth, "boss", text=b"the needle\n")
        joe = await _recorded(auth, "joe", text=b"my needle\n")
        rita = await _reviewer(auth, allow={"rules": [_rule('!contains(session.participants, "boss")')]})
        page = await auth.call(rita, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(text="needle"))
        assert [one.sid for one in page.items] == [joe]
        assert boss not in str(page)
        assert [one.sid for one in await search(auth, await auth.user("joe", ["access"]), "needle")] == [joe]
        assert await search(auth, await auth.user("eve", ["access"]), "needle") == []
        with pytest.raises(AccessDenied):
            await search(auth, await auth.user("zoe", ["editor"]), "needle")
        listed = m.ListRecordingsRequest(newest_first=True, limit=1)
        page2 = await auth.call(rita, routes.LIST_RECORDINGS, listed)
        assert [one.sid for one in page2.items] == [joe]
        assert page2.next_key == ""


async def test_a_page_decides_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred thousand recordings, one page costs what one page holds."""
    monkeypatch.setattr(recorded, "DECIDED_AT_ONCE", 1)
    async with running_auth(tmp_path, sqlite=True) as auth:
        for user in ("ann", "bob", "ann", "bob"):
            await _recorded(auth, user)
        asked: list[int] = []
        decide = auth.service.authorizer.decide_each

        async def decide_each(*args: Any, **more: Any) -> list[bool]:
            asked.append(len(args[3]))
            return await decide(*args, **more)

        monkeypatch.setattr(auth.service.authorizer, "decide_each", decide_each)
        request = m.ListRecordingsRequest(newest_first=True, limit=1)
        page = await auth.call(await auth.admin(), routes.LIST_RECORDINGS, request)
        assert (len(page.items), bool(page.next_key), sum(asked)) == (1, True, 2)


async def test_lists_are_restricted_and_paged_newest_first(tmp_path: Path) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        admin = await auth.admin()
        sids = []
        for user in ("ann", "bob", "ann"):
            sids.append(await _recorded(auth, user))
            clock.advance(60)
        keys, seen = "", []
        for _ in range(3):
            request = m.ListRecordingsRequest(newest_first=True, limit=1, start_key=keys)
            page = await auth.call(admin, routes.LIST_RECORDINGS, request)
            seen += [one.sid for one in page.items]
            keys = page.next_key
        assert (seen, keys) == (sids[::-1], "")
        of_ann = m.ListRecordingsRequest(user="ann", kind="exec")
        assert {one.sid for one in (await auth.call(admin, routes.LIST_RECORDINGS, of_ann)).items} == {sids[0], sids[2]}


async def test_a_search_goes_on_where_its_time_was_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call ends, and all of them together see everything."""
    monkeypatch.setattr(recorded, "SECONDS", 0.0)
    monkeypatch.setattr(recorded, "BATCH", 1)
    async with running_auth(tmp_path, sqlite=True) as auth:
        sids = {await _recorded(auth, "ann", text=b"needle\n") for _ in range(3)}
        admin = await auth.admin()
        found: set[str] = set()
        key, calls = "", 0
        async with asyncio.timeout(60):
            while True:
                page = await auth.call(
                    admin, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(text="needle", start_key=key)
                )
                found |= {one.sid for one in page.items}
                key, calls = page.next_key, calls + 1
                if not key:
                    break
        assert found == sids
        assert calls >= 3


async def test_a_search_names_what_it_could_not_look_into_and_finds_what_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording whose preparation takes long hides no other; and who may not read it learns nothing of it."""
    monkeypatch.setattr(recorded, "SECONDS", 0.0)
    monkeypatch.setattr(indexing.Indexer.__init__, "__kwdefaults__", {"patience": 0.2})
    clock = present_clock()
    async with running_auth(tmp_path, sqlite=True, clock=clock) as auth:
        admin = await auth.admin()
        old = await _recorded(auth, "ann", text=b"the needle\n")
        directory = RecordingDirectory(stored(auth, old).parent)
        try:
            build_index(directory, old)
            clock.advance(60)
            slow = await _recorded(auth, "ann", text=b"the needle\n")
            with os.fdopen(directory.create(f"{slow}.idx.new"), "wb") as held:
                fcntl.flock(held.fileno(), fcntl.LOCK_EX)
                left_out: dict[str, str] = {}
                found, key = [], ""
                async with asyncio.timeout(60):
                    while True:
                        asked = m.SearchRecordingsRequest(text="needle", start_key=key)
                        page = await auth.call(admin, routes.SEARCH_RECORDINGS, asked)
                        found += [one.sid for one in page.items]
                        left_out |= {one.sid: one.why for one in page.left_out}
                        if not (key := page.next_key):
                            break
                assert old in found
                assert slow not in found
                assert left_out[slow] == "preparing"
                eve = await auth.call(
                    await auth.user("eve", ["access"]),
                    routes.SEARCH_RECORDINGS,
                    m.SearchRecordingsRequest(text="needle"),
                )
                assert (eve.items, eve.left_out) == ([], [])
            for _ in range(5000):
                if slow in [one.sid for one in await search(auth, admin, "needle")]:
                    break
            else:
                raise AssertionError("it is not found when its turn has come")
        finally:
            directory.close()


async def test_who_joined_a_session_took_part_in_its_recording(tmp_path: Path) -> None:
    """As its own host told: they may play it, conditions about them hold, and another host's word lets nobody in."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        admin = await auth.admin()
        sid, other = await _recorded(auth, "ann", text=b"needle\n"), await _recorded(auth, "ann", text=b"needle\n")
        listed = (await auth.call(admin, routes.LIST_RECORDINGS, m.ListRecordingsRequest())).items
        hosts = {one.sid: one.node for one in listed}
        tracker = SessionTracker(auth.service.state.backend)

        def line(
            cls: type[SessionStart] | type[SessionJoin] | type[SessionEnd], of: str, host: str, user: str
        ) -> bytes:
            uid = str(uuid.uuid4())
            return encode_event(new_event(cls, auth.clock.now(), uid, sid=of, server_id=host, user=user))

        await tracker.append(
            [
                line(SessionStart, sid, hosts[sid], "ann"),
                line(SessionJoin, sid, hosts[sid], "boss"),
                line(SessionEnd, sid, hosts[sid], "ann"),
                *(line(cls, other, hosts[sid], "boss") for cls in (SessionStart, SessionJoin, SessionEnd)),
            ]
        )
        for newest_first in (True, False):
            request = m.ListRecordingsRequest(newest_first=newest_first)
            page = await auth.call(admin, routes.LIST_RECORDINGS, request)
            assert {one.sid: one.participants for one in page.items} == {sid: ["ann", "boss"], other: ["ann"]}
        boss = await auth.user("boss", ["access"])
        assert [one.sid for one in await search(auth, boss, "needle")] == [sid]
        assert await _read(auth, boss, sid)
        with pytest.raises(AccessDenied):
            await _read(auth, boss, other)
        rita = await _reviewer(auth, allow={"rules": [_rule('!contains(session.participants, "boss")')]})
        assert [one.sid for one in await search(auth, rita, "needle")] == [other]
        with pytest.raises(AccessDenied):
            await _read(auth, rita, sid)
        for who, of in ((boss, other), (rita, sid)):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=of))


async def test_no_host_puts_a_recording_or_an_end_in_the_place_of_anothers(tmp_path: Path) -> None:
    """While the session runs, and after it: what another brings is its own, and is not what the session's id means."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        backend, sid, host = auth.service.state.backend, str(uuid.uuid4()), str(uuid.uuid4())
        tracker, store = SessionTracker(backend), EvidenceStore(backend, auth.clock)
        for cls in (SessionStart, SessionEnd):
            event = new_event(cls, auth.clock.now(), str(uuid.uuid4()), sid=sid, server_id=host, user="ann")
            await tracker.append([encode_event(event)])
            await _recorded(auth, "mallory", sid=sid)
            assert await store.claim_end(sid, cls.__name__, stranger := str(uuid.uuid4())) == cls.__name__
            assert await store.claim_end(sid, "second", stranger) == cls.__name__
        assert await store.claim_end(sid, "true", host) == "true"
        admin = await auth.admin()
        listed = (await auth.call(admin, routes.LIST_RECORDINGS, m.ListRecordingsRequest())).items
        assert host not in {one.node for one in listed}
        with pytest.raises(BadRequest, match="2 hosts"):
            await _read(auth, admin, sid)


async def test_no_page_of_a_list_tells_the_id_of_a_session_that_one_may_not_list(tmp_path: Path) -> None:
    """In neither order: keys are made of what is shown, pages are full, and all of them together are complete."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        of_joe = sorted([await _recorded(auth, user) for user in ("boss", "joe") * 2 if user == "joe"])
        of_boss = [await _recorded(auth, "boss", sid=f"{sid[:-1]}{'1' if sid[-1] == '0' else '0'}") for sid in of_joe]
        joe = await auth.user("joe", ["access"])
        for newest_first in (True, False):
            key, seen = "", []
            for _ in range(5):
                request = m.ListRecordingsRequest(newest_first=newest_first, limit=1, start_key=key)
                page = await auth.call(joe, routes.LIST_RECORDINGS, request)
                assert not any(sid in str(page) for sid in of_boss)
                seen += [one.sid for one in page.items]
                if not (key := page.next_key):
                    break
            assert sorted(seen) == of_joe


async def test_what_was_cut_off_is_named_also_where_nothing_is_found(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        admin = await auth.admin()
        sid = await _recorded(auth, "ann", text=b"the needle\nand much more\n")
        directory = RecordingDirectory(stored(auth, sid).parent)
        try:
            build_index(directory, sid, max_text=30)
        finally:
            directory.close()
        page = await auth.call(admin, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(text="much more"))
        assert (page.items, [(one.sid, one.why) for one in page.left_out]) == ([], [(sid, "size")])
        page = await auth.call(admin, routes.SEARCH_RECORDINGS, m.SearchRecordingsRequest(text="needle"))
        assert [one.sid for one in page.items] == [sid], "up to the cut it is found"


async def test_all_recordings_are_verified_however_many_calls_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "SECONDS", 0.0)
    async with running_auth(tmp_path, sqlite=True) as auth:
        sids = sorted([await _recorded(auth, user) for user in ("ann", "joe", "ann", "joe")])
        admin, seen, key = await auth.admin(), [], ""
        for _ in sids:
            page = await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(start_key=key))
            seen += [one.sid for one in page.items]
            key = page.next_key
        assert (seen, key) == (sids, "")
        joe = await auth.user("joe", ["access"])
        first = await auth.call(joe, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest())
        rest = await auth.call(joe, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(start_key=first.next_key))
        assert [len(first.items), len(rest.items), rest.next_key] == [1, 1, ""]


async def test_verification_names_what_is_damaged_gone_or_exchanged(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True) as auth:
        admin = await auth.admin()
        good, flipped, gone, cut = [await _recorded(auth, "ann", text=b"x" * 3000) for _ in range(4)]
        files = {sid: stored(auth, sid) for sid in (good, flipped, gone, cut)}
        data = bytearray(files[flipped].read_bytes())
        data[len(data) // 2] ^= 4
        files[flipped].write_bytes(data)
        files[gone].unlink()
        files[cut].write_bytes(files[cut].read_bytes()[:-10])
        page = await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest())
        verdicts = {one.sid: one for one in page.items}
        assert {sid: one.ok for sid, one in verdicts.items()} == {good: True, flipped: False, gone: False, cut: False}
        assert verdicts[good].signed_by
        assert verdicts[flipped].chunk is not None
        assert "no more" in verdicts[gone].problem
        one = await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=flipped))
        assert one.items == [verdicts[flipped]]
        with pytest.raises(NotFound):
            await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=str(uuid.uuid4())))
        with pytest.raises(BadRequest):
            await auth.call(admin, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid="../x"))
        joe = await auth.user("joe", ["access"])
        assert (await auth.call(joe, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest())).items == []
        with pytest.raises(AccessDenied):
            await auth.call(joe, routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=good))


async def test_a_recording_that_was_put_in_place_of_another_is_found_out(tmp_path: Path) -> None:
    """Signed by a host of the cluster, under the right id, and still not what arrived."""
    async with running_auth(tmp_path / "one", sqlite=True) as auth:
        sid = await _recorded(auth, "ann")
        await auth.service.state.backend.put(f"{recorded.UPLOADS}{sid}", b"0" * 64)
        page = await auth.call(await auth.admin(), routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=sid))
        assert not page.items[0].ok
        assert "another recording than the one that arrived" in page.items[0].problem
