"""Runs of sealed packets, opened with asyncssh's own cipher."""

from __future__ import annotations

import os
import random

import pytest
from asyncssh.encryption import GCMEncryption

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


def test_a_run_stays_as_it_is_when_the_next_one_is_sealed() -> None:
    """A transport may keep it: an inner connection writes to a channel of an outer one, which seals in its turn."""
    ours, peer = GCMEncryption.new("aes128-gcm", KEY, IV), GCMEncryption.new("aes128-gcm", KEY, IV)
    sealer = Sealer(ours, bytes(32))
    kept = [sealer.seal(1, memoryview(bytes([number]) * 70_000), 32768)[0] for number in range(3)]
    assert len(opened(peer, b"".join(kept))) == 9
