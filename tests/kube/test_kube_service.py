"""The listener for Kubernetes clients: who is let in, what reaches the API server, what is on record, what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from teleport.audit.events import AuthFailed, KubeRequest
from teleport.authz.decision import ClusterDefaults
from teleport.identity import SystemRole, UserIdentity
from teleport.kube.forwarder import CLUSTERS
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.values import HostPort
from teleport.testing.clock import FakeClock
from teleport.testing.kube_lab import Lab, Wire, kube_lab
from teleport.testing.web_lab import LabCluster
from teleport.transport.entrance import ConnectionLimits

PODS = "/api/v1/namespaces/dev/pods"


def status(body: bytes) -> str:
    """The sentence of a Status."""
    found = json.loads(body)
    assert found["kind"] == "Status"
    return str(found["message"])


async def requests(lab: Lab, count: int = 1) -> list[KubeRequest]:
    found = await lab.events.wait_for("kube.request", count)
    return [event for event in found if isinstance(event, KubeRequest)]


async def settled(lab: Lab, streams: int) -> None:
    """Waits until the API server has so many open streams."""
    async with asyncio.timeout(10):
        await lab.api.wait_streams(streams)


async def test_a_call_goes_on_in_the_persons_name(tmp_path: Path) -> None:
    """The API server is told user and groups by us, and the record says what was asked."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        answer = await wire.ask(f"GET {PODS}?limit=5", "Accept: application/json", "User-Agent: kubectl")
        assert answer.status == 200
        assert json.loads(answer.body)["items"][0]["metadata"]["name"] == "web"
        seen = lab.api.calls[-1]
        assert seen.target == f"{PODS}?limit=5"
        assert seen.of("Impersonate-User") == ["alice"]
        assert seen.of("Impersonate-Group") == ["developers", "testers", "system:authenticated"]
        assert seen.of("X-Forwarded-For") == ["127.0.0.1"]
        assert seen.of("User-Agent") == ["kubectl"]
        (event,) = await requests(lab)
        assert (event.code, event.user, event.verb, event.resource_kind) == ("T3009I", "alice", "list", "pods")
        assert (event.resource_namespace, event.response_code, event.kubernetes_cluster) == ("dev", 200, "one")
        assert (event.kubernetes_users, event.request_path) == (["alice"], PODS)
        assert event.proto == "kube"


async def test_a_connection_takes_many_calls(tmp_path: Path) -> None:
    """Requests follow each other on one connection, also when they come together, and bodies go on as they came."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        body = b'{"metadata":{"name":"new"}}'
        made = await wire.ask(f"POST {PODS}", f"Content-Length: {len(body)}", body=body)
        assert made.status == 201
        assert lab.api.calls[-1].body == body
        chunked = b"5\r\n" + body[:5] + b"\r\n%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\nX-Trailer: x\r\n\r\n"
        assert (await wire.ask(f"POST {PODS}", "Transfer-Encoding: chunked", body=chunked)).status == 201
        assert lab.api.calls[-1].body == body
        await wire.send(f"GET {PODS}/new")
        await wire.send("GET /version")
        first, second = await wire.answer(), await wire.answer()
        assert json.loads(first.body)["metadata"]["name"] == "new"
        assert json.loads(second.body)["major"] == "1"
        head = await wire.ask(f"HEAD {PODS}/new")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        assert len(await requests(lab, 5)) == 5


async def test_who_waits_for_a_sign_gets_one(tmp_path: Path) -> None:
    """A body that is sent only once the server asks for it is asked for."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        body = b'{"metadata":{"name":"new"}}'
        await wire.send(f"POST {PODS}", f"Content-Length: {len(body)}", "Expect: 100-continue")
        assert (await wire.head())[0] == 100
        wire.writer.write(body)
        assert (await wire.answer()).status == 201
        assert lab.api.calls[-1].of("Expect") == []


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer x",
        "Proxy-Authorization: Basic x",
        "X-Remote-User: admin",
        "X-Remote-Group: system:masters",
        "X_Remote_User: admin",
        "X-Remote-Extra-Scopes: x",
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /api/v1/secrets",
        "Cookie: a=b",
        "Keep-Alive: 5",
        "TE: trailers",
    ],
)
async def test_nothing_that_says_who_goes_on(tmp_path: Path, header: str) -> None:
    """What a client says of itself does not reach the API server."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask(f"GET {PODS}", header)).status == 200
        assert lab.api.calls[-1].of(header.partition(":")[0]) == []


async def test_what_connection_names_goes_nowhere(tmp_path: Path) -> None:
    """It cannot take our own headers away from the server either."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        named = "Connection: keep-alive, X-Private, Impersonate-User, Impersonate-Group"
        assert (await wire.ask(f"GET {PODS}", named, "X-Private: 1")).status == 200
        seen = lab.api.calls[-1]
        assert (seen.of("X-Private"), seen.of("Impersonate-User")) == ([], ["alice"])


