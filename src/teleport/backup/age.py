"""age v1 (https://age-encryption.org/v1): how a backup is encrypted, to a passphrase or to public keys.

A published format with other implementations, so that a backup opens without our programs, and nothing here has to be
believed. Its parts are those of `cryptography`: X25519 or scrypt wrap a random file key; an HMAC over the header and
ChaCha20-Poly1305 over chunks of 64 KiB, numbered and with the last one marked, prove every byte. A changed bit, a
missing end, chunks in another order: each is an error, and nothing of such a chunk is given out.

Streams only: what is written or read is never held whole.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from teleport.backup import bech32
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.pki.secret import Secret

INTRO: Final = b"age-encryption.org/v1"
CHUNK: Final = 64 * 1024  # bytes of plain text
_TAG: Final = 16
_FILE_KEY: Final = 16
_NONCE: Final = 16
_WORK: Final = 18  # scrypt's N is 2 to this: a quarter of a GiB and about a second, for each guess too
MOST_WORK: Final = 20  # taken when reading: a GiB of memory
_X25519: Final = "X25519"
_SCRYPT: Final = "scrypt"
_MAX_HEADER: Final = 64 * 1024  # bytes
_COLUMNS: Final = 64
_KEY_NONCE: Final = bytes(12)
RECIPIENT: Final = "age"
IDENTITY: Final = "age-secret-key-"


class Broken(TeleportError):
    """The file is not what was written: altered, cut short, or something else altogether."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key (`age1...`): whoever has the private one can read."""

    public: bytes

    @classmethod
    def parse(cls, text: str) -> Recipient:
        """Raises `BadRequest`."""
        prefix, data = bech32.decode(text.strip())
        if prefix != RECIPIENT or len(data) != 32:
            raise BadRequest(
                "not a public key of a backup: these begin with age1", hint="tctl backup keygen makes a pair"
            )
        return cls(data)

    def __str__(self) -> str:
        return bech32.encode(RECIPIENT, self.public)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A private key (`AGE-SECRET-KEY-1...`)."""

    private: bytes

    def __repr__(self) -> str:
        return "Identity(...)"

    @classmethod
    def generate(cls) -> Identity:
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Raises `BadRequest`."""
        prefix, data = bech32.decode(text.strip())
        if prefix != IDENTITY or len(data) != 32:
            raise BadRequest("not a private key of a backup: these begin with AGE-SECRET-KEY-1")
        return cls(data)

    def reveal(self) -> str:
        """The key as it is kept in a file."""
        return bech32.encode(IDENTITY, self.private).upper()

    @property
    def recipient(self) -> Recipient:
        return Recipient(X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True)
class _Stanza:
    kind: str
    words: tuple[str, ...]
    body: bytes

    def encode(self) -> bytes:
        text = _to_base64(self.body)
        lines = [text[at : at + _COLUMNS] for at in range(0, len(text) + 1, _COLUMNS)]  # the last is a short one
        return "\n".join([" ".join(("->", self.kind, *self.words)), *lines, ""]).encode()


def seal(
    target: BinaryIO, *, recipients: Sequence[Recipient] = (), passphrase: Secret | None = None, work: int = _WORK
) -> SealingWriter:
    """What writes encrypted to `target`; its `close` writes the end and leaves `target` open.

    Either recipients or a passphrase: a file that a passphrase opens is for nobody else (age, section "scrypt").
    """
    assert bool(recipients) != (passphrase is not None), "either recipients or a passphrase"
    file_key = os.urandom(_FILE_KEY)
    if passphrase is not None:
        stanzas = [_for_passphrase(file_key, passphrase, work)]
    else:
        stanzas = [_for_recipient(file_key, one) for one in recipients]
    head = INTRO + b"\n" + b"".join(stanza.encode() for stanza in stanzas) + b"---"
    target.write(head + b" " + _to_base64(_header_mac(file_key, head)).encode() + b"\n")
    nonce = os.urandom(_NONCE)
    target.write(nonce)
    return SealingWriter(target, _derive(file_key, nonce, b"payload"))


