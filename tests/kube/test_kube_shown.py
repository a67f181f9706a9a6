"""Lists and watches through the service of which the roles allow a part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from teleport.audit.events import KubeRequest
from teleport.resources.parse import parse_resources
from teleport.resources.role import Role
from teleport.testing.kube_lab import Lab, Wire, kube_lab

ALL_PODS = "/api/v1/pods"
PODS = "/api/v1/namespaces/dev/pods"
TABLE = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@asynccontextmanager
async def dev_pods(folder: Path) -> AsyncIterator[tuple[Lab, Wire]]:
    """Somebody who may list and watch the pods of `dev`, among many."""
    async with kube_lab(folder) as lab:
        for name in ("web", "db"):
            lab.api.add_pod("dev", name)
        for number in range(20):
            lab.api.add_pod("prod", f"secret-{number}")
        async with lab.connected(lab.pair(roles=("dev-pods",))) as wire:
            yield lab, wire


def names(body: bytes) -> list[str]:
    found: Any = json.loads(body)
    objects = found["items"] if "items" in found else [row["object"] for row in found["rows"]]
    return [one["metadata"]["name"] for one in objects]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", []),
        ("?limit=1", []),
        ("?limit=500", [TABLE]),
        ("?includeObject=None", [TABLE]),
        ("?fieldSelector=metadata.namespace%3Dprod", []),
        ("", ["Accept-Encoding: gzip"]),
        ("", ["Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"]),
        ("", ["Accept: application/vnd.kubernetes.protobuf,application/json"]),
        ("", ["Accept: */*"]),
    ],
)
async def test_a_list_shows_what_the_roles_allow(tmp_path: Path, query: str, headers: list[str]) -> None:
    """In each form in which clients ask, with no trace of the others."""
    async with dev_pods(tmp_path) as (lab, wire):
        answer = await wire.ask(f"GET {ALL_PODS}{query}", *headers)
        assert answer.status == 200
        assert names(answer.body) == ["web", "db"]
        assert b"secret" not in answer.body
        assert b"emaining" not in answer.body
        assert b"continue" not in answer.body
        assert "content-length" not in answer.headers
        assert lab.api.calls[-1].of("Accept-Encoding") == ["identity"]
        again = await wire.ask(f"GET {PODS}")  # on the same connection, whole
        assert names(again.body) == ["web", "db"]
        assert "content-length" in again.headers


async def test_a_whole_list_is_relayed_as_it_is(tmp_path: Path) -> None:
    """Where nothing is hidden nothing is looked at: chunks, forms and codings are the client's."""
    async with dev_pods(tmp_path) as (lab, wire):
        for number in range(9):
            lab.api.add_pod("dev", f"more-{number}")
        answer = await wire.ask(f"GET {PODS}?limit=10", "Accept-Encoding: gzip")
        assert answer.headers["content-encoding"] == "gzip"
        assert lab.api.calls[-1].target.endswith("?limit=10")
        protobuf = await wire.ask(f"GET {PODS}", "Accept: application/vnd.kubernetes.protobuf")
        assert protobuf.body.startswith(b"k8s\0")


@pytest.mark.parametrize(
    ("line", "headers", "code", "reason", "said"),
    [
        (f"GET {ALL_PODS}", ["Accept: application/vnd.kubernetes.protobuf"], 406, "NotAcceptable", "only as JSON"),
        (f"GET {ALL_PODS}?continue=MQ%3D%3D", [], 410, "Expired", "not in chunks"),
        ("GET /api/v1/namespaces/prod/pods", [], 403, "Forbidden", 'cannot list resource "pods"'),
        (f"GET {PODS}/web/log", [], 403, "Forbidden", 'cannot log resource "pods"'),
        (f"GET {PODS}/web/proxy/", [], 403, "Forbidden", 'cannot proxy resource "pods"'),
        (f"DELETE {PODS}/web", [], 403, "Forbidden", 'cannot delete resource "pods"'),
        (f"DELETE {PODS}", [], 403, "Forbidden", 'cannot deletecollection resource "pods"'),
        ("GET /metrics", [], 403, "Forbidden", 'cannot get path "/metrics"'),
    ],
)
async def test_refusals(tmp_path: Path, line: str, headers: list[str], code: int, reason: str, said: str) -> None:
    """Each a Status, on record, and nothing reaches the API server."""
    async with dev_pods(tmp_path) as (lab, wire):
        answer = await wire.ask(line, *headers)
        found = json.loads(answer.body)
        assert (answer.status, found["code"], found["reason"]) == (code, code, reason)
        assert said in found["message"]
        assert not lab.api.calls
        (event,) = await lab.events.wait_for("kube.request", 1)
        assert isinstance(event, KubeRequest)
        assert (event.success, event.response_code) == (False, code)


