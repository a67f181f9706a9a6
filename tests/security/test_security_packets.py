"""What hostile packets do to the SSH ports: the connection ends, memory stays, others are served (T18, T20, T21)."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.ssh.surface import ServerLimits
from teleport.testing import raw_ssh
from teleport.testing.raw_ssh import RawSsh, framed, number, text
from teleport.testing.running import run_client, wait_until
from teleport.testing.ssh_lab import Lab, running_lab

ME = getpass.getuser()
GROWTH = 64  # MiB that one hostile connection may make this process grow by, test and servers together
LONG = bool(os.environ.get("TELEPORT_LONG"))


def resident() -> int:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@asynccontextmanager
async def lab_that_lives(end: LauncherEnd, limits: ServerLimits | None = None) -> AsyncIterator[Lab]:
    """A lab that must still serve somebody else afterwards, on both ports, and must not have grown."""
    async with running_lab(Launcher(end), limits=limits) as lab:
        before = resident()
        yield lab
        await wait_until(lambda: lab.node.connections == 0)
        await wait_until(lambda: len(lab.events.named("session.end")) == len(lab.events.named("session.start")))
        grown = resident() - before
        assert grown < GROWTH, f"grown by {grown} MiB"
        for port in (lab.node_port, lab.proxy_port):
            async with await RawSsh.connect(port) as good:
                await good.log_in(lab.authorities.user([ME]), ME)


def ports(lab: Lab) -> tuple[int, int]:
    return lab.node_port, lab.proxy_port


# before anything is proved


async def test_strict_key_exchange_is_offered_and_counts_from_new(launcher_end: LauncherEnd) -> None:
    """The Terrapin remedy (CVE-2023-48795): sequence numbers begin anew with the new keys.

    AES-GCM does not use the numbers, so what is looked at is the one that the server names in UNIMPLEMENTED.
    """
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            for strict, expected in ((True, 0), (False, 3)):  # KEXINIT, ECDH_INIT and NEWKEYS came before
                async with await RawSsh.connect(port) as peer:
                    await peer.exchange(peer.kexinit(strict=strict))
                    assert b"kex-strict-s-v00@openssh.com" in peer.server_kexinit
                    peer.send(bytes([10]))  # of no known type
                    assert await peer.until(raw_ssh.UNIMPLEMENTED) == bytes([3]) + number(expected)


@pytest.mark.parametrize("kind", [raw_ssh.IGNORE, raw_ssh.DEBUG, raw_ssh.UNIMPLEMENTED, 200])
async def test_a_message_slipped_into_a_strict_key_exchange_ends_it(launcher_end: LauncherEnd, kind: int) -> None:
    body = {raw_ssh.IGNORE: text("x"), raw_ssh.DEBUG: b"\0" + text("x") + text(""), 3: number(0)}.get(kind, b"")
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                with pytest.raises(EOFError):
                    await peer.exchange(between=framed(bytes([kind]) + body))
            async with await RawSsh.connect(port) as peer:  # before the KEXINIT
                peer.send(bytes([kind]) + body)
                with pytest.raises(EOFError):
                    await peer.exchange()


async def test_chacha20_needs_strict_key_exchange(launcher_end: LauncherEnd) -> None:
    async with lab_that_lives(launcher_end) as lab:
        async with await RawSsh.connect(lab.node_port) as peer:
            peer.send(peer.kexinit(strict=False, ciphers="chacha20-poly1305@openssh.com"))
            assert "No matching encryption" in await peer.closed()
        async with await RawSsh.connect(lab.node_port) as peer:
            peer.send(peer.kexinit(strict=True, ciphers="chacha20-poly1305@openssh.com"))
            peer.send(bytes([raw_ssh.ECDH_INIT]) + text(os.urandom(32)))
            await peer.until(raw_ssh.ECDH_REPLY)


@pytest.mark.parametrize("length", [0, 1, 5, 35_001, 1 << 31, (1 << 32) - 1])
async def test_a_length_that_cannot_be_ends_the_connection(
    launcher_end: LauncherEnd, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Before and after the key exchange; nothing is waited for, and nothing in the log shows an error of ours."""
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            for exchanged in (False, True):
                async with await RawSsh.connect(port) as peer:
                    if exchanged:
                        await peer.exchange()
                    peer.writer.write(number(length) + bytes(60))
                    await peer.closed()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("packet", [bytes(8), number(12) + b"\xff" + bytes(11), number(12) + b"\x00" + bytes(11)])