def unseal(
    source: BinaryIO, *, identities: Sequence[Identity] = (), passphrase: Secret | None = None
) -> UnsealingReader:
    """What reads the plain text of `source`. Raises `Broken` when it is no such file, `AccessDenied` when none of the
    keys fits. Only what was read up to the empty answer is proved to be all of it."""
    head, stanzas, mac = _read_header(source)
    file_key = _file_key(stanzas, identities, passphrase)
    if not hmac.compare_digest(_header_mac(file_key, head), mac):
        raise Broken("the beginning of the backup was altered", hint="use another copy")
    nonce = _exactly(source, _NONCE)
    return UnsealingReader(source, _derive(file_key, nonce, b"payload"))


def wants_passphrase(source: BinaryIO) -> bool:
    """Whether a passphrase opens the file, not a key. The caller goes back to its beginning."""
    _, stanzas, _ = _read_header(source)
    return any(stanza.kind == _SCRYPT for stanza in stanzas)


# the key of the file


def _for_recipient(file_key: bytes, recipient: Recipient) -> _Stanza:
    own = X25519PrivateKey.generate()
    share = own.public_key().public_bytes_raw()
    try:
        common = own.exchange(X25519PublicKey.from_public_bytes(recipient.public))
    except ValueError:
        raise BadRequest(f"{recipient} is a public key that nobody can have", hint="tctl backup keygen") from None
    wrapped = ChaCha20Poly1305(_derive(common, share + recipient.public, INTRO + b"/X25519"))
    return _Stanza(_X25519, (_to_base64(share),), wrapped.encrypt(_KEY_NONCE, file_key, None))


def _for_passphrase(file_key: bytes, passphrase: Secret, work: int) -> _Stanza:
    salt = os.urandom(16)
    wrapped = ChaCha20Poly1305(_stretched(passphrase, salt, work))
    return _Stanza(_SCRYPT, (_to_base64(salt), str(work)), wrapped.encrypt(_KEY_NONCE, file_key, None))


def _file_key(stanzas: Sequence[_Stanza], identities: Sequence[Identity], passphrase: Secret | None) -> bytes:
    locked = [stanza for stanza in stanzas if stanza.kind == _SCRYPT]
    if locked and len(stanzas) > 1:
        raise Broken("the backup names a passphrase and further keys, which cannot be", hint="use another copy")
    if locked:
        if passphrase is None:
            raise AccessDenied("a passphrase opens this backup, not a key", hint="leave --key-file out")
        found = _by_passphrase(locked[0], passphrase)
        if found is None:
            raise AccessDenied("the passphrase does not open this backup", hint="try again; nothing else opens it")
        return found
    if passphrase is not None and not identities:
        raise AccessDenied("a key opens this backup, not a passphrase", hint="--key-file=FILE, from tctl backup keygen")
    for identity in identities:
        for stanza in stanzas:
            if stanza.kind == _X25519 and (found := _by_identity(stanza, identity)) is not None:
                return found
    raise AccessDenied("none of the keys opens this backup", hint="it needs the private key of one it was made for")


def _by_identity(stanza: _Stanza, identity: Identity) -> bytes | None:
    if len(stanza.words) != 1 or len(share := _from_base64(stanza.words[0])) != 32:
        raise Broken("the beginning of the backup cannot be read", hint="use another copy")
    if len(stanza.body) != _FILE_KEY + _TAG:
        raise Broken("the beginning of the backup cannot be read", hint="use another copy")
    try:
        common = X25519PrivateKey.from_private_bytes(identity.private).exchange(
            X25519PublicKey.from_public_bytes(share)
        )
    except ValueError:
        raise Broken("the beginning of the backup cannot be read", hint="use another copy") from None
    key = _derive(common, share + identity.recipient.public, INTRO + b"/X25519")
    try:
        return ChaCha20Poly1305(key).decrypt(_KEY_NONCE, stanza.body, None)
    except InvalidTag:
        return None


def _by_passphrase(stanza: _Stanza, passphrase: Secret) -> bytes | None:
    if (
        len(stanza.words) != 2
        or len(salt := _from_base64(stanza.words[0])) != 16
        or len(stanza.body) != _FILE_KEY + _TAG
    ):
        raise Broken("the beginning of the backup cannot be read", hint="use another copy")
    if not re.fullmatch("[1-9][0-9]?", stanza.words[1]) or int(stanza.words[1]) > MOST_WORK:
        raise Broken(f"the backup asks for more work than {MOST_WORK} to open it", hint="use another copy")
    try:
        return ChaCha20Poly1305(_stretched(passphrase, salt, int(stanza.words[1]))).decrypt(
            _KEY_NONCE, stanza.body, None
        )
    except InvalidTag:
        return None


