"""Clients that are not kubectl, at a real API server: lists and watches of which a part is shown, websockets."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.realkube.conftest import Estate
from yarl import URL

from teleport.testing.cluster import LOOPBACK, NAME, Person
from teleport.testing.kube_image import PAGE

pytestmark = pytest.mark.real_kube

ROLE = """
kind: role
version: v5
metadata: {name: part}
spec:
  allow:
    kubernetes_labels: {'*': '*'}
    kubernetes_groups: [everything]
    kubernetes_resources:
    - {kind: pods, namespace: dev, name: 'we*', verbs: ['*']}
    - {kind: configmaps, namespace: '*', name: 'shown-*', verbs: [get, list, watch]}
"""
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@dataclass
class Caller:
    """Somebody who speaks HTTP to the proxy."""

    estate: Estate
    person: Person
    context: ssl.SSLContext

    @property
    def port(self) -> int:
        address = str(self.estate.cluster.config["proxy_service"]["kubernetes"]["listen_addr"])
        return int(address.rpartition(":")[2])

    def get(self, path: str, accept: str = "application/json", **headers: str) -> tuple[int, str, bytes]:
        """Status, type and body of the answer."""
        connection = HTTPSConnection(LOOPBACK, self.port, context=self.context, timeout=30)
        try:
            connection.request("GET", path, headers={"Accept": accept, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def direct(self, path: str) -> Any:
        """What the administrator of the cluster reads."""
        return self.estate.kube.kubectl("get", "--raw", path).json()


def caller(estate: Estate, name: str, role: str, folder: Path) -> Caller:
    person = estate.person(name, role)
    given = person.tsh("kube", "credentials", "--kube-cluster=demo", f"--teleport-cluster={NAME}").json()["status"]
    (folder / "crt").write_text(given["clientCertificateData"])
    (folder / "key").write_text(given["clientKeyData"])
    context = ssl.create_default_context(cadata=estate.cluster.authority())
    context.check_hostname = False
    context.load_cert_chain(folder / "crt", folder / "key")
    return Caller(estate, person, context)


@pytest.fixture(scope="module")
def part(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    """Whoever sees a part of lists: one pod of three, half of 600 configuration maps."""
    estate.cluster.tctl("create", "-f", stdin=ROLE).ok()
    estate.kube.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"{shown}-{number}", "namespace": namespace, "labels": {"many": "yes"}},
                "data": {"text": "x" * 2000},
            }
            for namespace in ("dev", "prod")
            for shown in ("shown", "hidden")
            for number in range(150)
        )
    )
    return caller(estate, "parker", "part", tmp_path_factory.mktemp("parker"))


def names(listed: bytes) -> set[str]:
    """Of a list, a table, or metadata alone."""
    found = json.loads(listed)
    rows = [row["object"] for row in found["rows"]] if found["kind"] == "Table" else found["items"]
    return {one["metadata"]["name"] for one in rows}


@pytest.mark.parametrize(
    ("accept", "query"),
    [
        ("application/json", ""),
        ("*/*", ""),  # not `pretty`: the API server dies of that, as it is built
        ("application/json", "?limit=1"),
        ("application/json", "?resourceVersion=0"),
        ("application/json", "?fieldSelector=status.phase%3DRunning&labelSelector=app"),
        (TABLE, ""),
        (TABLE, "?includeObject=None"),
        (TABLE, "?includeObject=Object&limit=500"),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", ""),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", ""),
        ("application/vnd.kubernetes.protobuf,application/json", ""),
    ],
)
def test_lists_show_their_part_in_every_form(part: Caller, accept: str, query: str) -> None:
    """Also compressed, where a client says that it takes that."""
    for path in ("/api/v1/pods", "/api/v1/namespaces/dev/pods"):
        status, kind, body = part.get(path + query, accept, **{"Accept-Encoding": "gzip"})
        assert (status, kind.partition(";")[0]) == (200, "application/json")
        assert names(body) == {"web"}
        assert b"hidden" not in body
        assert b"quiet" not in body


@pytest.mark.parametrize(
    ("accept", "query", "status"),
    [
        ("application/vnd.kubernetes.protobuf", "", 406),
        ("application/yaml", "", 406),
        ("application/json", "?continue=abc", 410),
        ("application/vnd.kubernetes.protobuf;stream=watch", "?watch=true", 406),
    ],
)
def test_lists_that_cannot_be_shown_in_part(part: Caller, accept: str, query: str, status: int) -> None:
    answered, _, body = part.get(f"/api/v1/pods{query}", accept)
    assert answered == status
    assert json.loads(body)["kind"] == "Status"


def test_a_long_list(part: Caller) -> None:
    """Objects are those that the API server has, unchanged."""
    _, _, body = part.get("/api/v1/configmaps?labelSelector=many&limit=50")
    every = part.direct("/api/v1/configmaps?labelSelector=many")["items"]
    wanted = [one for one in every if one["metadata"]["name"].startswith("shown-")]
    assert len(wanted) == 300
    assert json.loads(body)["items"] == wanted


@pytest.mark.parametrize("query", ["watch=true&timeoutSeconds=1", "watch=1&timeoutSeconds=1&allowWatchBookmarks=true"])
@pytest.mark.parametrize("accept", ["application/json", TABLE, "application/json;stream=watch"])
def test_watches_show_their_part(part: Caller, query: str, accept: str) -> None:
    """The server ends them when it was asked to, and they end well."""
    status, _, body = part.get(f"/api/v1/pods?{query}", accept)
    assert status == 200, body
    events = [json.loads(line) for line in body.splitlines()]
    assert {one["type"] for one in events} <= {"ADDED", "MODIFIED", "BOOKMARK"}
    assert b'"web"' in body
    assert b"hidden" not in body


@pytest.mark.parametrize("path", ["/api/v1/watch/pods", "/api/v1/watch/namespaces/dev/pods/quiet"])
def test_the_old_form_of_watches(part: Caller, path: str) -> None:
    """It shows no more than the other one."""
    status, _, body = part.get(f"{path}?timeoutSeconds=1")
    assert (status, b"quiet" in body.partition(b'"message"')[0]) in ((200, False), (403, False)), body


def test_a_watch_that_begins_long_ago(part: Caller) -> None:
    """What has happened since, or that it is too long ago, is told as it is without us, of the part that is shown."""
    path = "/api/v1/pods?watch=true&resourceVersion=1&timeoutSeconds=2"
    status, _, body = part.get(path)
    every = [json.loads(line) for line in part.estate.kube.kubectl("get", "--raw", path).ok().stdout.splitlines()]
    shown = [one for one in every if one["type"] == "ERROR" or one["object"]["metadata"]["name"] == "web"]
    assert (status, [json.loads(line) for line in body.splitlines()]) == (200, shown)
    assert shown


def test_what_leads_through_the_server_to_a_pod(estate: Estate, part: Caller, tmp_path: Path) -> None:
    """A page of the pod, by the API server's own proxy; only of pods that the role shows."""
    status, _, body = part.get("/api/v1/namespaces/dev/pods/web:8000/proxy/index.html", "*/*")
    assert (status, body.decode()) == (200, PAGE)
    assert part.get("/api/v1/namespaces/dev/pods/quiet:8000/proxy/")[0] == 403
    assert part.get("/api/v1/namespaces/dev/services/web/proxy/")[0] == 403


