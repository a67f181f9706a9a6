"""Events to a real rsyslog over TLS, which is killed in the middle."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from tests.copies.test_copies import Rig, opened, running

from teleport.copies import copier as copier_module
from teleport.copies.settings import SyslogCopy, TlsFiles
from teleport.copies.syslog import SyslogPlace, counted, message
from teleport.errors import ConnectionProblem, TeleportError
from teleport.resources.values import HostPort
from teleport.testing import rsyslog
from teleport.testing.loopback import LOOPBACK
from teleport.testing.public_authority import PublicAuthority
from teleport.testing.running import wait_until

needs_rsyslog = pytest.mark.skipif(rsyslog.program() is None, reason=rsyslog.MISSING)


class Lab:
    """Certificates, and a receiver that wants one from its clients, too."""

    def __init__(self, folder: Path) -> None:
        authority = PublicAuthority("Syslog")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority.root)
        self.client = authority.issue("auth.example.com").write(folder, "client")
        cert, key = authority.issue("logs.example.com", LOOPBACK).write(folder, "server")
        self.server = rsyslog.Rsyslog(folder / "rsyslog", ca=self.ca, cert=cert, key=key, client="auth.example.com")

    def place(self, *, client: bool = True, ca: Path | None = None, host: str = LOOPBACK) -> SyslogPlace:
        cert, key = self.client if client else (None, None)
        files = TlsFiles(ca or self.ca, cert, key)
        return SyslogPlace(SyslogCopy("siem", HostPort(host, self.server.port), files), "auth-1", within=10.0)


def uids(messages: list[str]) -> list[str]:
    return [json.loads(one[one.index("{") :])["uid"] for one in messages]


def logged(rig: Rig) -> list[str]:
    return [json.loads(line)["uid"] for line in rig.log.lines()]


def test_a_message_has_the_form_of_rfc_5424() -> None:
    """PRI of log audit and the code's letter, the event's time, its name; what does not fit a field is left out."""
    line = b'{"event":"session.start","code":"T2000I","time":"2021-05-01T10:00:00.5Z"}'
    header = b"<110>1 2021-05-01T10:00:00.5Z auth-1 teleport - session.start - "
    assert message(line, "auth-1") == header + line
    assert message(b'{"code":"T1000W"}', "a b\n").startswith(b"<108>1 - ab teleport - - - {")
    assert message(b"damaged \xff", "").startswith(b"<110>1 - - teleport - - - damaged \xff")
    assert message(b'{"event":"' + b"x" * 99 + b'"}', "h").split(b" ")[5] == b"x" * 32
    assert counted(b"abc") == b"3 abc"


@needs_rsyslog
async def test_events_arrive_in_order_whole_and_with_multiline_text_in_one_message(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with opened(tmp_path / "rig") as rig:
        rig.place = lab.place()  # type: ignore[assignment]
        with lab.server:
            await rig.tell(40)
            await rig.copier().step()
            await wait_until(lambda: len(lab.server.messages()) >= 40)
            assert uids(lab.server.messages()) == logged(rig)
            sent = lab.server.messages()[0]
            assert sent.startswith("<110>1 2021-05-01T10:00:00Z auth-1 teleport - exec - {"), sent
            assert sent[sent.index("{") :].encode() == rig.log.lines()[0]


@needs_rsyslog
async def test_a_receiver_killed_in_the_middle_gets_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, while events come: at least once each."""
    monkeypatch.setattr(copier_module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(copier_module, "MOST_PAUSE", 0.1)
    monkeypatch.setattr(copier_module, "LINES", 20)
    lab = Lab(tmp_path)
    async with opened(tmp_path / "rig") as rig:
        rig.place = lab.place()  # type: ignore[assignment]
        copier = rig.copier()
        async with running(copier):
            for _ in range(3):
                await asyncio.to_thread(lab.server.start)
                before = len(lab.server.messages())
                await rig.tell(100)
                await wait_until(lambda before=before: len(lab.server.messages()) > before, 60)  # type: ignore[misc]
                await asyncio.to_thread(lab.server.kill)
            await rig.tell(20)
            await wait_until(lambda: "did not take events" in copier.problem, 60)
            await asyncio.to_thread(lab.server.start)
            try:
                await wait_until(lambda: set(uids(lab.server.messages())) >= set(logged(rig)), 60)
                await wait_until(lambda: not copier.problem, 60)
            finally:
                lab.server.kill()


@needs_rsyslog
@pytest.mark.parametrize("wrong", ["authority", "name", "client"])
async def test_nothing_is_said_to_a_receiver_that_is_not_the_one(tmp_path: Path, wrong: str) -> None:
    """Another authority, another name; and a receiver that wants a certificate takes nothing without."""
    lab = Lab(tmp_path)
    other = tmp_path / "other.pem"
    other.write_bytes(PublicAuthority("Other").root)
    place = {
        "authority": lab.place(ca=other),
        "name": lab.place(host="localhost"),
        "client": lab.place(client=False),
    }[wrong]
    with lab.server:
        with pytest.raises(ConnectionProblem, match="did not take events"):
            await place.write([b'{"event":"exec"}'])
        assert lab.server.messages() == []


async def test_a_receiver_without_tls_gets_nothing(tmp_path: Path) -> None:
    authority = PublicAuthority()
    (tmp_path / "ca.pem").write_bytes(authority.root)
    with socket.create_server((LOOPBACK, 0)) as plain:
        address = HostPort(*plain.getsockname())
        place = SyslogPlace(SyslogCopy("siem", address, TlsFiles(tmp_path / "ca.pem")), "a", within=0.3)
        with pytest.raises(ConnectionProblem):
            await place.write([b'{"event":"exec"}'])
        taken, _ = plain.accept()
        with taken:
            assert taken.recv(65536)[:1] == b"\x16"  # the beginning of a handshake, and nothing else


async def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    settings = SyslogCopy("siem", HostPort(LOOPBACK, 1), TlsFiles(tmp_path / "none.pem"))
    with pytest.raises(TeleportError, match=r"none\.pem"):
        await SyslogPlace(settings, "a").write([b"{}"])
