"""Recordings for people, from end to end: found by what the screen showed, exported to a page that plays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.web.chromium import browser, missing

from teleport.testing.cluster import BIN, NODE, Cluster, Person, wait_until
from teleport.testing.terminal import Terminal


@pytest.fixture(scope="module")
def alice(cluster: Cluster, login: str) -> Person:
    """Somebody whose only session is the one below."""
    person = cluster.add_person("recorded", logins=[login])
    person.log_in()
    return person


@pytest.fixture(scope="module")
def sid(cluster: Cluster, alice: Person, login: str) -> str:
    """A session at a terminal that showed a text in pieces and colours, and wiped it."""
    typed = "printf 'the \\033[31mrare\\033[0m wor'; printf 'd is %s\\n' zebra; printf 'gone-%s\\r\\033[K' soon\r"
    with Terminal([str(BIN / "tsh"), "ssh", f"{login}@{NODE}"], alice.environment) as terminal:
        terminal.type(typed)
        terminal.expect("is zebra")
        terminal.type("exit\r")
        terminal.ended()
    found = str(cluster.wait_event("session.end", user="recorded", interactive=True)["sid"])
    cluster.wait_event("session.upload", sid=found)
    return found


def test_a_session_is_found_by_what_its_screen_showed(cluster: Cluster, alice: Person, sid: str) -> None:
    """In colours, in pieces and wiped away; by the administrator and by who took part; with its time."""
    # recordings of other tests may be long, and are prepared before it
    wait_until("it is prepared", lambda: sid in cluster.tctl("recordings", "search", "zebra").stdout, 120.0)
    for text in ("the rare word is zebra", "GONE-SOON"):
        (found,) = json.loads(cluster.tctl("recordings", "search", text, "--format=json").ok().stdout)
        assert found["sid"] == sid
        assert found["hits"][0]["text"].lower() == text.lower()
    shown = alice.tsh("recordings", "search", "rare word is zebra").ok().stdout
    assert sid in shown
    cluster.wait_event("session_recording.search", user="recorded", sids=[sid])
    assert sid in alice.tsh("recordings", "ls", "--kind=shell", "--from=-1h").ok().stdout
    assert alice.tsh("recordings", "search", "no such words").ok().stdout == ""


def test_nobody_finds_what_others_saw(cluster: Cluster, login: str, sid: str) -> None:
    person = cluster.add_person("curious", logins=[login])
    person.log_in()
    assert sid not in person.tsh("recordings", "search", "rare word").ok().stdout
    assert sid not in person.tsh("recordings", "ls", "--format=json").ok().stdout
    refused = person.tsh("recordings", "export", sid)
    assert refused.status in (3, 5)
    assert "zebra" not in refused.stdout


def test_recordings_verify_as_whole(cluster: Cluster, sid: str) -> None:
    assert cluster.tctl("recordings", "verify", sid).ok().stdout == "1 of 1 recordings are whole\n"
    assert "recordings are whole" in cluster.tctl("recordings", "verify", "--all").ok().stdout


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
def test_the_exported_page_plays_in_a_browser_without_network(
    cluster: Cluster, alice: Person, sid: str, tmp_path: Path
) -> None:
    page = tmp_path / "session.html"
    alice.tsh("recordings", "export", sid, "--format=html", f"--out={page}").ok()
    assert page.stat().st_mode & 0o777 == 0o600
    cluster.wait_event("session_recording.access", user="recorded", sid=sid, format="html")
    with browser(tmp_path / "browser") as window:
        window.go(page.as_uri())
        window.click("#skip")
        window.click("#play")
        window.wait("return document.body.dataset.state === 'ended'", "the end")
        assert "the rare word is zebra" in window.text("#screen")
        window.type("#query", "gone-soon")
        window.click("#found button")
        assert window.run("return performance.getEntriesByType('resource').length") == 0
        assert window.complaints() == []