async def test_a_command_by_a_websocket(estate: Estate, tmp_path: Path) -> None:
    """As browsers' clients and Kubernetes' libraries of other languages ask; recorded."""
    me = await asyncio.to_thread(caller, estate, "wes", "developers", tmp_path)
    url = f"https://{LOOPBACK}:{me.port}/api/v1/namespaces/dev/pods/quiet/exec"
    asked = "?command=sh&command=-c&command=echo%20out%3Becho%20err%20%3E%262%3Bcat&stdin=true&stdout=true&stderr=true"
    heard: dict[int, bytes] = {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(URL(url + asked, encoded=True), ssl=me.context, protocols=("v4.channel.k8s.io",)) as stream,
    ):
        assert stream.protocol == "v4.channel.k8s.io"
        await stream.send_bytes(b"\x00typed\n")
        async with asyncio.timeout(20):
            while b"typed" not in heard.get(1, b""):
                data = await stream.receive_bytes()
                heard[data[0]] = heard.get(data[0], b"") + data[1:]
    assert heard[1] == b"out\ntyped\n"
    assert heard[2] == b"err\n"
    end = await asyncio.to_thread(estate.cluster.wait_event, "session.end", user="wes")
    await asyncio.to_thread(estate.cluster.wait_event, "session.upload", sid=end["sid"])
    played = await asyncio.to_thread(me.person.tsh, "play", end["sid"], "--format=text")
    assert "typed" in played.stdout


async def test_a_port_by_a_websocket(estate: Estate, tmp_path: Path) -> None:
    me = await asyncio.to_thread(caller, estate, "wim", "developers", tmp_path)
    url = f"https://{LOOPBACK}:{me.port}/api/v1/namespaces/dev/pods/web/portforward?ports=8000"
    heard: dict[int, bytes] = {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, ssl=me.context, protocols=("v4.channel.k8s.io",)) as stream,
    ):
        await stream.send_bytes(b"\x00GET / HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(20):
            while PAGE.encode() not in heard.get(0, b""):
                data = await stream.receive_bytes()
                heard[data[0]] = heard.get(data[0], b"") + data[1:]
    assert heard[0].startswith((8000).to_bytes(2, "little"))