async def test_a_packet_that_cannot_be_read_is_no_error_of_ours(
    launcher_end: LauncherEnd, packet: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                peer.writer.write(packet + bytes(16))
                await peer.closed()
        async with await RawSsh.connect(lab.node_port, version=b"SSH-2.0-\xff\xfe") as peer:
            await peer.closed()
    assert "Traceback" not in caplog.text


async def test_compression_is_not_offered(launcher_end: LauncherEnd) -> None:
    """So that no packet can grow (a zip bomb); a peer that insists gets no connection."""
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                await peer.exchange()
                assert b"zlib" not in peer.server_kexinit
            async with await RawSsh.connect(port) as peer:
                peer.send(peer.kexinit(compression="zlib@openssh.com,zlib"))
                assert "No matching compression" in await peer.closed()


async def test_key_exchange_data_without_end_is_cut_off(launcher_end: LauncherEnd) -> None:
    """Messages of the key exchange's range that mean nothing, and ignore messages to a peer without strict exchange."""
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            for strict, kind in ((True, 45), (False, 45), (False, raw_ssh.IGNORE)):
                async with await RawSsh.connect(port) as peer:
                    peer.send(peer.kexinit(strict=strict))
                    await peer.until(raw_ssh.KEXINIT)
                    draining = asyncio.create_task(peer.closed())
                    sent = await peer.flood(bytes([kind]) + text(bytes(30_000)), 2000)
                    await draining
                    assert sent < 2000


@pytest.mark.parametrize("exchanged", [False, True])
async def test_nothing_is_served_before_authentication(launcher_end: LauncherEnd, exchanged: bool) -> None:
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            made = await RawSsh.connect(port)
            wanted = [
                made.opening(),
                made.request(0, "exec", text("id")),
                bytes([raw_ssh.CHANNEL_DATA]) + number(0) + text("x"),
                bytes([raw_ssh.GLOBAL_REQUEST]) + text("tcpip-forward") + b"\1" + text("") + number(0),
                bytes([raw_ssh.USERAUTH_SUCCESS]),
                bytes([raw_ssh.USERAUTH_FAILURE]) + text("publickey") + b"\1",
                bytes([53]) + text("banner") + text(""),
                bytes([60]) + text("ssh-ed25519") + text("x"),
                bytes([raw_ssh.SERVICE_ACCEPT]) + text("ssh-connection"),
                bytes([raw_ssh.SERVICE_REQUEST]) + text("ssh-connection"),
                made.userauth(ME, "none"),  # its service was not asked for
            ]
            await made.__aexit__()
            for payload in wanted:
                async with await RawSsh.connect(port) as peer:
                    if exchanged:
                        await peer.exchange()
                    peer.send(payload)
                    await peer.closed()
                    assert raw_ssh.OPEN_CONFIRMATION not in peer.seen, payload
                    assert raw_ssh.USERAUTH_SUCCESS not in peer.seen, payload
        assert not [event for event in lab.events.all if "session" in type(event).__name__.lower()]


async def test_the_client_cannot_tell_the_server_that_it_is_authenticated(launcher_end: LauncherEnd) -> None:
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                await peer.exchange()
                await peer.ask_service()
                peer.send(bytes([raw_ssh.USERAUTH_SUCCESS]))
                peer.send(peer.opening())
                await peer.closed()
                assert raw_ssh.OPEN_CONFIRMATION not in peer.seen


async def test_authentication_requests_and_lists_of_mechanisms_are_bounded(launcher_end: LauncherEnd) -> None:
    """Failures, offers that are never proved, and GSSAPI with as many mechanisms as a packet takes."""
    async with lab_that_lives(launcher_end, ServerLimits(authentication_requests=20)) as lab:
        user = lab.authorities.user([ME])
        blob = user.certificate.blob
        offer = b"\0" + text("ecdsa-sha2-nistp256-cert-v01@openssh.com") + text(blob)
        mechanisms = number(2000) + text(b"\6\5abcde") * 2000
        for port in ports(lab):
            for method, rest, most in (
                ("none", b"", 8),
                ("password", b"\0" + text("secret"), 8),
                ("gssapi-with-mic", mechanisms, 8),
                ("gssapi-with-mic", number(0xFFFFFFFF), 8),
                ("publickey", offer, 20),
            ):
                async with await RawSsh.connect(port) as peer:
                    await peer.exchange()
                    await peer.ask_service()
                    for _ in range(most + 5):
                        peer.send(peer.userauth(ME, method, rest))
                    reason = await peer.closed()
                    assert "too many" in reason
                    answers = [kind for kind in peer.seen if kind in (raw_ssh.USERAUTH_FAILURE, 60)]
                    assert len(answers) <= most, (method, len(answers))


async def test_strangers_fill_no_audit_log(launcher_end: LauncherEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record costs a disk sync: beyond a rate the failures are counted, and the count is told."""
    monkeypatch.setattr("teleport.transport.limits.Heard.__init__.__defaults__", (0.001, 3.0))
    async with running_lab(Launcher(launcher_end)) as lab:
        for port in ports(lab):
            for _ in range(6):
                async with await RawSsh.connect(port) as peer:
                    await peer.exchange()
                    await peer.ask_service()
                    peer.send(peer.userauth(ME, "password", b"\0" + text("secret")))
                    await peer.until(raw_ssh.USERAUTH_FAILURE)
        assert len(await lab.events.wait_for("auth", 6)) == 6


# of somebody who has authenticated


Attack = Callable[[RawSsh], Awaitable[None]]


async def _ignore(peer: RawSsh) -> None:
    await peer.flood(bytes([raw_ssh.IGNORE]) + text("x"), 1_000_000 if LONG else 60_000)


async def _debug(peer: RawSsh) -> None:
    await peer.flood(bytes([raw_ssh.DEBUG]) + b"\1" + text("x" * 100) + text(""), 1_000_000 if LONG else 60_000)


async def _ping(peer: RawSsh) -> None:
    """`ping@openssh.com`, which is not offered: each would be answered with UNIMPLEMENTED."""
    await peer.flood(bytes([192]) + text("x"), 1_000_000 if LONG else 60_000)


async def _keepalive(peer: RawSsh) -> None:
    await peer.flood(bytes([raw_ssh.GLOBAL_REQUEST]) + text("keepalive@openssh.com") + b"\1", 60_000)


async def _opens(peer: RawSsh) -> None:
    await peer.flood(peer.opening(), 100_000 if LONG else 10_000)


async def _opens_of_no_kind(peer: RawSsh) -> None:
    await peer.flood(peer.opening("x11"), 10_000)


async def _rekeys(peer: RawSsh) -> None:
    for _ in range(100):
        await peer.exchange()


async def _half_exchange(peer: RawSsh) -> None:
    """Requests whose answers have to wait for a key exchange that is never finished."""
    channel = await peer.open_session()
    peer.send(peer.kexinit())
    await peer.until(raw_ssh.KEXINIT)
    await peer.flood(peer.request(channel, "keepalive@openssh.com"), 100_000)


async def _queued(peer: RawSsh) -> None:
    channel = await peer.open_session()
    peer.send(peer.request(channel, "shell"))
    await peer.flood(peer.request(channel, "env", text("A") + text("b")), 10_000)


async def _unopened(peer: RawSsh) -> None:
    await peer.flood(bytes([raw_ssh.CHANNEL_DATA]) + number(77) + text("x" * 1000), 10_000)


async def _half_open(peer: RawSsh) -> None:
    """Data for the number that the channel will have, in the same segment as its opening."""
    data = bytes([raw_ssh.CHANNEL_DATA]) + number(0) + text("x")
    peer.writer.write(peer.sealed(peer.opening()) + peer.sealed(data))


async def _after_close(peer: RawSsh) -> None:
    channel = await peer.open_session()
    close = bytes([raw_ssh.CHANNEL_CLOSE]) + number(channel)
    data = bytes([raw_ssh.CHANNEL_DATA]) + number(channel) + text("x")
    peer.writer.write(peer.sealed(close) + peer.sealed(data) * 1)


async def _close_twice(peer: RawSsh) -> None:
    channel = await peer.open_session()
    close = bytes([raw_ssh.CHANNEL_CLOSE]) + number(channel)
    peer.writer.write(peer.sealed(close) + peer.sealed(close))


async def _window_overflow(peer: RawSsh) -> None:
    channel = await peer.open_session()
    peer.send(bytes([raw_ssh.WINDOW_ADJUST]) + number(channel) + number(0xFFFFFFFF))


async def _beyond_the_window(peer: RawSsh) -> None:
    """Nothing reads the channel before a command is started, so its window is never renewed."""
    channel = await peer.open_session()
    await peer.flood(bytes([raw_ssh.CHANNEL_DATA]) + number(channel) + text(bytes(30_000)), 200)


async def _extended(peer: RawSsh) -> None:
    channel = await peer.open_session()
    peer.send(bytes([raw_ssh.CHANNEL_EXTENDED]) + number(channel) + number(1) + text("x"))


async def _max_packet_zero(peer: RawSsh) -> None:
    peer.send(peer.opening(packet=0))


async def _answers(peer: RawSsh) -> None:
    """Answers to what nobody asked."""
    channel = await peer.open_session()
    peer.send(bytes([99]) + number(channel))


@pytest.mark.parametrize("where", ["node", "proxy"])
@pytest.mark.parametrize(
    "attack",
    [
        _ignore,
        _debug,
        _ping,
        _keepalive,
        _opens,
        _opens_of_no_kind,
        _rekeys,
        _half_exchange,
        _queued,
        _unopened,
        _half_open,
        _after_close,
        _close_twice,
        _window_overflow,
        _beyond_the_window,
        _extended,
        _max_packet_zero,
        _answers,
    ],
)
async def test_a_user_who_floods_is_disconnected(
    launcher_end: LauncherEnd, attack: Attack, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    if where == "proxy" and attack is _queued:
        pytest.skip("the proxy's sessions take no variables and start nothing")
    async with lab_that_lives(launcher_end) as lab:
        async with await RawSsh.connect(lab.node_port if where == "node" else lab.proxy_port) as peer:
            await peer.log_in(lab.authorities.user([ME]), ME)
            try:
                reading = asyncio.create_task(peer.closed()) if attack in _READ_MEANWHILE else None
                await attack(peer)
                reason = await (reading or asyncio.create_task(peer.closed()))
            except (EOFError, OSError):
                reason = ""
        print(f"{attack.__name__} {where}: {reason}")
    assert "Traceback" not in caplog.text


_READ_MEANWHILE = {_ignore, _debug, _ping, _keepalive, _opens, _opens_of_no_kind, _unopened}


async def test_answers_that_nobody_reads_do_not_pile_up(launcher_end: LauncherEnd) -> None:
    limits = ServerLimits(idle_messages_per_second=10**9, unread=256 * 1024)
    async with (
        lab_that_lives(launcher_end, limits) as lab,
        await RawSsh.connect(lab.node_port, receive_buffer=4096) as peer,
    ):
        await peer.log_in(lab.authorities.user([ME]), ME)
        assert await peer.flood(bytes([192]), 1_000_000) < 1_000_000


async def test_output_waits_for_the_end_of_a_key_exchange(launcher_end: LauncherEnd) -> None:
    """A peer with an endless window that begins an exchange and goes silent: what a command writes must not pile up."""
    async with running_lab(Launcher(launcher_end)) as lab, await RawSsh.connect(lab.node_port) as peer:
        await peer.log_in(lab.authorities.user([ME]), ME)
        channel = await peer.open_session(window=0xFFFFFFFF)
        peer.send(peer.kexinit())
        await peer.until(raw_ssh.KEXINIT)
        (connection,) = lab.node._connections
        (session,) = connection._sessions
        before = resident()
        for _ in range(100):
            session.party.channel.write(bytes(1 << 20))
            await asyncio.sleep(0)
        inner: Any = session.party.channel
        inner = inner._channel._conn
        assert sum(len(b"".join(args)) for _, args in inner._deferred_packets) < 1 << 20
        assert channel >= 0
        assert resident() - before < 200  # what the channel keeps stops its producer, which this test is not


async def test_a_key_exchange_has_to_end(launcher_end: LauncherEnd) -> None:
    async with lab_that_lives(launcher_end, ServerLimits(exchange_seconds=0.3)) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                await peer.log_in(lab.authorities.user([ME]), ME)
                await peer.exchange()  # one that ends does no harm
                channel = await peer.open_session()
                assert channel >= 0
                peer.send(peer.kexinit())
                assert "does not end" in await peer.closed()


async def test_what_a_flood_was_is_on_record(launcher_end: LauncherEnd) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                await peer.log_in(lab.authorities.user([ME]), ME)
                with pytest.raises(EOFError):
                    await _rekeys(peer)
        events = await lab.events.wait_for("session.request_denied", 2)
        assert all("too many key exchanges" in getattr(event, "reason") for event in events)  # noqa: B009
        await wait_until(lambda: lab.node.connections == 0)


async def test_packets_smaller_than_a_sentence_are_refused(launcher_end: LauncherEnd) -> None:
    """A peer that takes one byte at a time would make a packet of each byte that a command writes."""
    async with lab_that_lives(launcher_end) as lab:
        for port in ports(lab):
            async with await RawSsh.connect(port) as peer:
                await peer.log_in(lab.authorities.user([ME]), ME)
                peer.send(peer.opening(packet=1))
                await peer.until(raw_ssh.OPEN_FAILURE)
                assert await peer.open_session(packet=256) >= 0


async def test_a_client_that_exchanges_keys_while_it_works_loses_nothing(
    launcher_end: LauncherEnd, tmp_path: Path
) -> None:
    """OpenSSH with a new key for each MiB, data both ways: output waits for each exchange and goes on."""
    async with running_lab(Launcher(launcher_end)) as lab:
        config = lab.client_config(tmp_path, lab.authorities.user([ME]), ME)
        sent = os.urandom(6 << 20)
        for host in ("direct", "jump"):
            ran = await run_client("ssh", "-F", str(config), "-o", "RekeyLimit=1M", host, "cat", stdin=sent)
            assert ran.stdout == sent, (host, len(ran.stdout), ran.stderr)
