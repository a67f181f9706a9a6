"""`tctl recordings` against a real auth service that holds an uploaded recording."""

from __future__ import annotations

import asyncio
import json
import os
import random
import stat
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.security.test_security_recordings import RecordingHost

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli.tctl.command import tctl
from teleport.pki.keys import generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.recording.format import ChunkEncoder, Frame, FrameKind, RecordingHeader, encode_header, encode_size
from teleport.recording.trust import signer
from teleport.testing.auth import ANONYMOUS, CLUSTER, RunningAuth, running_auth
from teleport.testing.commands import Ran, run_command

SID = "0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40"
BYTES = b"\x1b]52;c;aGVsbG8=\x07hello \xff\x00world\r\n" + random.Random(7).randbytes(100_000)


@asynccontextmanager
async def recorded(directory: Path) -> AsyncIterator[RunningAuth]:
    """An auth service with one recording, uploaded by the node that made it."""
    async with running_auth(directory) as auth:
        token = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
        key, host_id = generate_p256(), str(uuid.uuid4())
        public, pem = key.public.line(), key.public.spki_pem().decode()
        given = await auth.call(
            ANONYMOUS,
            routes.JOIN,
            m.JoinRequest(
                token=token.token, host_id=host_id, node_name="db-1", role="Node", public_ssh_key=public,
                public_tls_key=pem,
            ),
        )  # fmt: skip
        certificate = parse_certificate_line(given.ssh_cert)
        head = encode_header(
            RecordingHeader(
                sid=SID, started=auth.clock.now(), user="ann", login="root", node_id=host_id, node_name="db-1",
                cluster=CLUSTER, interactive=True, terminal="xterm", width=80, height=24, client="192.0.2.7:50000",
            )
        )  # fmt: skip
        frames = [
            Frame(0, FrameKind.OUTPUT, BYTES[:1000]),
            Frame(1000, FrameKind.RESIZE, encode_size(100, 30)),
            Frame(2000, FrameKind.STDERR, BYTES[1000:]),
        ]
        encoder = ChunkEncoder(head[-32:])
        data = head + b"".join(encoder.encode(frames))
        data += b"".join(encoder.end("session ended", time=3000, sign=signer(lambda: (key, certificate)))[0])

        async def body() -> AsyncIterator[bytes]:
            yield data

        async with auth.async_client(auth.keep(key, given.tls_cert, host_id)) as node:
            await node.upload(routes.APPEND_RECORDING, m.AppendRecordingRequest(sid=SID, offset=0), body())
            await node.call(routes.COMPLETE_RECORDING, m.CompleteRecordingRequest(sid=SID, sha256=data[-32:].hex()))
        yield auth


async def admin(auth: RunningAuth, *arguments: str) -> Ran:
    config = str(await auth.local_config())
    return await asyncio.to_thread(lambda: run_command(tctl, "tctl", *arguments, "-c", config))


async def test_recordings_are_listed_and_downloaded_in_every_form(tmp_path: Path) -> None:
    """`raw` is the exact bytes; what goes to screens drives none."""
    async with recorded(tmp_path) as auth:
        lines = (await admin(auth, "recordings", "ls")).ok().out.splitlines()
        assert lines[0].split() == ["Session", "Started", "(UTC)", "User", "Login", "Host", "Command", "Bytes"]
        assert lines[2].split()[0] == SID
        assert {"ann", "root", "db-1", "(shell)"} <= set(lines[2].split())
        (found,) = json.loads((await admin(auth, "recordings", "ls", "--format=json", "--user=ann")).ok().out)
        assert (found["sid"], found["user"], found["hostname"]) == (SID, "ann", "db-1")
        assert json.loads((await admin(auth, "recordings", "ls", "--format=json", "--host=other")).ok().out) == []

        raw = (await admin(auth, "recordings", "download", SID, "--format=raw")).ok()
        assert raw.out_bytes == BYTES
        text = (await admin(auth, "recordings", "download", SID, "--format=text")).ok()
        assert "\x1b" not in text.out
        assert "hello" in text.out
        cast = (await admin(auth, "recordings", "download", SID)).ok().out.splitlines()
        assert json.loads(cast[0])["version"] == 2
        assert [0.001, "r", "100x30"] in [json.loads(line) for line in cast]
        entries = [
            json.loads(line)
            for line in (await admin(auth, "recordings", "download", SID, "--format=json")).out.splitlines()
        ]
        assert entries[0]["sid"] == SID
        assert len(await auth.events("session_recording.access", wait_for=4)) == 4
        assert [event["sid"] for event in await auth.events("session.upload")] == [SID]