def _stretched(passphrase: Secret, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=INTRO + b"/scrypt" + salt, length=32, n=1 << work, r=8, p=1).derive(passphrase.reveal())


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


def _header_mac(file_key: bytes, head: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b"", b"header"), head, "sha256")


# the header


def _read_header(source: BinaryIO) -> tuple[bytes, list[_Stanza], bytes]:
    """The bytes that its MAC covers, the stanzas, the MAC. Nothing is proved yet."""
    read = 0

    def line() -> bytes:
        nonlocal read
        found = source.readline(_MAX_HEADER + 1)
        read += len(found)
        if not found.endswith(b"\n") or read > _MAX_HEADER:
            raise Broken("this is no backup, or its beginning is missing", hint="tctl backup create writes one")
        return found

    first = line()
    if first != INTRO + b"\n":
        raise Broken("this is no backup, or its beginning is missing", hint="tctl backup create writes one")
    head, stanzas = first, list[_Stanza]()
    while not (found := line()).startswith(b"---"):
        words = found[:-1].decode("ascii", "replace").split(" ")
        if len(words) < 2 or words[0] != "->" or not all(words):
            raise Broken("the beginning of the backup cannot be read", hint="use another copy")
        head += found
        text = ""
        while True:
            part = line()
            head += part
            text += part[:-1].decode("ascii", "replace")
            if len(part) <= _COLUMNS:
                break
            if len(part) > _COLUMNS + 1:
                raise Broken("the beginning of the backup cannot be read", hint="use another copy")
        stanzas.append(_Stanza(words[1], tuple(words[2:]), _from_base64(text)))
    mac = found[:-1].removeprefix(b"--- ")
    if len(mac) == len(found[:-1]) or not stanzas:
        raise Broken("the beginning of the backup cannot be read", hint="use another copy")
    return head + b"---", stanzas, _from_base64(mac.decode("ascii", "replace"))


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    """Canonical and without padding, or `Broken`."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if _to_base64(data) != text:
        raise Broken("the beginning of the backup cannot be read", hint="use another copy")
    return data


def _exactly(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise Broken("the end of the backup is missing", hint="it was cut short; use another copy")
    return data


# the chunks


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


class SealingWriter:
    """Encrypts what is written, chunk by chunk."""

    def __init__(self, target: BinaryIO, key: bytes) -> None:
        self._target = target
        self._cipher = ChaCha20Poly1305(key)
        self._held = bytearray()
        self._number = 0

    def write(self, data: bytes) -> None:
        self._held += data
        while len(self._held) > CHUNK:  # never the last one, which may be a whole chunk
            self._put(bytes(self._held[:CHUNK]), last=False)
            del self._held[:CHUNK]

    def close(self) -> None:
        """Writes the end, without which the file is refused."""
        self._put(bytes(self._held), last=True)
        self._held.clear()

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, None))
        self._number += 1


class UnsealingReader(io.RawIOBase):
    """The plain text. `read` raises `Broken` where the file is not what was written."""

    def __init__(self, source: BinaryIO, key: bytes) -> None:
        super().__init__()
        self._source = source
        self._cipher = ChaCha20Poly1305(key)
        self._number = 0
        self._ahead = _full(source, CHUNK + _TAG)
        self._held = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not self._held and not self._ended:
            self._next()
        count = min(len(view), len(self._held))
        view[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    def _next(self) -> None:
        chunk, self._ahead = self._ahead, b""
        if len(chunk) == CHUNK + _TAG:
            self._ahead = _full(self._source, CHUNK + _TAG)
        last = not self._ahead
        try:
            plain = self._cipher.decrypt(_nonce(self._number, last=last), chunk, None) if len(chunk) >= _TAG else None
        except InvalidTag:
            plain = None
        if plain is None or (not plain and self._number):
            where = self._number * CHUNK
            what = "the end is missing, or was altered" if last else "it was altered"
            raise Broken(f"the backup is damaged behind its first {where} bytes: {what}", hint="use another copy")
        self._number += 1
        self._held, self._ended = memoryview(plain), last


def _full(source: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    parts, wanted = list[bytes](), size
    while wanted and (part := source.read(wanted)):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)
