"""Lists, tables and watches of which a part is shown, whatever way they come."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from teleport.authz.kube_resources import Place, Shown
from teleport.kube import list_filter
from teleport.kube.list_filter import ListFilter, UnreadableList, WatchFilter

DEV = Shown("pods", (Place("dev", "*"),), (Place("*", "hidden-*"),))


def pod(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, **more}


def row(namespace: str, name: str) -> dict[str, Any]:
    return {"cells": [name, 'a "quoted" }]'], "object": {"kind": "PartialObjectMetadata", **pod(namespace, name)}}


def listed(*items: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": list(items), **more}


def shown(text: str | bytes, step: int = 1 << 20, part: ListFilter | WatchFilter | None = None) -> bytes:
    """What is shown of it when it comes in parts of `step` bytes."""
    data = text.encode() if isinstance(text, str) else text
    part = part or ListFilter(DEV)
    return b"".join(part.feed(data[at : at + step]) for at in range(0, len(data), step)) + part.feed(b"", last=True)


def of(value: Any, **more: Any) -> Any:
    return json.loads(shown(json.dumps(value), **more))


def test_other_objects_do_not_go_through() -> None:
    """Those of other namespaces, denied ones, and those that do not say what they are."""
    mixed = [
        pod("prod", "a"),
        pod("dev", "b", note="ü ☃ \u2028"),
        pod("dev", "hidden-c"),
        {"metadata": {"namespace": "dev"}},
        {"metadata": {"namespace": "dev", "name": 7}},
        {"metadata": {"namespace": ["dev"], "name": "x"}},
        {"metadata": None},
        {},
        None,
        "dev",
        [pod("dev", "nested")],
        pod("dev", "d"),
    ]
    assert of(listed(*mixed)) == listed(mixed[1], mixed[-1])
    assert of(listed(pod("prod", "a"))) == listed()
    assert of(listed()) == listed()
    assert of(listed() | {"items": None}) == listed()


def test_nothing_tells_how_many_there_are() -> None:
    """Neither counts nor places to go on from, nor fields that are not known."""
    found = listed(pod("dev", "a"), extra={"a": 1}, Items=[pod("prod", "b")])
    found["metadata"] |= {"continue": "abc", "remainingItemCount": 5, "selfLink": "/x", "other": 1}
    assert of(found) == listed(pod("dev", "a")) | {"metadata": {"resourceVersion": "7", "selfLink": "/x"}}


def test_tables() -> None:
    """By the object of each row; a row without one is not shown."""
    columns = [{"name": "Name"}]
    rows = [row("dev", "a"), row("prod", "b"), {"cells": ["c"]}, {"cells": ["d"], "object": None}, pod("dev", "e")]
    table = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns}
    assert of(table | {"rows": rows}) == table | {"rows": rows[:1]}


def test_order_and_space_do_not_matter() -> None:
    """Fields in any order, and as `pretty=true` prints them."""
    backwards = dict(reversed(listed(pod("prod", "a"), pod("dev", "b")).items()))
    assert of(backwards) == listed(pod("dev", "b"))
    assert json.loads(shown(json.dumps(listed(pod("dev", "b"), pod("prod", "a")), indent=3) + "\n")) == listed(
        pod("dev", "b")
    )


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_it_comes_in_any_parts(step: int) -> None:
    """Parts may end anywhere, within a character, too."""
    value = listed(pod("dev", "a", text='ü☃𝄞\\"}]'), pod("prod", "b"), pod("dev", "c", n=-1.5e3, t=True, z=None))
    want = listed(value["items"][0], value["items"][2])
    assert of(value, step=step) == want
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(shown(text, step)) == want


def test_random_lists_come_to_what_a_plain_reading_says() -> None:
    """Against the four lines that a filter of whole lists would be."""
    chance = random.Random(17)
    for _ in range(200):
        items = [pod(chance.choice(["dev", "prod", ""]), chance.choice(["a", "hidden-b"]), v=chance.random())
                 for _ in range(chance.randrange(9))]  # fmt: skip
        plain = [one for one in items if one["metadata"]["namespace"] == "dev" and one["metadata"]["name"] == "a"]
        text = json.dumps(listed(*items), indent=chance.choice([None, 1]))
        assert json.loads(shown(text, chance.randrange(1, 200))) == listed(*plain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "null",
        "{}",
        '{"kind":"Pod","metadata":{"name":"secret"}}',
        '{"kind":"Status","code":200}',
        '{"items":{}}',
        '{"items":"x"}',
        '{"items":[{}}',
        '{"items":[1 2]}',
        '{"items":[],"items":[]}',
        '{"items":[],"rows":[]}',
        '{"items":[],"kind":"a","kind":"b"}',
        '{"items":[,]}',
        '{"items":[]} x',
        '{"items":[]}{"items":[]}',
        '{"items":[',
        '{"items":[{"metadata":{"name":"a","namespace":"dev"}}',
        '{"items":[]',
        '{"kind" "List"}',
        '{kind:1}',
        '{"items":[' + "[" * 100_000,
        b'{"items":["\xff"]}',
    ],
    ids=lambda text: str(text[:40]),
)  # fmt: skip
def test_what_is_no_list_is_an_error(text: str | bytes) -> None:
    """Never shown as it is, in one part or in many."""
    for step in (1 << 20, 5):
        if len(text) > 1000 and step == 5:
            continue
        with pytest.raises(UnreadableList) as refused:
            shown(text, step)
        assert refused.value.hint


def test_a_long_list_takes_the_memory_of_one_object() -> None:
    """What was read is let go at once."""
    part = ListFilter(DEV)
    item = json.dumps(pod("prod", "a", text="x" * 1000)).encode()
    part.feed(b'{"items":[' + item)
    for _ in range(2000):
        assert part.feed(b"," + item) == b""
        assert len(part._values._text) < 2 * len(item)
    assert json.loads(b'{"items":[' + part.feed(b"]}", last=True)) == {"items": []}


def test_an_object_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a bound on one object, and it costs no more than its length to find out."""
    monkeypatch.setattr(list_filter, "MOST", 100_000)
    for part in (ListFilter(DEV), WatchFilter(DEV)):
        part.feed(b'{"items":["' if isinstance(part, ListFilter) else b'{"type":"')
        for _ in range(99):
            part.feed(b"x" * 1000)
        with pytest.raises(UnreadableList, match="too large"):
            part.feed(b"x" * 1000)


