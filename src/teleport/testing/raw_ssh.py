"""An SSH client that obeys nobody: does a key exchange and then sends whatever packets a test makes.

Written over cryptography alone (RFC 4253, RFC 5656 with curve25519-sha256, AES-128-GCM of RFC 5647 as OpenSSH has it),
so that it shares no mistake with the servers it is pointed at.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from teleport.pki import sshsig
from teleport.testing.lab_certificates import LabUser

SECONDS = 20.0  # for every wait
DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT = range(1, 7)
KEXINIT, NEWKEYS, ECDH_INIT, ECDH_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS = 50, 51, 52
GLOBAL_REQUEST = 80
CHANNEL_OPEN, OPEN_CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST = 90, 91, 92, 93
CHANNEL_DATA, CHANNEL_EXTENDED, CHANNEL_EOF, CHANNEL_CLOSE, CHANNEL_REQUEST = 94, 95, 96, 97, 98
STRICT = "kex-strict-c-v00@openssh.com"
CIPHERS = "aes128-gcm@openssh.com"


def text(value: bytes | str) -> bytes:
    """An SSH string."""
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data


def number(value: int) -> bytes:
    """An SSH uint32."""
    return value.to_bytes(4, "big")


def _mpint(data: bytes) -> bytes:
    data = data.lstrip(b"\0")
    return text(b"\0" + data if data and data[0] & 0x80 else data)


def framed(payload: bytes, block: int = 8, *, counted: int = 5) -> bytes:
    """A packet without encryption: length, padding length, payload, padding."""
    padding = -(counted + len(payload)) % block
    padding += block if padding < 4 else 0
    return number(1 + len(payload) + padding) + bytes([padding]) + payload + bytes(padding)


class _Gcm:
    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead, self._fixed, self._count = AESGCM(key), iv[:4], int.from_bytes(iv[4:], "big")

    def _iv(self) -> bytes:
        iv = self._fixed + struct.pack(">Q", self._count)
        self._count = (self._count + 1) % 2**64
        return iv

    def seal(self, payload: bytes) -> bytes:
        packet = framed(payload, 16, counted=1)
        return packet[:4] + self._aead.encrypt(self._iv(), packet[4:], packet[:4])

    def open(self, length: bytes, sealed: bytes) -> bytes:
        return self._aead.decrypt(self._iv(), sealed, length)


@dataclass
class RawSsh:
    """One connection. What the server said about itself stands in the attributes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    version: bytes = b"SSH-2.0-raw"
    server_version: bytes = b""
    server_kexinit: bytes = b""
    session_id: bytes = b""
    seen: list[int] = field(default_factory=list)  # types of the packets that were received
    _out: _Gcm | None = None
    _in: _Gcm | None = None

    @classmethod
    async def connect(
        cls, port: int, *, before: bytes = b"", version: bytes = b"SSH-2.0-raw", receive_buffer: int = 0
    ) -> Self:
        """A connection after the exchange of versions; `before` is sent first.

        `receive_buffer` (bytes, 0: as usual) makes a peer that does not read stop the server soon.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or asyncio sets no TCP_NODELAY
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock)
        made = cls(reader, writer, version)
        writer.write(before + version + b"\r\n")
        async with asyncio.timeout(SECONDS):
            made.server_version = (await reader.readline()).rstrip(b"\r\n")
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    # packets

    def sealed(self, payload: bytes) -> bytes:
        """The packet as it goes over the wire now."""
        return self._out.seal(payload) if self._out is not None else framed(payload)

    def send(self, payload: bytes) -> None:
        """Sends a packet; does not wait."""
        self.writer.write(self.sealed(payload))

    async def flood(self, payload: bytes, count: int) -> int:
        """Sends the same packet `count` times; how many went out before the server closed."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < count and not self.reader.at_eof() and not self.writer.is_closing():
                some = min(500, count - sent)
                self.writer.write(b"".join(self.sealed(payload) for _ in range(some)))
                async with asyncio.timeout(SECONDS):
                    await self.writer.drain()
                sent += some
        return sent

    async def receive(self) -> bytes:
        """The payload of the next packet; raises `EOFError` when the server has closed."""
        try:
            async with asyncio.timeout(SECONDS):
                length = await self.reader.readexactly(4)
                size = int.from_bytes(length, "big")
                body = await self.reader.readexactly(size + (16 if self._in is not None else 0))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise EOFError("the server closed") from error
        if self._in is not None:
            body = self._in.open(length, body)
        payload = body[1 : len(body) - body[0]]
        self.seen.append(payload[0])
        return payload

    async def until(self, *kinds: int) -> bytes:
        """The next packet of one of these types; others are dropped."""
        while (payload := await self.receive())[0] not in kinds:
            pass
        return payload

    async def closed(self) -> str:
        """Waits until the server closes; the reason of its disconnect message, empty when it gave none."""
        reason = ""
        try:
            while True:
                payload = await self.receive()
                if payload[0] == DISCONNECT:
                    size = int.from_bytes(payload[5:9], "big")
                    reason = payload[9 : 9 + size].decode(errors="replace")
        except EOFError:
            return reason

    # steps of the protocol

    def kexinit(
        self, *, strict: bool = True, ciphers: str = CIPHERS, compression: str = "none", more: str = ""
    ) -> bytes:
        """A KEXINIT payload; `more` are further names of key exchanges."""
        names = ",".join(filter(None, ("curve25519-sha256", "ext-info-c", STRICT if strict else "", more)))
        macs = "hmac-sha2-256-etm@openssh.com"
        keys = "ssh-ed25519-cert-v01@openssh.com,ssh-ed25519,ecdsa-sha2-nistp256"
        lists = (names, keys, ciphers, ciphers, macs, macs, compression, compression, "", "")
        return bytes([KEXINIT]) + os.urandom(16) + b"".join(map(text, lists)) + b"\0" + number(0)

    async def exchange(self, kexinit: bytes = b"", *, between: bytes = b"") -> None:
        """A whole key exchange, the first or a further one. `between` is sent raw after our KEXINIT."""
        ours = kexinit or self.kexinit()
        self.send(ours)
        if between:
            self.writer.write(between)
        theirs = await self.until(KEXINIT)
        self.server_kexinit = theirs
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        self.send(bytes([ECDH_INIT]) + text(public))
        reply = await self.until(ECDH_REPLY)
        host_key, at = _take(reply, 1)
        server_public, at = _take(reply, at)
        secret = _mpint(private.exchange(X25519PublicKey.from_public_bytes(server_public)))
        parts = (self.version, self.server_version, ours, theirs, host_key, public, server_public)
        digest = hashlib.sha256(b"".join(map(text, parts)) + secret).digest()
        self.session_id = self.session_id or digest

        def key(letter: bytes, size: int) -> bytes:
            return hashlib.sha256(secret + digest + letter + self.session_id).digest()[:size]

        await self.until(NEWKEYS)
        self._in = _Gcm(key(b"D", 16), key(b"B", 12))
        self.send(bytes([NEWKEYS]))
        self._out = _Gcm(key(b"C", 16), key(b"A", 12))

    async def ask_service(self, name: str = "ssh-userauth") -> None:
        self.send(bytes([SERVICE_REQUEST]) + text(name))
        await self.until(SERVICE_ACCEPT)

    def userauth(self, login: str, method: str, rest: bytes = b"") -> bytes:
        """A USERAUTH_REQUEST payload."""
        return bytes([USERAUTH_REQUEST]) + text(login) + text("ssh-connection") + text(method) + rest

    async def log_in(self, user: LabUser, login: str) -> None:
        """Everything up to the success of authentication with a certificate."""
        await self.exchange()
        await self.ask_service()
        blob = user.certificate.blob
        kind, _ = _take(blob, 0)
        request = self.userauth(login, "publickey", b"\1" + text(kind) + text(blob))
        self.send(request + text(sshsig.sign(user.key, text(self.session_id) + request)))
        await self.until(USERAUTH_SUCCESS)

    def opening(self, kind: str = "session", sender: int = 0, window: int = 1 << 20, packet: int = 32768) -> bytes:
        """A CHANNEL_OPEN payload."""
        return bytes([CHANNEL_OPEN]) + text(kind) + number(sender) + number(window) + number(packet)

    async def open_session(self, sender: int = 0, *, window: int = 1 << 20, packet: int = 32768) -> int:
        """Opens a session channel; the server's number of it."""
        self.send(self.opening(sender=sender, window=window, packet=packet))
        payload = await self.until(OPEN_CONFIRMATION)
        return int.from_bytes(payload[5:9], "big")

    def request(self, channel: int, name: str, rest: bytes = b"", *, reply: bool = True) -> bytes:
        """A CHANNEL_REQUEST payload."""
        return bytes([CHANNEL_REQUEST]) + number(channel) + text(name) + bytes([reply]) + rest


def _take(data: bytes, at: int) -> tuple[bytes, int]:
    size = int.from_bytes(data[at : at + 4], "big")
    return data[at + 4 : at + 4 + size], at + 4 + size
