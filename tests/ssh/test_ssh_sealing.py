"""Runs of sealed packets, opened with asyncssh's own cipher."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys

import pytest
from asyncssh.encryption import GCMEncryption

from teleport.ssh.packets import _keeps_nothing
from teleport.ssh.sealing import MOST, Sealer

KEY, IV = bytes(range(16)), b"\1\2\3\4" + b"\xff" * 7 + b"\xfe"  # the counter rolls over soon


def opened(peer: GCMEncryption, stream: bytes) -> list[bytes]:
    """The plain packets of `stream`, each checked and decrypted in turn."""
    found = []
    while stream:
        length = int.from_bytes(stream[:4], "big")
        plain = peer.decrypt_packet(0, stream[:16], stream[16 : 4 + length], 4, stream[4 + length : 20 + length])
        assert plain, "the tag does not fit: wrong nonce, key or bytes"
        found.append(plain)
        stream = stream[20 + length :]
    return found


@pytest.mark.parametrize("size", [1, 15, 32768, 65536, 70_000, MOST, MOST + 5])
@pytest.mark.parametrize("largest", [4096, 32768, 200_000])
def test_a_run_is_what_asyncssh_would_have_sent(size: int, largest: int) -> None:
    """Header, data, padding, nothing else; whole blocks; the counts that rekeying and sequence numbers need."""
    padding = os.urandom(32)
    ours, peer = GCMEncryption.new("aes128-gcm", KEY, IV), GCMEncryption.new("aes128-gcm", KEY, IV)
    sealer = Sealer(ours, padding)
    data = random.Random(size).randbytes(size)
    sealed, taken, packets, counted = sealer.seal(7, memoryview(data), largest)
    plains = opened(peer, bytes(sealed))
    assert (len(plains), taken) == (packets, min(size, MOST))
    assert sum(map(len, plains)) == counted
    carried = b""
    for plain in plains:
        length = int.from_bytes(plain[6:10], "big")
        assert plain[1:6] == b"\x5e\0\0\0\x07"
        assert length <= largest
        assert len(plain) % 16 == 0
        assert 4 <= plain[0] < 20
        assert plain[10 + length :] == padding[: plain[0]]
        carried += plain[10 : 10 + length]
    assert carried == data[:taken]


def test_runs_and_single_packets_follow_each_other_under_one_counter() -> None:
    """No nonce is used twice, whichever way a packet goes."""
    ours, peer = GCMEncryption.new("aes128-gcm", KEY, IV), GCMEncryption.new("aes128-gcm", KEY, IV)
    sealer = Sealer(ours, bytes(32))
    stream, used = b"", set()
    for number in range(6):
        used.add(ours._cipher._iv)
        if number % 2:
            stream += b"".join(ours.encrypt_packet(0, (16).to_bytes(4, "big"), bytes([10]) + bytes(15)))
        else:
            stream += bytes(sealer.seal(1, memoryview(b"a" * 9000), 4096)[0])
    assert len(opened(peer, stream)) == 3 + 3 * 3
    assert len(used) == 6
    assert peer._cipher._iv == ours._cipher._iv


def test_nothing_of_a_long_packet_is_left_in_a_short_one() -> None:
    """The working space is shared by all connections of a thread."""
    ours, peer = GCMEncryption.new("aes128-gcm", KEY, IV), GCMEncryption.new("aes128-gcm", KEY, IV)
    sealer = Sealer(ours, bytes(32))
    opened(peer, bytes(sealer.seal(1, memoryview(b"secret" * 1000), 32768)[0]))
    (short,) = opened(peer, bytes(sealer.seal(1, memoryview(b"x"), 32768)[0]))
    assert short == bytes([short[0]]) + b"\x5e\0\0\0\1\0\0\0\1x" + bytes(short[0])


class _Keeping(asyncio.Transport):
    """A transport that keeps what it is given, as a channel of an outer connection does."""


async def test_only_a_transport_that_copies_what_it_keeps_is_given_the_shared_space() -> None:
    """An inner connection writes to a channel of an outer one, which seals in its turn, in the same space."""
    assert not _keeps_nothing(_Keeping())
    assert not _keeps_nothing(object())
    left, right = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=left)
    try:
        assert _keeps_nothing(transport) is (sys.version_info < (3, 12))
        if _keeps_nothing(transport):
            space = bytearray(b"a" * 4_000_000)  # more than the socket takes at once
            transport.write(memoryview(space))
            space[:] = bytes(len(space))
            right.setblocking(False)
            received = b""
            while len(received) < len(space):
                received += await asyncio.get_running_loop().sock_recv(right, 1 << 20)
            assert received == b"a" * len(space), "what was written is what was there when it was written"
    finally:
        transport.close()
        right.close()
        await asyncio.sleep(0)