@pytest.mark.parametrize(
    ("kinds", "goes_on"),
    [
        (["application/merge-patch+json"], True),
        (["application/apply-patch+yaml"], False),
        (["Application/Apply-Patch+YAML; charset=utf-8"], False),
        (["application/apply-patch+cbor"], False),
        (["application/merge-patch+json", "application/apply-patch+yaml"], False),
    ],
)
async def test_applying_is_making(tmp_path: Path, kinds: list[str], goes_on: bool) -> None:
    """A server-side apply makes what is not there, so who may only patch may not apply."""
    async with kube_lab(tmp_path) as lab:
        (role,) = parse_resources(
            "kind: role\nversion: v5\nmetadata: {name: patches}\nspec: {allow: {kubernetes_labels: {'*': '*'},"
            " kubernetes_groups: [developers], kubernetes_resources: [{kind: pods, namespace: dev, verbs: [patch]}]}}",
            "role.yaml",
        )
        assert isinstance(role, Role)
        lab.roles["patches"] = role
        async with lab.connected(lab.pair(roles=("patches",))) as wire:
            headers = [f"Content-Type: {kind}" for kind in kinds]
            answer = await wire.ask(f"PATCH {PODS}/web", "Content-Length: 2", *headers, body=b"{}")
            assert (answer.status != 403) is goes_on
            assert bool(lab.api.calls) is goes_on


async def test_the_head_of_a_list_tells_no_length(tmp_path: Path) -> None:
    """It is refused, as it would tell of what is not shown."""
    async with dev_pods(tmp_path) as (lab, wire):
        assert (await wire.ask(f"HEAD {ALL_PODS}")).status == 403
        assert not lab.api.calls


async def lines(wire: Wire, count: int) -> list[bytes]:
    """So many, however the chunks are cut: what comes at once goes on at once."""
    found = b""
    while found.count(b"\n") < count:
        found += await wire.chunk()
    return found.splitlines()


async def test_a_watch_shows_what_the_roles_allow(tmp_path: Path) -> None:
    """Event by event, as plain objects and as tables; a role that changes ends it."""
    async with dev_pods(tmp_path) as (lab, wire):
        await wire.send(f"GET {ALL_PODS}?watch=true")
        assert (await wire.head())[0] == 200
        async with lab.connected(lab.pair(roles=("dev-pods",))) as table:
            await table.send(f"GET {ALL_PODS}?watch=true", TABLE)
            assert (await table.head())[0] == 200
            async with asyncio.timeout(10):
                await lab.api.wait_streams(2)
            for event, namespace, name in (
                ("ADDED", "prod", "secret-1"), ("ADDED", "dev", "web"), ("DELETED", "dev", "db"),
            ):  # fmt: skip
                lab.api.tell(event, namespace, name)
            said, in_rows = await lines(wire, 2), await lines(table, 2)
            for (event, name), line, row in zip((("ADDED", "web"), ("DELETED", "db")), said, in_rows, strict=True):
                plain = json.loads(line)
                assert (plain["type"], plain["object"]["metadata"]["name"]) == (event, name)
                found = json.loads(row)
                assert (found["type"], names(json.dumps(found["object"]).encode())) == (event, [name])
                assert bool(found["object"]["columnDefinitions"]) is (name == "web")
            (narrower,) = parse_resources(
                "kind: role\nversion: v5\nmetadata: {name: dev-pods}\nspec: {allow: {kubernetes_labels: {'*': '*'},"
                " kubernetes_groups: [developers], kubernetes_resources: [{kind: pods, namespace: dev, name: web,"
                " verbs: [watch]}]}}",
                "role.yaml",
            )
            assert isinstance(narrower, Role)
            lab.roles["dev-pods"] = narrower
            assert lab.server is not None
            lab.server.reconsider()
            assert await wire.ended() == b""
            assert await table.ended() == b""


