"""A session in a pod, begun with the real kubectl, and whoever takes part in it from a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.cluster.cluster_kube import KubeHost, serve_kubectl, wait_known
from tests.cluster.test_cluster_kube_joining import ROLE
from tests.webui.browsing import Windows, axe, axe_in_both
from tests.webui.terminals import HIDDEN_SCREEN, shows, text

from teleport.testing.cluster import NAME, PUBLIC, Cluster, Person, wait_until
from teleport.testing.kube_api import running_kube_api
from teleport.testing.terminal import Terminal

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")

SESSIONS = f"/web/cluster/{NAME}/sessions"
SHELL = ("--", "sh", "-c", "stty -echo; echo ready; exec sh")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One whose proxy serves kubectl: the same pods as `one`, and by a service behind a tunnel as `behind`."""
    folder = tmp_path_factory.mktemp("pods")
    factors = {"second_factor": "on", "u2f": {"app_id": f"https://{PUBLIC}"}}
    with ExitStack() as stack:
        api = stack.enter_context(running_kube_api(folder))
        cluster = Cluster(folder / "cluster", authentication=factors)
        serve_kubectl(cluster, api)
        stack.enter_context(cluster)
        cluster.tctl("create", "-f", stdin=ROLE).ok()
        stack.enter_context(KubeHost(folder / "host", cluster, "host", api, context="behind"))
        wait_until("the service is listed", lambda: "behind" in cluster.tctl("kube", "ls").stdout)
        yield cluster


@pytest.fixture(scope="module")
def owner(cluster: Cluster) -> Person:
    """Whose sessions others join."""
    person = cluster.add_person("olga", roles=["developers"])
    person.log_in()
    wait_known(person, cluster.config["proxy_service"]["kubernetes"]["public_addr"])
    return person


@pytest.fixture(scope="module")
def guests(cluster: Cluster) -> dict[str, Person]:
    """By what they may do in sessions of others."""
    roles = {"watch": "pod-watchers", "type": "pod-peers", "nothing": "developers", "hosts": "host-watchers"}
    return {may: cluster.add_person(f"may-{may}", roles=[role]) for may, role in roles.items()}


def shell(owner: Person, way: str) -> Terminal:
    owner.tsh("kube", "login", way).ok()
    return Terminal(["kubectl", "exec", "-n", "dev", "-it", "web", *SHELL], owner.environment)


def sid_of(cluster: Cluster, owner: Person) -> str:
    """The id of the one session that the person has now, once it is listed."""
    found: list[str] = []

    def listed() -> bool:
        rows = cluster.tctl("sessions", "ls", "--format=json").ok().json()
        found[:] = [one["sid"] for one in rows if one["user"] == owner.name]
        return len(found) == 1

    wait_until("the session is listed", listed)
    return found[0]


def of(cluster: Cluster, sid: str, name: str) -> list[dict[str, Any]]:
    """The events of that name of one session."""
    return [one for one in cluster.events(f"--type={name}") if one["sid"] == sid]


