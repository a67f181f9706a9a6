"""Seals long runs of data packets under AES-GCM into one piece of memory, for one write.

Rules: a nonce is used once (the counter is asyncssh's own, put back before anything is sent); what lies in the working
space from an earlier packet never becomes part of a later one.
"""

from __future__ import annotations

import mmap
import struct
import threading

from asyncssh.encryption import GCMEncryption
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MOST = 256 * 1024  # bytes of data to one run
_MSG_CHANNEL_DATA = 94
_TAG = 16  # bytes
_BLOCK = 16
_LEAST_PADDING = 4
_HEAD = struct.Struct(">BBII")  # padding length, type, channel, bytes of data
_LENGTH = struct.Struct(">I")


class _Space(threading.local):
    """Room for one packet in the clear and for a run of sealed ones; pages that nobody used yet take no memory."""

    def __init__(self) -> None:
        self.plain = memoryview(mmap.mmap(-1, _HEAD.size + MOST + 2 * _BLOCK))
        self.sealed = memoryview(mmap.mmap(-1, MOST + MOST // 16))


_space = _Space()


class Sealer:
    """The sending side of one connection, under one key."""

    def __init__(self, encryption: GCMEncryption, padding: bytes) -> None:
        """`padding`: 32 random bytes of the connection; sealed with each packet, so they need not be new."""
        self.encryption = encryption
        self.aead = AESGCM(encryption._cipher._key)
        self._padding = padding

    def seal(self, channel: int, data: memoryview, largest: int) -> tuple[memoryview, int, int, int]:
        """Seals up to `MOST` bytes of `data` as packets with `largest` bytes each (4 KiB at least).

        Returns what is to be sent, the bytes of data in it, the packets, and their bytes as rekeying counts them. What
        is to be sent lies in space that the next run of any connection takes: whoever keeps it copies it.
        """
        cipher, encrypt, plain, sealed = self.encryption._cipher, self.aead.encrypt_into, _space.plain, _space.sealed
        fixed, counter = cipher._iv[:4], int.from_bytes(cipher._iv[4:], "big")
        taken = at = packets = counted = size = 0
        total = min(len(data), MOST)
        while taken < total:
            if size != min(total - taken, largest):
                # All packets but the last are of one size: all but their data lies there already.
                size = min(total - taken, largest)
                end = _HEAD.size + size
                padding = -end % _BLOCK
                if padding < _LEAST_PADDING:
                    padding += _BLOCK
                length = end + padding
                _HEAD.pack_into(plain, 0, padding, _MSG_CHANNEL_DATA, channel, size)
                plain[end:length] = self._padding[:padding]
                packet_length, place, packet = _LENGTH.pack(length), plain[_HEAD.size : end], plain[:length]
            place[:] = data[taken : taken + size]
            body = at + 4
            sealed[at:body] = packet_length
            at = body + length + _TAG
            encrypt(fixed + counter.to_bytes(8, "big"), packet, packet_length, sealed[body:at])
            counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
            taken += size
            packets, counted = packets + 1, counted + length
        cipher._iv = fixed + counter.to_bytes(8, "big")
        return sealed[:at], taken, packets, counted