@pytest.mark.parametrize(
    ("headers", "code", "groups"),
    [
        (["Impersonate-User: alice", "Impersonate-Group: developers"], 200, ["developers", "system:authenticated"]),
        (["Impersonate-Group: testers"], 403, ["testers", "system:authenticated"]),
        (["Impersonate-User: admin"], 403, None),
        (["Impersonate-Group: system:masters"], 403, None),
        (["impersonate-group: system:masters"], 403, None),
        (["Impersonate_Group: system:masters"], 403, None),
        (["Impersonate-Uid: 1"], 403, None),
        (["Impersonate-Extra-Scopes: x"], 403, None),
        (["Impersonate-User: alice", "Impersonate-User: admin"], 403, None),
    ],
    ids=str,
)
async def test_acting_as_somebody(tmp_path: Path, headers: list[str], code: int, groups: list[str] | None) -> None:
    """Within what the roles give it is the API server that decides, else nothing reaches it."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask(f"GET {PODS}", *headers)).status == code
        if groups is None:
            assert lab.api.calls == []
        else:
            assert lab.api.calls[-1].of("Impersonate-Group") == groups


@pytest.mark.parametrize(
    ("line", "headers", "code"),
    [
        (f"POST {PODS}/web/exec?command=sh", ["Connection: Upgrade", "Upgrade: SPDY/3.1"], 400),
        (f"GET {PODS}/web/exec?command=sh", ["Connection: Upgrade", "Upgrade: websocket"], 400),
        (f"POST {PODS}/web/%65xec?command=sh", [], 400),
        (f"POST {PODS}/web/attach", [], 400),
        (f"POST {PODS}/web/portforward", [], 400),
        (f"POST {PODS}/web/portforward", ["Connection: Upgrade", "Upgrade: h2c"], 400),
        (f"POST {PODS}/web/portforward", ["Upgrade: SPDY/3.1"], 400),
        (f"POST {PODS}/web/portforward", ["Connection: Upgrade", "Upgrade: SPDY/3.1, h2c"], 400),
        ("POST /api/v1/nodes/n/proxy/run/dev/web/main?cmd=id", [], 403),
        ("GET /api/v1/proxy/nodes/n/run/dev/web/main?cmd=id", [], 403),
        (f"GET {PODS}?watch=true", ["Connection: Upgrade", "Upgrade: websocket"], 403),
        (f"GET {PODS}", ["Connection: upgrade"], 403),
        (f"GET {PODS}", ["Upgrade: h2c", "HTTP2-Settings: x"], 403),
        ("GET /api/v1/namespaces/dev//pods", [], 400),
        ("GET /api/v1/namespaces/dev/../secrets", [], 400),
        ("GET /api/v1/namespaces/dev%2Fpods", [], 400),
        ("OPTIONS /api/v1/pods", [], 400),
        ("GET https://elsewhere/api", [], 400),
    ],
)
async def test_refused_before_anything_reaches_the_server(
    tmp_path: Path, line: str, headers: list[str], code: int
) -> None:
    """Streams into pods, other protocols, and what could be read in two ways. Each is on record with its reason."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        answer = await wire.ask(line, *headers)
        assert answer.status == code
        assert status(answer.body)
        assert lab.api.calls == []
        (event,) = await requests(lab)
        assert (event.success, event.response_code, event.user) == (False, code, "alice")
        assert event.error
        assert (await wire.ask("GET /version")).status == 200  # the connection goes on


