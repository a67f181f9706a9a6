"""Another cluster as a browser's session asks it: that it decides, and how much of its answers is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import (
    AccessDenied,
    ConnectionProblem,
    LimitExceeded,
    NotFound,
    TeleportError,
)
from teleport.web.leaves import ITEMS, LINE, SAID, STREAMED, TEXT, Careful, bounded
from teleport.web.session import SessionOver


class Leaf:
    """Answers what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def call(self, route: Any, request: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def download(self, route: Any, request: Any) -> AsyncGenerator[bytes, None]:
        while True:
            yield self.answer

    async def renewed(self) -> None: ...

    async def close(self) -> None: ...


def node(name: str = "n", labels: dict[str, str] | None = None) -> m.FoundNode:
    return m.FoundNode(
        id=name,
        hostname=name,
        addr="",
        labels=labels or {},
        tunnel=False,
        agentless=False,
        silent_for=0,
        logins=["root"],
    )


async def found(items: list[m.FoundNode], limit: int = 50) -> m.FoundNodes:
    answer = m.FoundNodes(items=items, total=10**30, next_start=0)
    return await Careful("leaf.test", Leaf(answer)).call(routes.FIND_NODES, m.FindNodesRequest(limit=limit))


async def test_a_page_of_another_cluster_holds_what_was_asked_for() -> None:
    assert len((await found([node()] * 5000)).items) == 50
    many = await found([node("n", {f"k{number}": "v" for number in range(5000)})])
    assert len(many.items[0].labels) == ITEMS
    (shown,) = (await found([node("x" * 10_000, {"k" * 10_000: "v" * 10_000})])).items
    assert len(shown.hostname) == TEXT
    assert [(len(key), len(value)) for key, value in shown.labels.items()] == [(TEXT, TEXT)]


async def test_names_of_another_cluster_hide_nothing_and_turn_nothing_round() -> None:
    (shown,) = (await found([node("a\u202eb\nc\x1b[2J", {"<b>": "\u200b"})])).items
    assert shown.hostname == "a<U+202E>b\\nc<U+001B>[2J"
    assert shown.labels == {"<b>": "<U+200B>"}, "markup is text: the page shows it as it is"


def test_answers_keep_their_times_and_numbers() -> None:
    hour = m.HourCounts(hour=datetime(2026, 1, 2, 3, tzinfo=UTC), sessions=2)
    counts = m.EventCounts(hours=[hour], complete=True)
    assert bounded(counts, 5) == counts


def test_lines_of_a_log_are_shortened_alone() -> None:
    lines = m.EventsPage(lines=['{"a":"\u202e"}', json.dumps({"message": "x" * 500_000})], next_key="k")
    cut = bounded(lines, 50, as_it_is=True)
    assert (cut.lines[0], len(cut.lines[1]), cut.next_key) == (lines.lines[0], LINE, "k")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (AccessDenied("no"), AccessDenied),
        (NotFound("no"), NotFound),
        (LimitExceeded("no", retry_after=9e9), LimitExceeded),
        (SessionOver("no"), AccessDenied),
        (ConnectionProblem("no"), ConnectionProblem),
        (TeleportError("no"), TeleportError),
    ],
    ids=lambda one: getattr(one, "__name__", type(one).__name__),
)
async def test_a_refusal_is_told_as_that_clusters_words_and_ends_no_session(
    said: TeleportError, kind: type[TeleportError]
) -> None:
    said.message, said.hint = "<script>\n" + "x" * 9000, "y\u202e" * 9000
    with pytest.raises(TeleportError) as caught:
        await Careful("leaf.test", Leaf(said)).call(routes.FIND_NODES, m.FindNodesRequest())
    assert type(caught.value) is kind
    assert "leaf.test" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) <= SAID
    assert "\u202e" not in caught.value.hint
    assert getattr(caught.value, "retry_after", 0.0) == 0.0


async def test_a_recording_without_end_is_cut() -> None:
    taken = 0

    async def read() -> None:
        nonlocal taken
        endless = Careful("leaf.test", Leaf(b"x" * (1 << 20)))
        async for some in endless.download(routes.READ_RECORDING, m.RecordingRequest(sid="s")):
            taken += len(some)

    with pytest.raises(ConnectionProblem, match="more than"):
        await read()
    assert taken == STREAMED


class Silent:
    """Never answers."""

    async def call(self, route: Any, request: Any) -> Any:
        await asyncio.Event().wait()


async def test_a_cluster_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teleport.web.leaves.SECONDS", 0.05)
    with pytest.raises(ConnectionProblem, match="does not answer within"):
        await Careful("leaf.test", Silent()).call(routes.FIND_NODES, m.FindNodesRequest())  # type: ignore[arg-type]