def events(*found: Any) -> str:
    return "".join(json.dumps(event) + "\n" for event in found)


def watched(text: str, step: int = 1 << 20) -> list[Any]:
    left, found = shown(text, step, WatchFilter(DEV)).decode(), []
    while left:
        event, end = json.JSONDecoder().raw_decode(left)
        found.append(event)
        left = left[end:].lstrip()
    return found


@pytest.mark.parametrize("step", [1, 50, 1 << 20])
def test_watches(step: int) -> None:
    """Changes of what is shown, errors, and how far it has come; nothing else."""
    told = [
        {"type": "ADDED", "object": pod("dev", "a")},
        {"type": "MODIFIED", "object": pod("prod", "b")},
        {"type": "DELETED", "object": pod("dev", "a")},
        {"type": "DELETED", "object": pod("dev", "hidden-a")},
        {"type": "NEWER", "object": pod("dev", "a")},
        {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}},
        {"type": "ERROR", "object": pod("prod", "b")},
    ]
    assert watched(events(*told), step) == [told[0], told[2], told[5]]
    assert watched(json.dumps(told[0], indent=2) + json.dumps(told[1]) + json.dumps(told[2]), step) == [
        told[0],
        told[2],
    ]


def test_bookmarks_tell_how_far_and_no_more() -> None:
    """A name in one does not go through."""
    notes = {"k8s.io/initial-events-end": "true", "other": "secret"}
    metadata = {"resourceVersion": "9", "name": "secret", "annotations": notes}
    (found,) = watched(events({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": metadata, "spec": {}}}))
    assert found["object"] == {
        "kind": "Pod",
        "metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}},
    }


def tables(*rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(rows):
        columns = [{"name": "Name"}] if number == 0 else None
        yield {"type": "ADDED", "object": {"kind": "Table", "columnDefinitions": columns, "rows": [one]}}


def test_the_columns_of_a_watched_table_are_not_lost() -> None:
    """The server sends them with the first row, which may not be shown."""
    found = watched(events(*tables(row("prod", "a"), row("dev", "b"), row("dev", "c"))))
    assert [(one["object"]["columnDefinitions"], one["object"]["rows"]) for one in found] == [
        ([{"name": "Name"}], [row("dev", "b")]),
        (None, [row("dev", "c")]),
    ]


@pytest.mark.parametrize("text", ['{"type":"ADDED"}', "[]", "7 ", '{"object":[]}'])
def test_what_is_no_watch_is_an_error(text: str) -> None:
    """It ends, and shows nothing."""
    with pytest.raises(UnreadableList):
        watched(text)


def test_a_watch_that_ends_within_an_event() -> None:
    """As watches do when the server leaves."""
    assert watched('{"type":"ADDED","object":{') == []


@pytest.mark.parametrize("part", [b"[],", b"1,", b'{"":{}},', b'"",', b'"\\"",'])
def test_an_object_made_to_take_memory_is_refused_before_it_is_read(part: bytes) -> None:
    """A few MB of text can be a GB of values, and a second in which nobody else is served."""
    many = b"[" + part * (3_000_000 // len(part))
    for begun, answer in ((b'{"items":[', ListFilter(DEV)), (b'{"type":"ADDED","object":', WatchFilter(DEV))):
        tracemalloc.start()
        try:
            with pytest.raises(UnreadableList, match="too many parts"):
                shown(begun + many, 64 * 1024, answer)
            assert tracemalloc.get_traced_memory()[1] < 120 << 20
        finally:
            tracemalloc.stop()


def test_a_large_object_of_few_parts_is_shown() -> None:
    """What is in its texts counts for nothing, wherever they are cut."""
    large = pod("dev", "a", data={"text": ',[{"\\\n' * 400_000})
    assert of(listed(large, pod("prod", "b"), large), step=64 * 1024) == listed(large, large)