@pytest.mark.parametrize("way", ["one", "behind"])
def test_a_pods_session_is_watched_and_typed_into_from_a_page(
    windows: Windows, cluster: Cluster, owner: Person, guests: dict[str, Person], way: str
) -> None:
    """Listed with the pod; one watches, and what she types goes nowhere; one types along. The end is said to both, and
    all of it is on record and recorded."""
    watcher, typer = guests["watch"], guests["type"]
    with shell(owner, way) as terminal:
        terminal.expect("ready")
        terminal.type("echo ear''lier\n")
        terminal.expect("earlier")
        sid = sid_of(cluster, owner)

        page = windows.of(watcher, SESSIONS)
        row = page.get_by_role("table", name="Active sessions").get_by_role("row").filter(has_text=owner.name)
        expect(row).to_contain_text(f"@{way}/dev/web")
        axe_in_both(page)
        expect(row.get_by_role("link", name="Join")).to_have_count(0)
        with page.context.expect_page() as tab:
            row.get_by_role("link", name=f"Observe: session of {owner.name} on {way}/dev/web").click()
        watching = tab.value
        expect(watching.get_by_text("You are in this session as observer.")).to_be_visible()
        shows(watching, "earlier")  # what was shown before she came
        terminal.expect(f"{watcher.name} has joined this session as observer")
        axe(watching, without=HIDDEN_SCREEN)
        watching.get_by_role("textbox", name="Terminal input").focus()
        watching.keyboard.type("echo inserted-$((1+1))\n")
        terminal.type("echo la''ter\n")
        shows(watching, "later")

        other = windows.of(typer, f"/web/cluster/{NAME}/session/{sid}?mode=peer")
        expect(other.get_by_text(f"A session of {owner.name} as {owner.name} on {way}/dev/web.")).to_be_visible()
        joined = [one["user"] for one in of(cluster, sid, "session.join")]
        assert typer.name not in joined, "a link of anybody's lets nobody in"
        other.get_by_role("button", name="Type along").click()
        expect(other.get_by_text("You are in this session as peer.")).to_be_visible()
        shows(other, "later")
        terminal.expect(f"{typer.name} has joined this session as peer")
        other.get_by_role("textbox", name="Terminal input").focus()
        other.keyboard.type("echo by-$((40+2))-grüße\n")
        terminal.expect("by-42-grüße")
        shows(other, "by-42-grüße")
        shows(watching, "by-42-grüße")
        other.keyboard.type("stty size\n")
        terminal.expect(r"[0-9]+ [0-9]+\r\n")
        terminal.type("echo still-$((6*7)); exit 3\n")
        shows(other, "still-42")
        assert terminal.ended() == 3
        for one in (watching, other):
            expect(one.get_by_text("The session has ended")).to_be_visible()
        assert b"inserted-2" not in terminal.shown
        assert "inserted-2" not in text(watching)
    end = cluster.wait_event("session.end", sid=sid)
    assert end["participants"] == [owner.name, watcher.name, typer.name]
    modes = {one["user"]: one["mode"] for one in of(cluster, sid, "session.join")}
    assert modes == {watcher.name: "observer", typer.name: "peer"}


def test_who_may_not_join_a_pods_session_reads_of_none(
    windows: Windows, cluster: Cluster, owner: Person, guests: dict[str, Person]
) -> None:
    """Neither in the list nor by a link; whoever may only watch is not let type, whatever the link says."""
    with shell(owner, "one") as terminal:
        terminal.expect("ready")
        sid = sid_of(cluster, owner)
        windows.watched.expect("404")
        for may in ("nothing", "hosts"):
            page = windows.of(guests[may], SESSIONS)
            expect(page.get_by_text("No session runs now that you may see")).to_be_visible()
            page.goto(f"/web/cluster/{NAME}/session/{sid}?mode=peer")
            expect(page.get_by_role("alert")).to_contain_text("no session with this id")
        page = windows.of(guests["watch"], f"/web/cluster/{NAME}/session/{sid}?mode=peer")
        expect(page.get_by_role("button", name="Watch")).to_be_visible()
        expect(page.get_by_role("button", name="Type along")).to_have_count(0)
        assert of(cluster, sid, "session.join") == []
        assert b"has joined" not in terminal.shown


def test_whose_right_to_join_is_taken_away_is_out(windows: Windows, cluster: Cluster, owner: Person) -> None:
    """Within two seconds, and reads so; the session goes on."""
    guest = cluster.add_person("gone", roles=["pod-peers"])
    windows.watched.expect("401|WebSocket connection to")  # a page that asks once more is refused
    with shell(owner, "one") as terminal:
        terminal.expect("ready")
        sid = sid_of(cluster, owner)
        page = windows.of(guest, f"/web/cluster/{NAME}/session/{sid}?mode=peer")
        page.get_by_role("button", name="Type along").click()
        terminal.expect("has joined this session as peer")
        expect(page.get_by_text("You are in this session as peer.")).to_be_visible()
        cluster.tctl("users", "update", guest.name, "--set-roles=developers").ok()
        terminal.expect(f"{guest.name} has left this session", 2.0 * 5)
        expect(page.get_by_text("You are in this session as peer.")).to_have_count(0)
        terminal.type("echo goes-$((1+1))\n")
        terminal.expect("goes-2")
        assert "goes-2" not in page.locator("body").inner_text()
