"""Packets opened by `ssh.incoming`: whole, in order, and nothing that was tampered with."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.encryption import GCMEncryption
from asyncssh.misc import MACError, ProtocolError

from teleport.ssh.incoming import AMPLE_WINDOW, IncomingPath, Opener
from teleport.ssh.surface import KeepAlive

KEY, IV = bytes(range(16)), bytes(12)
WINDOW = 1 << 20


class Channel:
    """Takes what a channel takes."""

    def __init__(self) -> None:
        self._recv_state = "open"
        self._recv_window = WINDOW
        self._send_window = 0
        self.data: list[bytes] = []
        self.flushed = 0
        self.on_data: Callable[[], None] = lambda: None
        self.on_flush: Callable[[], None] = lambda: None

    def _accept_data(self, data: bytes) -> None:
        self.data.append(data)
        self.on_data()

    def _flush_send_buf(self) -> None:
        self.flushed += 1
        self.on_flush()


class Receiver(IncomingPath):
    """The receiving half alone; what goes asyncssh's way is noted and taken off the input as asyncssh does it."""

    def __init__(self) -> None:
        self._recv_encryption: Any = GCMEncryption.new("aes128-gcm", KEY, IV)
        self._auth_complete = True
        self._auth_final = False
        self._decompressor = None
        self._inpbuf = b""
        self._recv_seq = 0
        self._recv_blocksize, self._recv_macsize = 16, 16
        self._max_recv_pktlen = 300_000
        self._transport: Any = object()
        self._recv_handler = self._recv_pkthdr
        self.channel = Channel()
        self._channels: Any = {5: self.channel}
        self.others: list[bytes] = []

    def __del__(self) -> None:
        """asyncssh's looks at what this one has not."""

    def _recv_packet(self) -> bool:
        rest = 4 + self._pktlen - self._recv_blocksize
        plain = self._recv_encryption.decrypt_packet(0, self._packet, self._inpbuf[:rest], 4, b"")
        self._inpbuf = self._inpbuf[rest + self._recv_macsize :]
        self.others.append(plain[1 : -plain[0]])
        self._recv_handler = self._recv_pkthdr
        return True

    def feed(self, data: bytes) -> None:
        self._inpbuf += data
        while self._inpbuf and self._recv_handler():
            pass