async def test_node_services_where_nothing_is_recorded(tmp_path: Path) -> None:
    """Only where sessions have to be recorded is a node's own service refused."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        lab.defaults = ClusterDefaults(record_sessions=False)
        assert (await wire.ask("GET /api/v1/nodes/n/proxy/metrics")).status == 404
        assert len(lab.api.calls) == 1
        assert (await wire.ask(f"POST {PODS}/web/exec")).status == 400  # it asks for no stream
        upgrade = ("Connection: Upgrade", "Upgrade: websocket")
        assert (await wire.ask("GET /api/v1/nodes/n/proxy/exec/dev/web/main", *upgrade)).status == 403
        assert len(lab.api.calls) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ],
)
async def test_smuggling_ends_the_connection(tmp_path: Path, sent: bytes) -> None:
    """A head with two readings is the last one on its connection, whatever came before it."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask("GET /version")).status == 200
        wire.writer.write(sent + b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await wire.ended()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert len(lab.api.calls) == 1
        (event,) = await lab.events.wait_for("auth")
        assert isinstance(event, AuthFailed)
        assert event.user == "alice"


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n", b"5\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n\r\n"],
)
async def test_a_body_that_breaks_its_frame_reaches_nobody_whole(tmp_path: Path, body: bytes) -> None:
    """The call to the server is cut, so that it does not take the part for the whole."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        await wire.send(f"POST {PODS}", "Transfer-Encoding: chunked", body=body)
        wire.writer.write_eof() if wire.writer.can_write_eof() else wire.writer.close()
        await wire.ended()
        assert lab.api.calls == []


# who is let in


async def refused_by_tls(lab: Lab, pair: tuple[Path, Path] | None) -> None:
    """In TLS 1.3 the client learns it when it reads."""
    context = lab.context(pair)
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.transport.abort()


async def test_nobody_without_a_certificate_of_a_user(tmp_path: Path) -> None:
    """No certificate, one of another cluster, a host's: TLS refuses, and it is on record without a name."""
    async with kube_lab(tmp_path) as lab:
        (tmp_path / "other").mkdir()
        other = LabCluster(tmp_path / "other", "lab.test")
        host = lab.cluster.host_pair(SystemRole.NODE, "node")
        for pair in (None, lab.pair(by=other), host):
            await refused_by_tls(lab, pair)
        found = await lab.events.wait_for("auth", 3)
        assert all(isinstance(event, AuthFailed) and event.proto == "kube" and not event.user for event in found)
        assert lab.api.calls == []


@pytest.mark.parametrize("usage", ["usage:apps", "usage:db"])
async def test_certificates_for_another_use(tmp_path: Path, usage: str) -> None:
    """One that is limited to something else is told so."""
    async with kube_lab(tmp_path) as lab, lab.connected(lab.pair(usage=(usage,))) as wire:
        answer = await wire.ask("GET /version")
        assert answer.status == 403
        assert "limited to another use" in status(answer.body)
        await wire.ended()
        assert lab.api.calls == []


async def test_a_certificate_for_kubernetes_alone(tmp_path: Path) -> None:
    """It names the cluster that it is for; another name, or one that is not there, is nobody's."""
    async with kube_lab(tmp_path, more={"two": {}}) as lab:
        async with lab.connected(lab.pair(usage=("usage:kube",), kube_cluster="two")) as wire:
            assert (await wire.ask("GET /version")).status == 200
            assert (await requests(lab))[0].kubernetes_cluster == "two"
        async with lab.connected(lab.pair(usage=("usage:kube",), kube_cluster="three")) as wire:
            answer = await wire.ask("GET /version")
            assert answer.status == 403
            assert "'three'" in status(answer.body)