async def test_recordings_of_one_session_by_two_hosts_are_told_apart(tmp_path: Path) -> None:
    """The list has a name for each and says that there are two; what the id alone means is asked, not guessed."""
    async with recorded(tmp_path) as auth:
        other = await RecordingHost.join(auth)
        await other.upload(SID, "ann", text=b"by the other\n")
        name = f"{SID}.{other.host_id}"
        listed = (await admin(auth, "recordings", "ls")).ok()
        assert {SID, name} <= {line.split(maxsplit=1)[0] for line in listed.out.splitlines() if line.strip()}
        assert "Several hosts" in listed.err
        text = await admin(auth, "recordings", "download", name, "--format=text")
        assert "by the other" in text.ok().out
        asked = await admin(auth, "recordings", "download", SID, "--format=text")
        assert asked.status != 0
        assert name in asked.err
        assert "2 of 2 recordings" in (await admin(auth, "recordings", "verify", "--all")).ok().out


async def test_a_download_goes_to_a_private_file_and_over_none(tmp_path: Path) -> None:
    """Mode 0600; a file that is there stays unless `--overwrite`."""
    async with recorded(tmp_path) as auth:
        out = tmp_path / "out.raw"
        arguments = ("recordings", "download", SID, "--format=raw", "-o", str(out))
        (await admin(auth, *arguments)).ok()
        assert out.read_bytes() == BYTES
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert (await admin(auth, *arguments)).status == 4
        (await admin(auth, *arguments, "--overwrite")).ok()


async def test_one_flipped_bit_of_a_recording_is_named(tmp_path: Path) -> None:
    """By the download, and by `audit verify` with the place in the log that tells of the recording."""
    async with recorded(tmp_path) as auth:
        await auth.events("session.upload")
        assert "Recordings   1" in (await admin(auth, "audit", "verify")).ok().out
        (path,) = [path for path in _files(tmp_path) if path.name == f"{SID}.rec"]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        os.chmod(path, 0o600)
        path.write_bytes(bytes(data))
        broken = await admin(auth, "recordings", "download", SID, "--format=raw")
        assert broken.status == 1
        assert broken.out_bytes != BYTES
        assert BYTES.startswith(broken.out_bytes)
        proved = await admin(auth, "audit", "verify")
        assert proved.status == 1
        assert f"the recording of session {SID}" in proved.out


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("sid", ["0b6f1a52-0000-4d0c-9d53-5d7a3c1e2f40", "nonsense", "../../etc/passwd"])
async def test_a_recording_that_is_not_there_is_not_found(tmp_path: Path, sid: str) -> None:
    """Whatever the name, and no file is left."""
    async with running_auth(tmp_path) as auth:
        out = tmp_path / "out"
        ran = await admin(auth, "recordings", "download", sid, "-o", str(out))
        assert ran.status == 3
        assert not out.exists()


async def test_recordings_are_searched_and_verified(tmp_path: Path) -> None:
    """By what the screen showed, with its time; a flipped bit is named, with status 1."""
    async with recorded(tmp_path) as auth:
        found = (await admin(auth, "recordings", "search", "HELLO")).ok()
        assert found.out.splitlines()[0].startswith(SID)
        assert "ann as root on db-1" in found.out
        assert found.out.splitlines()[1].split() == ["0:00", "hello", "\ufffd", "world"] or "world" in found.out
        assert "\x1b" not in found.out
        (one,) = json.loads((await admin(auth, "recordings", "search", "hello", "--format=json")).ok().out)
        assert (one["sid"], one["kind"], one["hits"][0]["kind"]) == (SID, "shell", "screen")
        nothing = (await admin(auth, "recordings", "search", "hello", "--user=bob")).ok()
        assert (nothing.out, nothing.err) == ("", "Nothing of the 0 sessions that you may play showed it.\n")
        assert (await admin(auth, "recordings", "search", "a\nb")).status == 2
        for arguments in (["--kind=exec"], ["--to=2001-01-01"], ["--user=bob"]):
            assert json.loads((await admin(auth, "recordings", "ls", "--format=json", *arguments)).ok().out) == []

        assert (await admin(auth, "recordings", "verify", SID)).ok().out == "1 of 1 recordings are whole\n"
        assert (await admin(auth, "recordings", "verify", "--all")).ok().out == "1 of 1 recordings are whole\n"
        assert (await admin(auth, "recordings", "verify")).status == 2
        assert (await admin(auth, "recordings", "verify", SID, "--all")).status == 2
        assert (await admin(auth, "recordings", "verify", SID.replace("0", "1"))).status == 3
        (path,) = [path for path in _files(tmp_path) if path.name == f"{SID}.rec"]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        os.chmod(path, 0o600)
        path.write_bytes(bytes(data))
        for arguments in ([SID], ["--all"]):
            broken = await admin(auth, "recordings", "verify", *arguments)
            assert broken.status == 1
            assert f"{SID}  chunk 0" in broken.out
            assert "0 of 1" in broken.out


async def test_an_export_is_on_record_with_its_form(tmp_path: Path) -> None:
    async with recorded(tmp_path) as auth:
        for form in ("cast", "text", "json"):
            assert (await admin(auth, "recordings", "export", SID, f"--format={form}")).ok().out
        events = await auth.events("session_recording.access", wait_for=3)
        assert {(event["format"], event["code"]) for event in events} == {
            ("cast", "T2012I"), ("text", "T2012I"), ("json", "T2012I"),
        }  # fmt: skip