class Taps(asyncio.Transport):
    """Notes whether it is being read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.resumed = asyncio.Event()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.resumed.set()


class Sender:
    """Seals packets as a peer does."""

    def __init__(self) -> None:
        self._encryption = GCMEncryption.new("aes128-gcm", KEY, IV)

    def packet(self, payload: bytes) -> bytes:
        padding = -(1 + len(payload)) % 16
        padding += 16 if padding < 4 else 0
        plain = bytes([padding]) + payload + bytes(padding)
        sealed, mac = self._encryption.encrypt_packet(0, len(plain).to_bytes(4, "big"), plain)
        return sealed + mac

    def data(self, data: bytes, channel: int = 5) -> bytes:
        return self.packet(b"\x5e" + channel.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data)

    def adjust(self, amount: int, channel: int = 5) -> bytes:
        return self.packet(b"\x5d" + channel.to_bytes(4, "big") + amount.to_bytes(4, "big"))


def test_packets_arrive_whole_and_in_order_however_the_stream_is_cut() -> None:
    """Data, adjustments and other packets, cut at random."""
    chance = random.Random(11)
    sender, receiver = Sender(), Receiver()
    stream, sent, others, added = b"", [], [], 0
    for number in range(300):
        kind = chance.randrange(4)
        if kind < 2:
            sent.append(chance.randbytes(chance.choice((1, 15, 16, 17, 1000, 2500))))
            stream += sender.data(sent[-1])
        elif kind == 2:
            added += number
            stream += sender.adjust(number)
        else:
            others.append(b"\x50" + chance.randbytes(chance.randrange(1, 60)))
            stream += sender.packet(others[-1])
    while stream:
        size = chance.choice((1, 3, 20, 1500, 40_000))
        receiver.feed(stream[:size])
        stream = stream[size:]
    assert receiver.channel.data == sent
    assert receiver.channel._send_window == added
    assert receiver.others == others
    assert receiver._inpbuf == b""
    assert isinstance(receiver._recv_encryption, Opener)


@pytest.mark.parametrize("place", [4, 20, -1], ids=["first byte", "data", "tag"])
def test_a_flipped_bit_ends_the_connection_before_anything_is_delivered(place: int) -> None:
    packet = bytearray(Sender().data(b"x" * 40))
    packet[place] ^= 1
    receiver = Receiver()
    with pytest.raises(MACError):
        receiver.feed(bytes(packet))
    assert receiver.channel.data == []


@pytest.mark.parametrize("length", [0, 15, 300_001, 0xFFFFFFFF])
def test_a_length_that_cannot_be_is_refused_before_more_is_read(length: int) -> None:
    receiver = Receiver()
    with pytest.raises(ProtocolError):
        receiver.feed(length.to_bytes(4, "big"))


def test_odd_packets_are_left_to_asyncssh() -> None:
    """Beyond the window, for no channel, for a channel that is not open, with a length that does not fit."""
    sender, receiver = Sender(), Receiver()
    receiver.channel._recv_window = 10
    beyond, nowhere = sender.data(b"x" * 11), sender.data(b"y", channel=6)
    wrong = sender.packet(b"\x5e" + (5).to_bytes(4, "big") + (3).to_bytes(4, "big") + b"abcdefgh")
    receiver.feed(beyond + nowhere + wrong)
    receiver.channel._recv_state = "eof"
    receiver.feed(sender.data(b"late"))
    receiver.channel._recv_state = "closed"
    receiver.feed(sender.adjust(1))
    assert receiver.channel.data == []
    assert receiver.channel._send_window == 0
    assert len(receiver.others) == 5


def test_who_has_sent_its_end_still_takes_data() -> None:
    sender, receiver = Sender(), Receiver()
    receiver.channel._recv_state = "eof"
    receiver.feed(sender.adjust(7))
    assert (receiver.channel._send_window, receiver.channel.flushed, receiver.others) == (7, 1, [])


def test_a_connection_that_closes_takes_nothing_more() -> None:
    sender, receiver = Sender(), Receiver()

    def close() -> None:
        receiver._transport = None

    receiver.channel.on_data = close
    receiver.feed(sender.data(b"first") + sender.data(b"second"))
    assert receiver.channel.data == [b"first"]


def resting(window: int = AMPLE_WINDOW) -> tuple[Sender, Receiver, Taps]:
    """A receiver on this loop whose peer takes `window` bytes, and which has just sent much."""
    receiver, taps = Receiver(), Taps()
    receiver._transport = taps
    receiver._loop = asyncio.get_running_loop()
    receiver._keepalive_timer, receiver._keepalive_interval = None, 0
    receiver._acceptor = receiver._error_handler = None
    receiver.channel._send_window = window
    receiver._sent_much = True
    return Sender(), receiver, taps


async def test_while_much_is_sent_window_adjustments_gather_for_a_moment() -> None:
    sender, receiver, taps = resting()
    receiver.data_received(sender.adjust(98_304))
    assert not taps.reading
    assert receiver.channel._send_window == AMPLE_WINDOW + 98_304
    await asyncio.wait_for(taps.resumed.wait(), 10)
    receiver.data_received(sender.adjust(98_304))  # nothing was sent meanwhile
    assert taps.reading


async def test_reading_goes_on_at_once_when_a_window_has_become_small() -> None:
    sender, receiver, taps = resting()
    receiver.data_received(sender.adjust(98_304))
    assert not taps.reading
    receiver.read_on()
    assert taps.reading
    receiver.read_on()


@pytest.mark.parametrize("what", ["data", "another packet", "a small window", "a window used up again"])
async def test_nothing_but_adjustments_of_ample_windows_lets_reading_rest(what: str) -> None:
    """What somebody types into a flood of output is not held up, and a sender does not run dry."""
    sender, receiver, taps = resting(1000 if what == "a small window" else AMPLE_WINDOW)
    packet = sender.adjust(98_304)
    if what == "data":
        packet += sender.data(b"\x03")
    elif what == "another packet":
        packet += sender.packet(b"\x50" + bytes(20))
    elif what == "a window used up again":
        receiver.channel.on_flush = receiver.read_on
    receiver.data_received(packet)
    assert taps.reading


async def test_a_keepalive_is_due_only_when_nothing_was_heard_for_its_interval() -> None:
    """The timer that runs is kept; it looks at the last read when it fires."""
    _, receiver, _ = resting()
    asked: list[str] = []
    receiver._make_keepalive_request = lambda: asked.append("are you there?")  # type: ignore[assignment, method-assign, return-value]
    receiver.create_task = lambda *_: None  # type: ignore[assignment, method-assign]
    receiver._keepalive_interval, receiver._keepalive_count, receiver._keepalive_count_max = 60, 0, 3
    loop = asyncio.get_running_loop()
    receiver._reset_keepalive_timer()
    first = receiver._keepalive_timer
    receiver._heard_at = 0.0
    receiver._reset_keepalive_timer()
    assert receiver._keepalive_timer is first
    assert loop.time() - receiver._heard_at < 30
    receiver._heard_at = loop.time() - 20
    receiver._keepalive_timer_callback()
    assert receiver._keepalive_timer is not None
    assert 35 < receiver._keepalive_timer.when() - loop.time() <= 40
    assert asked == []
    receiver._heard_at = loop.time() - 61
    receiver._keepalive_timer_callback()
    assert asked == ["are you there?"]
    receiver._cancel_keepalive_timer()


async def test_the_kernel_probes_as_late_as_it_is_told() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    transports = []
    try:
        for raw, after in ((client, 20), (here, None)):
            receiver = Receiver.__new__(Receiver)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=raw)
            transports.append(transport)
            receiver._transport = transport
            receiver.ask_after(KeepAlive(50.0, 1, 20, 35))
            assert (receiver._keepalive_interval, receiver._keepalive_count_max) == (50.0, 1)
            if after is not None:
                assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == after
                assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 35_000
    finally:
        for transport in transports:
            transport.close()
        for one in (here, there, listener, client):
            one.close()


async def test_a_peer_that_does_not_answer_keepalives_is_let_go() -> None:
    from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(exc)

    class Ours(IncomingPath, SSHServerConnection):
        """Nothing else is ours here."""

    key = asyncssh.generate_private_key("ssh-ed25519")
    options = await SSHServerConnectionOptions.construct(
        None, config=None, server_factory=Server, server_host_keys=[key], keepalive_interval=0.05, keepalive_count_max=2
    )
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[Exception | None] = loop.create_future()
    server = await loop.create_server(lambda: Ours(loop, options), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await asyncssh.connect(
        "127.0.0.1", port, config=None, known_hosts=None, username="x", client_keys=None, agent_path=None
    )
    client._transport.pause_reading()  # type: ignore[union-attr]
    assert "keepalive" in str(await asyncio.wait_for(lost, 20))
    client.abort()
    await client.wait_closed()
    server.close()


async def test_new_keys_in_the_middle_of_a_transfer_change_nothing() -> None:
    """asyncssh on both ends, with our receiving half on one, and a key exchange every 64 KiB."""
    from asyncssh.connection import SSHServerConnection, SSHServerConnectionOptions

    received = bytearray()
    done = asyncio.Event()

    class Sink(asyncssh.SSHServerSession[bytes]):
        def exec_requested(self, command: str) -> bool:
            return True

        def data_received(self, data: bytes, datatype: int | None) -> None:
            received.extend(data)

        def eof_received(self) -> bool:
            done.set()
            return False

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

        def session_requested(self) -> Sink:
            return Sink()

    class Ours(IncomingPath, SSHServerConnection):
        """Nothing else is ours here."""

    key = asyncssh.generate_private_key("ssh-ed25519")
    options = await SSHServerConnectionOptions.construct(
        None, config=None, server_factory=Server, server_host_keys=[key], encoding=None
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Ours(loop, options), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sent = random.Random(5).randbytes(300_000)
    async with asyncssh.connect(
        "127.0.0.1",
        port,
        config=None,
        known_hosts=None,
        username="x",
        client_keys=None,
        agent_path=None,
        encryption_algs=["aes128-gcm@openssh.com"],
        rekey_bytes=64 * 1024,
    ) as client:
        writer, _, _ = await client.open_session("take", encoding=None)
        writer.write(sent)
        writer.write_eof()
        await asyncio.wait_for(done.wait(), 20)
    server.close()
    assert bytes(received) == sent