async def test_no_connection_outlives_the_authority_that_let_it_in(tmp_path: Path) -> None:
    """A key that was replaced because it was stolen lets nobody ask again on a connection that it once began."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask("GET /version")).status == 200
        lab.trusting = False
        for line in ("GET /version", f"GET {CLUSTERS}"):
            answer = await wire.ask(line)
            assert answer.status == 403
            assert "not signed by an authority" in status(answer.body)
        assert len(lab.api.calls) == 1


async def test_a_user_that_is_gone(tmp_path: Path) -> None:
    """Removed before it came, or since: every call is refused."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask("GET /version")).status == 200
        lab.gone.add("alice")
        assert (await wire.ask("GET /version")).status == 403
        async with lab.connected() as late:
            answer = await late.ask("GET /version")
            assert "does not exist any more" in status(answer.body)


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_locked_and_without_rights(tmp_path: Path, user: str) -> None:
    """A locked user and one without a role that lets in get a Status; the reason is for the record only."""
    async with kube_lab(tmp_path) as lab:
        lab.locks.append(
            Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"), message="why"))
        )
        roles = ("dev",) if user == "alice" else ("prod-only",)
        async with lab.connected(lab.pair(user, roles=roles)) as wire:
            answer = await wire.ask(f"GET {PODS}")
            assert answer.status == 403
            assert "why" not in status(answer.body)
            assert "prod" not in status(answer.body)
            (event,) = await requests(lab)
            assert event.error.startswith("locked: lock l" if user == "alice" else "not_granted: role 'prod-only'")


async def test_no_more_users_than_may_be_here(tmp_path: Path) -> None:
    """Whoever is one too many is told so; who is in stays."""
    async with kube_lab(tmp_path, connections=ConnectionLimits(max_users=1)) as lab, lab.connected() as wire:
        assert (await wire.ask("GET /version")).status == 200
        async with lab.connected(lab.pair("bob")) as late:
            assert (await late.ask("GET /version")).status == 429
        async with lab.connected() as again:
            assert (await again.ask("GET /version")).status == 200


async def test_silent_connections_make_room(tmp_path: Path) -> None:
    """Whoever proves nothing keeps nobody out."""
    async with kube_lab(tmp_path, unproved=4) as lab:
        silent = [await asyncio.open_connection("127.0.0.1", lab.port) for _ in range(6)]
        async with lab.connected() as wire:
            assert (await wire.ask("GET /version")).status == 200
        for _, writer in silent:
            writer.close()


async def listed(wire: Wire) -> list[str]:
    answer = await wire.ask(f"GET {CLUSTERS}")
    assert answer.status == 200
    return [one["name"] for one in json.loads(answer.body)["clusters"]]


async def test_the_clusters_that_somebody_may_use(tmp_path: Path) -> None:
    """Those alone are listed, by the proxy itself; no API server hears of it, and the connection goes on."""
    more = {"two": {"labels": {"env": "prod"}}, "three": {}}
    async with kube_lab(tmp_path, more=more) as lab:
        async with lab.connected() as wire:
            assert await listed(wire) == ["one", "three", "two"]
            assert (await wire.ask("GET /version")).status == 200
        async with lab.connected(lab.pair("bob", roles=("prod-only",))) as wire:
            assert await listed(wire) == ["two"]
        async with lab.connected(lab.pair("eve", roles=("gone",))) as wire:
            assert await listed(wire) == []
        assert len(lab.api.calls) == 1
        for line in (f"POST {CLUSTERS}", f"GET {CLUSTERS}/", f"GET {CLUSTERS}?x=1"):
            async with lab.connected(lab.pair("bob", roles=("prod-only",))) as wire:
                assert (await wire.ask(line)).status != 200


async def test_a_locked_user_is_told_so_by_the_list(tmp_path: Path) -> None:
    """It is no empty list."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
        answer = await wire.ask(f"GET {CLUSTERS}")
        assert (answer.status, status(answer.body).partition(" (")[0]) == (403, "Access is locked.")


# streams


async def test_streams_are_relayed_as_they_come(tmp_path: Path) -> None:
    """Each event of a watch and each line of a log arrives when it happens; it is on record when it begins."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        await wire.send(f"GET {PODS}?watch=true")
        assert (await wire.head())[0] == 200
        assert (await requests(lab))[0].verb == "watch"
        lab.api.tell("ADDED", "dev", "web")
        assert json.loads(await wire.chunk())["type"] == "ADDED"
        async with lab.connected() as other:
            await other.send(f"GET {PODS}/web/log?follow=true")
            await other.head()
            assert await other.chunk() == b"first line\n"
            lab.api.say(b"\xff\x00 second\n")
            assert await other.chunk() == b"\xff\x00 second\n"


