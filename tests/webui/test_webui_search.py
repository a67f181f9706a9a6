"""Ten thousand nodes: what somebody types finds the right ones in time, and nothing of those that roles hide (T34)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect
from tests.webui.browsing import Chromium, Watched, Windows

from teleport.backend.interface import PutOp
from teleport.backend.sqlite import SqliteBackend
from teleport.clock import SystemClock
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.store.records import NODES
from teleport.testing.cluster import Cluster

COUNT, HIDDEN, RACKS = 10_000, 500, 40
AT_ONCE = 500  # records in one transaction
LARGEST = 100_000  # bytes of a page
PROMISED = 100.0  # milliseconds for an answer; tests allow five times that
OTHERS = {f"managed.example.com/part-{number}": f"value of part {number}" for number in range(12)}
ROLE = {
    "kind": "role",
    "version": "v4",
    "metadata": {"name": "open"},
    "spec": {
        "allow": {
            "logins": ["root", "{{internal.logins}}"],
            "node_labels": {"env": ["prod", "^sta.*$"], "serial": "*"},
        },
        "deny": {"node_labels": {"plan": "*"}},
    },
}


def host(number: int) -> Server:
    """One of many; the last ones have a label that the role denies."""
    hidden = number >= COUNT - HIDDEN
    labels = {
        "env": ("prod", "staging", "test")[number % 3],
        "rack": f"r{number % RACKS + 10}",
        "serial": f"s{number:06}",
        **OTHERS,
        **({"plan": "merger"} if hidden else {}),
    }
    name = f"vault-{number:05}" if hidden else f"node-{number:05}"
    spec = ServerSpec(hostname=name, addr=f"10.0.{number // 250}.{number % 250 + 1}:22")
    return Server(sub_kind="openssh", metadata=Metadata(name=str(uuid.UUID(int=number + 1)), labels=labels), spec=spec)


SEEN = [one for one in map(host, range(COUNT - HIDDEN)) if one.metadata.labels["env"] != "test"]


def fitting(*words: str) -> list[str]:
    """The hosts that may be seen and have all of these labels, as lists are sorted."""
    return [one.hostname for one in SEEN if set(words) <= {f"{k}={v}" for k, v in one.metadata.labels.items()}]


async def _fill(storage: Path) -> None:
    async with SqliteBackend(storage, SystemClock(), sweep_every=None) as backend:
        for begin in range(0, COUNT, AT_ONCE):
            hosts = [host(number) for number in range(begin, begin + AT_ONCE)]
            await backend.commit([PutOp(NODES + one.name, to_json(one)) for one in hosts])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("search")) as cluster:
        cluster.tctl("create", "-f", "-", stdin=json.dumps(ROLE)).ok()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _fill(cluster.data_dir / "backend")).result()
        yield cluster


class Answers:
    """What the page was told about nodes, word for word."""

    def __init__(self, page: Page) -> None:
        self._requests: list[Request] = []
        page.on("requestfinished", self._heard)

    def _heard(self, request: Request) -> None:
        if "/nodes?" in request.url and "/webapi/" in request.url:
            self._requests.append(request)

    def bodies(self) -> list[bytes]:
        responses = [request.response() for request in self._requests]
        return [response.body() for response in responses if response is not None]


def shows(page: Page, hosts: Sequence[str]) -> None:
    """So many are found, and the first page of them is there."""
    shown = min(len(hosts), 50)
    expect(page.get_by_text(f"1\u2013{shown} of {len(hosts)} nodes")).to_be_visible()
    expect(page.locator("tbody tr td:first-child")).to_have_text(list(hosts[:shown]))


def milliseconds(page: Page, word: str) -> float:
    """Of the answer to a search, from the sent request to its last byte."""
    found = page.evaluate(
        """(word) => performance.getEntriesByType("resource")
            .filter((one) => new URL(one.name).searchParams.get("search") === word)
            .map((one) => one.responseEnd - one.requestStart)""",
        word,
    )
    return float(min(found))


def test_what_is_typed_finds_the_right_ones_and_nothing_that_roles_hide(browser: Chromium, own: Cluster) -> None:
    ann = own.add_person("ann", roles=["open"])
    logins: dict[str, Any] = {}
    with browser.used() as used:
        windows = Windows(used, own, logins, Watched(f"https://{own.web_address}"))
        try:
            page = windows.of(ann, "/web/account")
            answers = Answers(page)
            page.goto("/web/cluster/example.test/nodes")
            shows(page, [one.hostname for one in SEEN])
            field = page.get_by_label("Search")
            times = []
            for rack in range(5):
                field.fill("")
                word = f"rack=r{rack + 12}"
                field.press_sequentially(f"env=prod {word}", delay=20)
                shows(page, fitting("env=prod", word))
                assert page.url.endswith(f"search=env%3Dprod+rack%3Dr{rack + 12}")
                expect(page.get_by_role("button", name="Connect to").first).to_be_visible()
                times.append(milliseconds(page, f"env=prod {word}"))
            for word in ("vault", "merger", "plan=", "env=test", f"s{COUNT - 1:06}"):
                field.fill(word)
                expect(page.get_by_text("No node fits.")).to_be_visible()
                expect(field).to_have_value(word)
                assert "vault" not in page.locator("main table").all_inner_texts()
            bodies = answers.bodies()
            assert len(bodies) > 10
            assert max(map(len, bodies)) < LARGEST
            assert max(map(len, bodies)) > LARGEST / 10, "pages were looked at that hold something"
            for body in bodies:
                assert b"vault" not in body
                assert b"merger" not in body
                assert json.loads(body)["total"] <= len(SEEN)
            print(f"answers among {COUNT:,} nodes: {', '.join(f'{one:.0f}' for one in times)} ms")
            assert min(times) < PROMISED * 5
            windows.watched.check()
        finally:
            windows.close()


def test_who_has_no_role_for_nodes_finds_none_of_ten_thousand(browser: Chromium, own: Cluster) -> None:
    eve = own.add_person("eve", roles=["auditor"])
    with browser.used() as used:
        windows = Windows(used, own, {}, Watched(f"https://{own.web_address}"))
        try:
            page = windows.of(eve, "/web/account")
            answers = Answers(page)
            page.goto("/web/cluster/example.test/nodes")
            expect(page.get_by_text("No nodes that you may reach.")).to_be_visible()
            page.get_by_label("Search").fill("node-00001")
            expect(page.get_by_text("No node fits.")).to_be_visible()
            assert {json.loads(body)["total"] for body in answers.bodies()} == {0}
            windows.watched.check()
        finally:
            windows.close()