def answering(head: bytes, body: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    return serve


JSON = b"\r\nContent-Type: application/json"
SECRET = b'{"kind":"PodList","items":[{"metadata":{"name":"secret","namespace":"prod"}}'


@pytest.mark.parametrize(
    ("head", "body", "code"),
    [
        (b"200 OK\r\nContent-Type: application/vnd.kubernetes.protobuf", b"k8s\0secret", 502),
        (b"200 OK" + JSON + b"\r\nContent-Encoding: gzip", b"secret", 502),
        (b"200 OK", b"secret", 502),
        (b"201 Created" + JSON, SECRET + b"]}", 502),
        (b"206 Partial Content" + JSON, SECRET + b"]}", 502),
        (b"302 Found\r\nLocation: /x", b"secret", 502),
        (b"200 OK" + JSON, SECRET, 502),
        (b"200 OK" + JSON, b'{"kind":"Pod","metadata":{"name":"secret"}}', 502),
        (b"200 OK" + JSON, SECRET + b"]}", 200),
        (b"403 Forbidden" + JSON, b'{"kind":"Status","message":"no"}', 403),
    ],
)
async def test_answers_that_are_no_list(tmp_path: Path, head: bytes, body: bytes, code: int) -> None:
    """An API server that answers in another way than it was asked shows nothing; its own refusals are relayed."""
    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(answering(head, body)),
        lab.connected(lab.pair(roles=("dev-pods",), kube_cluster="odd")) as wire,
    ):
        answer = await wire.ask(f"GET {ALL_PODS}")
        assert answer.status == code
        assert b"secret" not in answer.body


async def test_a_long_list_that_breaks_off_is_not_shown_as_whole(tmp_path: Path) -> None:
    """What went through already ends with the connection."""
    item = json.dumps({"metadata": {"name": "a", "namespace": "dev"}, "text": "x" * 1000}).encode()
    body = b'{"items":[' + b",".join([item] * 1000)
    head = b"200 OK" + JSON
    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(answering(head, body)),
        lab.connected(lab.pair(roles=("dev-pods",), kube_cluster="odd")) as wire,
    ):
        await wire.send(f"GET {ALL_PODS}")
        assert (await wire.head())[0] == 200
        assert not (await wire.ended()).endswith(b"0\r\n\r\n")


async def test_what_one_cluster_refuses_is_not_asked_of_another(tmp_path: Path) -> None:
    """A certificate without a cluster means the first that may be used, for every call."""
    async with kube_lab(tmp_path, labels={"in": "first"}, more={"two": {"labels": {"in": "second"}}}) as lab:
        (narrow, wide) = parse_resources(
            "kind: role\nversion: v5\nmetadata: {name: narrow}\nspec: {allow: {kubernetes_labels: {in: first},"
            " kubernetes_groups: [developers], kubernetes_resources: [{kind: pods, namespace: dev, verbs: [get]}]}}\n"
            "---\nkind: role\nversion: v5\nmetadata: {name: wide}\n"
            "spec: {allow: {kubernetes_labels: {in: second}, kubernetes_groups: [developers]}}\n",
            "roles.yaml",
        )
        assert isinstance(narrow, Role)
        assert isinstance(wide, Role)
        lab.roles |= {"narrow": narrow, "wide": wide}
        for roles, line, status in (
            (("narrow", "wide"), f"GET {PODS}/web", 200),
            (("narrow", "wide"), f"GET {PODS}", 403),
            (("wide",), f"GET {PODS}", 200),
        ):
            lab.api.calls.clear()
            async with lab.connected(lab.pair(roles=roles)) as wire:
                assert (await wire.ask(line)).status == status
            assert bool(lab.api.calls) is (status == 200)