async def test_who_leaves_takes_the_stream_along(tmp_path: Path) -> None:
    """The API server is not left with a stream that nobody reads."""
    async with kube_lab(tmp_path) as lab:
        async with lab.connected() as wire:
            await wire.send(f"GET {PODS}?watch=true")
            await wire.head()
            await settled(lab, 1)
        await settled(lab, 0)


@pytest.mark.parametrize("change", ["lock", "role", "user", "group", "authority"])
async def test_a_change_ends_open_streams(tmp_path: Path, change: str) -> None:
    """A lock, a role taken or changed, a user removed: the stream is cut at once, at both ends."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire, lab.connected(lab.pair("bob")) as other:
        for one in (wire, other):
            await one.send(f"GET {PODS}?watch=true")
            await one.head()
        await settled(lab, 2)
        assert lab.server is not None
        lab.server.reconsider()
        match change:
            case "lock":
                lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
            case "user":
                lab.gone.add("alice")
            case "authority":
                lab.trusting = False
            case "role":
                lab.roles.clear()
            case "group":
                lab.roles["dev"] = lab.roles["prod-only"]
        lab.server.reconsider()
        assert await wire.ended() == b""
        if change in ("lock", "user"):
            await settled(lab, 1)
            lab.api.tell("ADDED", "dev", "web")
            assert await other.chunk()
        else:
            await settled(lab, 0)


async def test_a_decision_that_fails_ends_its_stream_and_keeps_no_other_one_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes the decision about themselves fail does not outlive a lock, nor does anybody behind them."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire, lab.connected(lab.pair("bob")) as other:
        for one in (wire, other):
            await one.send(f"GET {PODS}?watch=true")
            await one.head()
        await settled(lab, 2)
        assert lab.server is not None
        lab.locks.extend(
            Lock(metadata=Metadata(name=user), spec=LockSpec(target=LockTarget(user=user))) for user in ("alice", "bob")
        )

        decides = lab.permit_kube

        def fails(identity: UserIdentity, *rest: Any) -> object:
            if identity.name == "alice":
                raise RuntimeError("a decision failed")
            return decides(identity, *rest)

        monkeypatch.setattr(lab, "permit_kube", fails)
        lab.server.reconsider()
        assert await wire.ended() == b""
        assert await other.ended() == b""
        await settled(lab, 0)


async def test_a_stream_ends_with_the_certificate(tmp_path: Path) -> None:
    """No stream outlives the certificate that began it."""
    nearly = FakeClock(datetime.now(UTC) + timedelta(seconds=59))
    async with kube_lab(tmp_path, clock=nearly) as lab, lab.connected(lab.pair(ttl=timedelta(minutes=1))) as wire:
        await wire.send(f"GET {PODS}?watch=true")
        await wire.head()
        await settled(lab, 1)
        assert await wire.ended() == b""
        await settled(lab, 0)


async def test_leaving(tmp_path: Path) -> None:
    """A daemon that leaves closes what is idle, answers what was asked, and ends streams only when told to."""
    async with kube_lab(tmp_path) as lab, lab.connected() as idle, lab.connected() as wire:
        assert (await idle.ask("GET /version")).status == 200
        await wire.send(f"GET {PODS}?watch=true")
        await wire.head()
        server = lab.server
        assert server is not None
        server.pause()
        server.leave()
        assert await idle.ended() == b""
        lab.api.tell("ADDED", "dev", "web")
        assert await wire.chunk()
        server.end_endless()
        assert await wire.ended() == b""
        await server.resume()
        async with lab.connected() as again:
            assert (await again.ask("GET /version")).status == 200


# the record and the server


async def test_nothing_is_answered_that_is_not_on_record(tmp_path: Path) -> None:
    """While events cannot be kept there is no answer of the API server."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        lab.events.failing = True
        answer = await wire.ask(f"GET {PODS}")
        assert answer.status == 503
        assert b"items" not in answer.body
        assert "was made" in status(answer.body)
        made = len(lab.api.calls)
        for method in ("GET", "DELETE"):  # and nothing more is made, by nobody
            assert "not made" in status((await wire.ask(f"{method} {PODS}/web")).body)
        assert len(lab.api.calls) == made
        lab.events.failing = False
        assert (await wire.ask(f"GET {PODS}")).status == 200
        paths = [(event.request_path, event.response_code) for event in await requests(lab, 2)]
        assert paths == [(PODS, 200), (PODS, 200)]  # the first one late


