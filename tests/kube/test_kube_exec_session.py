"""Sessions in pods are recorded: what is in the recording, on record, and what becomes of those that cannot be."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from teleport.audit.events import ClientDisconnect, Exec, KubeRequest, Resize, SessionData, SessionEnd, SessionStart
from teleport.authz.decision import ClusterDefaults
from teleport.errors import TeleportError
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.testing.clock import FakeClock
from teleport.testing.kube_lab import Lab, kube_lab
from teleport.testing.memory import MemoryRecording

POD = "/api/v1/namespaces/dev/pods/web"
KUBECTL = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed (kubernetes-client)")


@asynccontextmanager
async def stream(
    lab: Lab, *words: str, more: str = "", pair: tuple[Path, Path] | None = None, call: str = "exec"
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A command in the pod, by a websocket."""
    query = urlencode([("command", word) for word in words])
    async with aiohttp.ClientSession() as session:
        url = URL(
            f"https://127.0.0.1:{lab.port}{POD}/{call}?{query}&stdin=true&stdout=true&stderr=true{more}", encoded=True
        )
        context = lab.context(pair or lab.pair())
        async with session.ws_connect(url, ssl=context, protocols=("v5.channel.k8s.io",)) as found:
            yield found


async def rest(found: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """What comes until the end, by channel."""
    got: dict[int, bytes] = {}
    async with asyncio.timeout(10):
        async for message in found:
            got[message.data[0]] = got.get(message.data[0], b"") + message.data[1:]
    return got


async def ended(lab: Lab) -> tuple[SessionEnd, MemoryRecording]:
    """The one session's end, and its recording."""
    (end,) = await lab.events.wait_for("session.end")
    assert isinstance(end, SessionEnd)
    (recording,) = lab.recordings.all
    return end, recording


async def status_of_refusal(lab: Lab) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with stream(lab, "echo", "a"):
            raise AssertionError("it was let in")
    return caught.value.status


async def test_a_command_is_recorded(tmp_path: Path) -> None:
    """Its output as it was, its errors apart; and on record is who did what where, and how it ended."""
    async with kube_lab(tmp_path) as lab:
        async with stream(lab, "sh", "-c", "cat >&2;echo out;exit 3", more="&container=main") as found:
            await found.send_bytes(b"\x00to stderr")
            await found.send_bytes(b"\xff\x00")
            got = await rest(found)
        assert (got[1], got[2]) == (b"out\n", b"to stderr")
        assert json.loads(got[3])["reason"] == "NonZeroExitCode"
        end, recording = await ended(lab)
        assert (bytes(recording.stdout), bytes(recording.stderr), recording.sizes) == (b"out\n", b"to stderr", [])
        assert recording.reason == "ended"
        header = recording.header
        assert (header.user, header.login, header.place, header.container) == ("alice", "alice", "one/dev/web", "main")
        command = "sh -c 'cat >&2;echo out;exit 3'"
        assert (header.command, header.interactive, header.width) == (command, False, 0)
        start, execed, data = (lab.events.named(name)[0] for name in ("session.start", "exec", "session.data"))
        assert isinstance(start, SessionStart)
        assert isinstance(execed, Exec)
        assert isinstance(data, SessionData)
        assert (start.kubernetes_cluster, start.kubernetes_pod_namespace, start.kubernetes_pod_name) == (
            "one",
            "dev",
            "web",
        )
        assert start.kubernetes_groups == ["developers", "testers", "system:authenticated"]
        assert (start.kubernetes_users, start.kubernetes_container_name) == (["alice"], "main")
        assert (start.proto, start.size, start.initial_command, start.session_recording) == (
            "kube",
            "",
            [command],
            "proxy",
        )
        assert (execed.command, execed.exit_code, execed.exit_error, execed.code) == (command, "3", "", "T3002E")
        assert (data.tx, data.rx) == (13, 9)
        assert (end.reason, end.interactive, end.participants, end.recording_hash) == ("", False, ["alice"], "00" * 32)
        assert [event.ei for event in (start, execed, end)] == [0, 1, 2]
        assert len({event.sid for event in (start, execed, data, end)} | {header.sid}) == 1
        assert lab.recordings.on_record_of == [header.sid]
        (call,) = lab.events.named("kube.request")
        assert isinstance(call, KubeRequest)
        assert (call.response_code, call.resource_kind) == (101, "pods/exec")
        assert [event for event in lab.events.all if event in (start, call)] == [start, call]


async def test_a_terminal(tmp_path: Path) -> None:
    """What it showed, with its sizes; what was typed and not shown is nowhere."""
    async with kube_lab(tmp_path) as lab:
        script = "stty -echo;echo ready;read word;stty size;read word"
        async with stream(lab, "sh", "-c", script, more="&tty=true") as found:
            await found.send_bytes(b'\x04{"Width":100,"Height":30}\n')
            for _ in range(2):
                await found.send_bytes(b'\x04{"Width":101,"Height":31}\n')
            got = b""
            while b"ready" not in got:
                got += (await found.receive_bytes())[1:]
            await found.send_bytes(b"\x00hunter2\n")
            while b"101" not in got:
                got += (await found.receive_bytes())[1:]
            await found.send_bytes(b"\x00hunter2\n")
            got += (await rest(found)).get(1, b"")
        end, recording = await ended(lab)
        assert recording.stdout == got
        assert b"31 101" in got
        assert b"hunter2" not in recording.stdout + recording.stderr
        assert "hunter2" not in str(lab.events.all)
        assert recording.sizes == [(100, 30), (101, 31)]
        assert (recording.header.width, recording.header.height, recording.header.interactive) == (80, 24, True)
        assert end.interactive
        sizes = [event.size for event in lab.events.named("resize") if isinstance(event, Resize)]
        assert sizes[-1] == "101:31"


async def test_attach(tmp_path: Path) -> None:
    """As a session without a command."""
    async with kube_lab(tmp_path) as lab:
        async with stream(lab, call="attach") as found:
            await found.send_bytes(b"\x00hello")
            assert await found.receive_bytes() == b"\x01hello"
        end, recording = await ended(lab)
        assert (bytes(recording.stdout), recording.header.command) == (b"hello", "")
        assert end.reason == "the client disconnected"
        assert (end.initial_command, lab.events.named("exec")) == ([], [])


@pytest.mark.parametrize("mode", ["proxy", "proxy-sync"])
async def test_much_output(tmp_path: Path, mode: str) -> None:
    """Byte by byte what the client got."""
    async with kube_lab(tmp_path) as lab:
        lab.mode = mode
        data = os.urandom(3_000_000)
        (tmp_path / "pods/dev/web").mkdir(parents=True)
        (tmp_path / "pods/dev/web/data").write_bytes(data)
        async with stream(lab, "cat", "data") as found:
            got = await rest(found)
        end, recording = await ended(lab)
        assert got[1] == data == recording.stdout
        assert end.session_recording == mode


@pytest.mark.parametrize("why", ["no room", "no events"])
async def test_what_cannot_be_recorded_is_not_started(tmp_path: Path, why: str) -> None:
    """The refusal is one that kubectl prints, and the API server hears nothing."""
    async with kube_lab(tmp_path) as lab:
        async with lab.connected() as wire:
            if why == "no room":
                lab.recordings.failing = True
            else:
                lab.events.failing = True
            head = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io"]
            answer = await wire.ask(f"GET {POD}/exec?command=id", *head)
            assert answer.status == 503
            status = json.loads(answer.body)
            assert (status["kind"], status["reason"]) == ("Status", "ServiceUnavailable")
            assert "record" in status["message"]
        assert (lab.api.calls, lab.events.named("session.start")) == ([], [])


async def test_an_api_server_that_refuses(tmp_path: Path) -> None:
    """Its answer comes through, and the session that was begun has its end."""
    async with kube_lab(tmp_path) as lab:
        lab.api.rights.clear()
        assert await status_of_refusal(lab) == 403
        end, recording = await ended(lab)
        assert end.reason == recording.reason == "not started: the API server answered 403"
        assert lab.recordings.on_record_of == [end.sid]


@pytest.mark.parametrize("change", ["lock", "role", "user"])
async def test_what_ends_access_ends_the_session(tmp_path: Path, change: str) -> None:
    """Within 2 s, and what it showed until then is recorded."""
    async with kube_lab(tmp_path) as lab, stream(lab, "cat") as found:
        await found.send_bytes(b"\x00hello")
        assert await found.receive_bytes() == b"\x01hello"
        match change:
            case "lock":
                lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
            case "role":
                lab.roles.clear()
            case "user":
                lab.gone.add("alice")
        assert lab.server is not None
        lab.server.reconsider()
        (end,) = await lab.events.wait_for("session.end", seconds=2)
        assert isinstance(end, SessionEnd)
        assert end.reason == "access has ended"
        assert (await found.receive_bytes())[:1] == b"\x03", "the last word"
        assert (await found.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert lab.recordings.all[0].stdout == b"hello"
        async with asyncio.timeout(10):
            await lab.api.wait_streams(0)


async def test_a_session_ends_with_the_certificate(tmp_path: Path) -> None:
    nearly = FakeClock(datetime.now(UTC) + timedelta(seconds=58))
    async with kube_lab(tmp_path, clock=nearly) as lab:
        async with stream(lab, "cat", pair=lab.pair(ttl=timedelta(minutes=1))) as found:
            await rest(found)
        end, _ = await ended(lab)
        assert end.reason == "the certificate has expired"
        (cut,) = await lab.events.wait_for("client.disconnect", seconds=2.0 * 5)
        assert isinstance(cut, ClientDisconnect)
        assert (cut.user, cut.reason) == ("alice", "the certificate has expired")


async def test_a_recorded_session_goes_on_where_nothing_has_to_be_recorded_any_more(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab, stream(lab, "cat") as found:
        lab.defaults = ClusterDefaults(record_sessions=False)
        assert lab.server is not None
        lab.server.reconsider()
        await found.send_bytes(b"\x00hello")
        assert await found.receive_bytes() == b"\x01hello"
        assert lab.recordings.all[0].stdout == b"hello"


async def test_a_recording_that_fails_ends_the_session(tmp_path: Path) -> None:
    """Nothing is shown that is not recorded."""
    async with kube_lab(tmp_path) as lab, stream(lab, "cat") as found:
        await found.send_bytes(b"\x00hello")
        assert await found.receive_bytes() == b"\x01hello"
        lab.recordings.all[0].failed.set_result(TeleportError("the disk is full"))
        await rest(found)
        end, _ = await ended(lab)
        assert end.reason == "the recording failed"


async def test_an_end_that_cannot_be_put_on_record_is_made_up_for(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab:
        async with stream(lab, "cat") as found:
            await found.send_bytes(b"\x00a")
            await found.receive_bytes()
            lab.events.failing = True
        async with asyncio.timeout(10):
            await lab.api.wait_streams(0)
        await lab.stop()
        assert lab.recordings.unended_of == [lab.recordings.all[0].header.sid]
        assert lab.recordings.on_record_of == []


@pytest.mark.parametrize("by_client", [True, False])
async def test_who_leaves_after_the_last_word_does_not_disconnect(tmp_path: Path, by_client: bool) -> None:
    """kubectl goes once it knows how the command ended, whether or not the server ends the stream first."""
    async with kube_lab(tmp_path) as lab:
        async with stream(lab, "echo", "a") as found:
            while by_client and (await found.receive_bytes())[:1] != b"\x03":
                pass
            if not by_client:
                await rest(found)
        end, _ = await ended(lab)
        assert end.reason == ""


async def test_a_lost_api_server(tmp_path: Path) -> None:
    async with kube_lab(tmp_path) as lab, stream(lab, "cat") as found:
        await found.send_bytes(b"\x00a")
        await found.receive_bytes()
        lab.api.drop_connections()
        await rest(found)
        end, recording = await ended(lab)
        assert (end.reason, bytes(recording.stdout)) == ("the API server ended the stream", b"a")


async def test_a_service_that_stops(tmp_path: Path) -> None:
    """Its sessions have their ends."""
    async with kube_lab(tmp_path) as lab, stream(lab, "cat") as found:
        await found.send_bytes(b"\x00a")
        await found.receive_bytes()
        await lab.stop()
        end, _ = await ended(lab)
        assert end.reason == "the service stopped"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x82\x87\0\0\0\0\x01forged", id="output"),
        pytest.param(b"\x82\x84\0\0\0\0\x04{}x", id="a size that is none"),
        pytest.param(b"\x82\xff" + (2**40).to_bytes(8) + bytes(4), id="a huge frame"),
        pytest.param(b"\x88\x80\0\0\0\0\x82\x82\0\0\0\0\0a", id="input after the end"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another request"),
    ],
)
async def test_forged_frames_end_the_session(tmp_path: Path, wire: bytes) -> None:
    """They reach nobody, and nothing of them is in the recording."""
    async with kube_lab(tmp_path) as lab, lab.connected() as client:
        head = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v4.channel.k8s.io"]
        key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        await client.send(f"GET {POD}/exec?command=cat&stdin=1&stdout=1&tty=1", *head, *key)
        assert (await client.head())[0] == 101
        client.writer.write(wire)
        assert b"forged" not in await client.ended()
        end, recording = await ended(lab)
        assert end.reason.startswith("the stream was refused: ")
        assert (bytes(recording.stdout), recording.sizes) == (b"", [])


@pytest.mark.parametrize(
    "head",
    [
        ["Upgrade: websocket", "Sec-WebSocket-Protocol: base64.channel.k8s.io, channel.k8s.io"],
        ["Upgrade: websocket"],
        ["Upgrade: SPDY/3.1"],
        ["Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v1.channel.k8s.io"],
        ["Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io", "Content-Length: 1"],
    ],
)
async def test_what_cannot_be_read_is_refused(tmp_path: Path, head: list[str]) -> None:
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        answer = await wire.ask(f"POST {POD}/exec?command=id", "Connection: Upgrade", *head, body=b"x")
        assert answer.status == 400
        assert (lab.api.calls, lab.recordings.all) == ([], [])


async def test_what_comes_before_the_answer_is_part_of_the_session(tmp_path: Path) -> None:
    """Frames behind the request's own head are read as all others (threat T40)."""
    async with kube_lab(tmp_path) as lab, lab.connected() as client:
        head = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v4.channel.k8s.io"]
        key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        size = b'\x04{"Width":70,"Height":7}'
        early = b"\x82" + bytes((0x80 | len(size),)) + bytes(4) + size
        line = f"GET {POD}/exec?command=cat&stdin=1&stdout=1&tty=1"
        await client.send(line, *head, *key, body=early + b"\x82\x87\0\0\0\0\x01forged")
        await client.ended()
        end, recording = await ended(lab)
        assert end.reason == "the stream was refused: stdout comes from the wrong side"
        assert (bytes(recording.stdout), recording.sizes) == (b"", [])  # nothing of it went on


async def test_a_flood_of_sizes(tmp_path: Path) -> None:
    """Each is in the recording once; on record come those that last."""
    async with kube_lab(tmp_path) as lab, stream(lab, "cat", more="&tty=true") as found:
        for number in range(5000):
            await found.send_bytes(b'\x04{"Width":%d,"Height":9}' % (1 + number % 200))
        await found.send_bytes(b"\x00a")
        assert await found.receive_bytes() == b"\x01a"
        (recording,) = lab.recordings.all
        assert len(recording.sizes) == 5000
        assert len(lab.events.named("resize")) < 2000


async def test_sizes_come_no_faster_than_the_disk_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that has too much in memory stops a client that floods it."""
    full, waits, room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def drain(_: MemoryRecording) -> None:
        waits.set()
        await room.wait()

    monkeypatch.setattr(MemoryRecording, "must_drain", property(lambda recording: len(recording.sizes) >= 100))
    monkeypatch.setattr(MemoryRecording, "drain", drain)
    async with kube_lab(tmp_path) as lab, stream(lab, "cat", more="&tty=true") as found, asyncio.timeout(20):

        async def flood() -> None:
            for number in range(20_000):
                await found.send_bytes(b'\x04{"Width":%d,"Height":9}' % (1 + number % 200))
            await found.send_bytes(b"\x00a")
            full.set()

        flooding = asyncio.create_task(flood())
        await waits.wait()
        (recording,) = lab.recordings.all
        assert len(recording.sizes) < 5000
        room.set()
        await full.wait()
        assert await found.receive_bytes() == b"\x01a"
        assert len(recording.sizes) == 20_000
        await flooding


async def test_a_client_cannot_say_that_it_is_recorded(tmp_path: Path) -> None:
    """That is between a proxy and a service."""
    async with kube_lab(tmp_path) as lab, lab.connected() as wire:
        assert (await wire.ask("GET /version", "X-Teleport-Recorded: 1", "X_Teleport_Recorded: 1")).status == 200
        assert "recorded" not in str(lab.api.calls[-1].headers).lower()


async def test_a_hundred_at_once(tmp_path: Path) -> None:
    """Each in a recording of its own."""
    async with kube_lab(tmp_path) as lab:
        pair = lab.pair()

        async def one(number: int) -> bytes:
            async with stream(lab, "echo", f"this is {number}", pair=pair) as found:
                return (await rest(found))[1]

        said = await asyncio.gather(*(one(number) for number in range(100)))
        assert said == [b"this is %d\n" % number for number in range(100)]
        await lab.events.wait_for("session.end", 100)
        assert sorted(bytes(one.stdout) for one in lab.recordings.all) == sorted(said)
        assert len(set(lab.recordings.on_record_of)) == 100


# the real kubectl


async def kubectl(
    lab: Lab, *words: str, stdin: bytes = b"", spdy: bool = False, shown: Callable[[], None] | None = None
) -> tuple[int, bytes, bytes]:
    """Runs it as Alice: its status, what it printed, and its errors. `shown` is called after the first line."""
    certificate, key = lab.pair()
    (lab.folder / "root.pem").write_text(lab.cluster.ca_pems[0])
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": f"https://127.0.0.1:{lab.port}",
                    "certificate-authority": str(lab.folder / "root.pem"),
                },
            }
        ],
        "users": [{"name": "u", "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "dev"}}],
        "current-context": "x",
    }
    file = lab.folder / "kubectl.json"
    file.write_text(json.dumps(config))
    environment = {"PATH": os.environ["PATH"], "HOME": str(lab.folder)}
    if spdy:
        environment["KUBECTL_REMOTE_COMMAND_WEBSOCKETS"] = "false"
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        f"--kubeconfig={file}",
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    async with asyncio.timeout(30):
        if shown is not None:
            assert process.stdout is not None
            await process.stdout.readline()
            shown()
        said, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, said, errors


BOTH = pytest.mark.parametrize("spdy", [False, True], ids=["websocket", "spdy"])


@KUBECTL
@BOTH
async def test_kubectl_exec(tmp_path: Path, spdy: bool) -> None:
    async with kube_lab(tmp_path) as lab:
        script = "cat; echo bad >&2; exit 5"
        status, said, errors = await kubectl(
            lab, "exec", "-i", "web", "--", "sh", "-c", script, stdin=b"some words", spdy=spdy
        )
        assert (status, said) == (5, b"some words"), errors
        assert errors.startswith(b"bad\n")
        end, recording = await ended(lab)
        assert (bytes(recording.stdout), bytes(recording.stderr), end.reason) == (b"some words", b"bad\n", "")
        assert any("spdy" in " ".join(call.of("Upgrade")).lower() for call in lab.api.calls) is spdy


@KUBECTL
@BOTH
async def test_kubectl_attach(tmp_path: Path, spdy: bool) -> None:
    async with kube_lab(tmp_path) as lab:
        status, said, errors = await kubectl(lab, "attach", "-i", "web", stdin=b"some words", spdy=spdy)
        assert (status, said) == (0, b"some words"), errors
        end, recording = await ended(lab)
        assert (bytes(recording.stdout), end.initial_command) == (b"some words", [])


@KUBECTL
@BOTH
async def test_kubectl_cp_both_ways(tmp_path: Path, spdy: bool) -> None:
    """What leaves the pod is in the recording; what goes in is not."""
    async with kube_lab(tmp_path) as lab:
        pod, data = tmp_path / "pods/dev/web", os.urandom(500_000)
        pod.mkdir(parents=True)
        (tmp_path / "in").write_bytes(data)
        status, _, errors = await kubectl(lab, "cp", str(tmp_path / "in"), "web:there", spdy=spdy)
        assert (status, (pod / "there").read_bytes()) == (0, data), errors
        await lab.events.wait_for("session.end")
        status, _, errors = await kubectl(lab, "cp", "web:there", str(tmp_path / "out"), spdy=spdy)
        assert (status, (tmp_path / "out").read_bytes()) == (0, data), errors
        await lab.events.wait_for("session.end", len(lab.recordings.all))
        assert not any(data[:1000] in one.stdout for one in lab.recordings.all[:-1])
        assert data in lab.recordings.all[-1].stdout


@KUBECTL
@BOTH
async def test_kubectl_prints_why_a_session_was_ended(tmp_path: Path, spdy: bool) -> None:
    async with kube_lab(tmp_path) as lab:

        def fail() -> None:
            lab.recordings.all[0].failed.set_result(TeleportError("the disk is full"))

        script = "echo a; exec sleep 100"
        status, _, errors = await kubectl(lab, "exec", "web", "--", "sh", "-c", script, spdy=spdy, shown=fail)
        assert status != 0
        assert b"This session was ended: the recording failed." in errors


@KUBECTL
@BOTH
async def test_kubectl_prints_that_access_has_ended(tmp_path: Path, spdy: bool) -> None:
    """Of a connection that breaks it would think, by SPDY, that the command ended well."""
    async with kube_lab(tmp_path) as lab:

        def lock() -> None:
            lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
            assert lab.server is not None
            lab.server.reconsider()
            lab.server.reconsider()

        script = "echo a; exec sleep 100"
        status, _, errors = await kubectl(lab, "exec", "web", "--", "sh", "-c", script, spdy=spdy, shown=lock)
        assert status != 0
        assert b"This session was ended: access has ended." in errors
        assert (await ended(lab))[0].reason == "access has ended"
        (cut,) = await lab.events.wait_for("client.disconnect", seconds=2.0 * 5)
        assert isinstance(cut, ClientDisconnect)
        assert (cut.user, cut.reason) == ("alice", "access has ended")


async def test_who_does_not_read_why_is_cut_off_all_the_same(tmp_path: Path) -> None:
    """Within 2 s, and nothing more goes either way meanwhile."""
    async with kube_lab(tmp_path) as lab:
        async with stream(lab, "sh", "-c", "exec cat /dev/zero") as found:
            assert await found.receive_bytes()
            assert lab.server is not None
            lab.locks.append(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="alice"))))
            lab.server.reconsider()
            async with asyncio.timeout(2.0 * 5):
                await lab.api.wait_streams(0)
                (end,) = await lab.events.wait_for("session.end", seconds=2.0 * 5)
        assert isinstance(end, SessionEnd)
        assert end.reason == "access has ended"


@KUBECTL
@BOTH
async def test_kubectl_prints_why_there_is_no_session(tmp_path: Path, spdy: bool) -> None:
    async with kube_lab(tmp_path) as lab:
        lab.recordings.failing = True
        status, _, errors = await kubectl(lab, "exec", "web", "--", "id", spdy=spdy)
        assert status == 1
        assert b"Sessions have to be recorded here, and this one cannot be now." in errors