@pytest.mark.parametrize("ending", ["leaves", "is cut", "ends with the daemon"])
async def test_a_call_that_nobody_waits_for_is_on_record(tmp_path: Path, ending: str) -> None:
    """Whoever has something done and leaves before the answer is on record with it; so is who is cut off."""
    arrived, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read()
        writer.transport.abort()
        left.set()

    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(serve),
        lab.connected(lab.pair(kube_cluster="odd")) as wire,
    ):
        await wire.send(f"DELETE {PODS}/web")
        await arrived.wait()
        match ending:
            case "leaves":
                wire.writer.transport.abort()
            case "is cut":
                lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
                assert lab.server is not None
                lab.server.reconsider()
            case "ends with the daemon":
                await lab.stop()
        (event,) = await requests(lab)
        assert (event.verb, event.response_code, event.success) == ("delete", 0, False)
        assert "before the API server's answer" in event.error
        await left.wait()


async def test_a_refusal_that_nobody_reads_is_on_record(tmp_path: Path) -> None:
    """Leaving at once hides no attempt."""
    async with kube_lab(tmp_path) as lab:
        for _ in range(5):
            async with lab.connected() as wire:
                await wire.send("POST /api/v1/nodes/n/proxy/run/dev/web/main")
        assert len(await requests(lab, 5)) == 5


@pytest.mark.parametrize(
    "changes",
    [{"address": HostPort("127.0.0.1", 1)}, {"server_name": "elsewhere"}, {"certificate": b"", "key": b""}],
    ids=["nobody listens", "another name", "no certificate of ours"],
)
async def test_an_api_server_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The client hears that it is the API server; the connection goes on."""
    async with kube_lab(tmp_path, more={"away": changes}) as lab:
        async with lab.connected(lab.pair(kube_cluster="away")) as wire:
            for _ in range(2):
                answer = await wire.ask("GET /version")
                assert answer.status == 502
                assert "API server" in status(answer.body)
        assert lab.api.calls == []
        assert [event.success for event in await requests(lab, 2)] == [False, False]


async def test_a_kept_connection_that_the_server_ended(tmp_path: Path) -> None:
    """A call that reads only is made again; nobody notices."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        for _ in range(5):
            assert (await wire.ask("GET /version")).status == 200
            lab.api.drop_connections()
        assert len(lab.api.calls) == 5


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_answers_with_two_readings(tmp_path: Path, answer: bytes) -> None:
    """What an API server sends is read as strictly as what clients send; such an answer reaches nobody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(serve),
        lab.connected(lab.pair(kube_cluster="odd")) as wire,
    ):
        assert (await wire.ask("GET /version")).status == 502


async def test_what_answers_say_of_one_connection_stays_there(tmp_path: Path) -> None:
    """Informational heads, and headers of the server's own connection, are not the client's."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close, X-Own\r\n")
        writer.write(b"X-Own: 1\r\nSet-Cookie: a=b\r\nX-Kept: 2\r\nKeep-Alive: 5\r\n\r\nuntil it ends")
        writer.close()

    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(serve),
        lab.connected(lab.pair(kube_cluster="odd")) as wire,
    ):
        answer = await wire.ask("GET /version")
        assert (answer.status, answer.body) == (200, b"until it ends")
        assert answer.headers == {"x-kept": "2", "transfer-encoding": "chunked"}
