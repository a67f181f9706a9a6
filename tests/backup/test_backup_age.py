"""Encryption of backups: the age format, read from another implementation's output, and every way to hurt a file."""

from __future__ import annotations

import base64
import io
import os
import random

import pytest

from teleport.backup import bech32
from teleport.backup.age import CHUNK, Broken, Identity, Recipient, SealingWriter, seal, unseal, wants_passphrase
from teleport.errors import AccessDenied, BadRequest
from teleport.pki.secret import Secret

# Made with age-keygen and age 1.1.1 of Debian 12 (filippo.io/age).
KEY = "AGE-SECRET-KEY-16GG7XHLRKSWV3UD7P053S276GKLN23UUX4W7A8AFFFY003ZV7SYQDG78NJ"
PUBLIC = "age1pwajv8jta9cyagp7ukd26y4gm4nmqal20hjc2285cwrktvxx9pwqya054a"
SEALED = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBVR05QNjdBZ2psN0ZoaFVnd0NWSzl0ZDZUVTFZM3RTRW0wRUltVHArNnljCmNCRHNL"
    "S3VuaklPaU5nd2ViNHU0TVQ1cE81N0hLeFRNU2wrdGhBYVZhbU0KLS0tIFlaQzhHMlBYTW9xa1M0RFBteVVIMTBQTkpaaktFUitDRVpEYlZM"
    "RGRNWHMK1R9rp0HXyhut5bcsUX6n2sqH+SNjMzSnRs63L7LOgrRXrSmHQaiKiA8mGoj9xuNbkB82Srtc"
)
IDENTITY = Identity.parse(KEY)
PASSPHRASE = Secret(b"nine wild otters on a train")
LOW = 4  # work that costs nothing


def sealed(plain: bytes, *recipients: Recipient, passphrase: Secret | None = None) -> bytes:
    target = io.BytesIO()
    writer: SealingWriter = seal(target, recipients=recipients, passphrase=passphrase, work=LOW)
    at = 0
    while at < len(plain):
        step = random.randint(1, 50_000)
        writer.write(plain[at : at + step])
        at += step
    writer.close()
    return target.getvalue()


def read(data: bytes, *, passphrase: Secret | None = None, identity: Identity = IDENTITY) -> bytes:
    identities = () if passphrase is not None else (identity,)
    return unseal(io.BytesIO(data), identities=identities, passphrase=passphrase).read()


def test_what_another_implementation_wrote_is_read() -> None:
    assert read(SEALED) == b"hello from another age"
    assert (str(IDENTITY.recipient), IDENTITY.reveal()) == (PUBLIC, KEY)
    assert str(Recipient.parse(PUBLIC)) == PUBLIC


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_sealed_comes_back(size: int) -> None:
    plain = os.urandom(size)
    other = Identity.generate()
    both = sealed(plain, IDENTITY.recipient, other.recipient)
    assert read(both) == read(both, identity=other) == plain
    assert read(sealed(plain, passphrase=PASSPHRASE), passphrase=PASSPHRASE) == plain


def test_whoever_has_another_key_reads_nothing() -> None:
    to_key, to_passphrase = sealed(b"x", IDENTITY.recipient), sealed(b"x", passphrase=PASSPHRASE)
    for data, keys in (
        (to_key, {"identities": [Identity.generate()]}),
        (to_key, {"passphrase": PASSPHRASE}),
        (to_key, {}),
        (to_passphrase, {"passphrase": Secret(b"nine wild otters on a plane")}),
        (to_passphrase, {"identities": [IDENTITY]}),
    ):
        with pytest.raises(AccessDenied):
            unseal(io.BytesIO(data), **keys)
    assert (wants_passphrase(io.BytesIO(to_key)), wants_passphrase(io.BytesIO(to_passphrase))) == (False, True)


def test_every_bit_counts_and_so_does_the_end() -> None:
    """Wherever one is changed: the header, the wrapped key, the nonce, a chunk, its tag."""
    data = sealed(b"some text that is to stay as it is", IDENTITY.recipient)
    for place in range(len(data)):
        for bit in (1, 0x80):
            hurt = bytearray(data)
            hurt[place] ^= bit
            with pytest.raises((Broken, AccessDenied)):
                read(bytes(hurt))
    for length in range(len(data)):
        with pytest.raises(Broken):
            read(data[:length])
    with pytest.raises(Broken):
        read(data + b"\0")


def test_chunks_cannot_be_left_out_repeated_or_moved() -> None:
    """Also not at the end of a chunk, where a shorter file looks whole."""
    data = sealed(os.urandom(3 * CHUNK), IDENTITY.recipient)
    size = CHUNK + 16
    head, chunks = data[: -3 * size], [data[-3 * size :][at : at + size] for at in range(0, 3 * size, size)]
    one, two, three = chunks
    for order in ([one, two], [one, three], [two, one, three], [one, two, two, three], [one, one, three], []):
        with pytest.raises(Broken):
            read(head + b"".join(order))
    assert len(read(head + one + two + three)) == 3 * CHUNK


def test_nothing_of_a_changed_chunk_is_given_out() -> None:
    data = bytearray(sealed(b"a" * CHUNK + b"b" * CHUNK, IDENTITY.recipient))
    data[-1] ^= 1
    reader = unseal(io.BytesIO(bytes(data)), identities=[IDENTITY])
    assert reader.read(CHUNK) == b"a" * CHUNK
    with pytest.raises(Broken, match="behind its first 65536 bytes"):
        reader.read(1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"age-encryption.org/v1\n", b"age-encryption.org/v2\n"),
        (b"-> X25519 ", b"-> X25519  "),
        (b"\n--- ", b"\n---"),
        (b"-> X25519 ", b"-> X25519 extra "),
        (b"\n--- ", b"\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- "),
        (b"\n--- ", b"\n-> other\n\n--- "),
    ],
)
def test_another_header_is_refused(old: bytes, new: bytes) -> None:
    """A key of a kind that is not known is passed over, but whoever adds one changes what is proved."""
    with pytest.raises((Broken, AccessDenied)):
        read(SEALED.replace(old, new, 1))


def test_no_more_work_is_done_than_is_reasonable() -> None:
    """Otherwise a file that asks for it would take all memory."""
    data = sealed(b"x", passphrase=PASSPHRASE).replace(b" 4\n", b" 40\n", 1)
    with pytest.raises(Broken, match="more work"):
        read(data, passphrase=PASSPHRASE)


@pytest.mark.parametrize(
    "text",
    ["", "age1", PUBLIC[:-1], PUBLIC.replace("p", "q", 1), PUBLIC[:-2] + PUBLIC[-1] + PUBLIC[-2], PUBLIC + "q",
     PUBLIC[:10] + PUBLIC[10:].upper(), "x" * 5000, KEY.lower(), bech32.encode("age", b"short")],
)  # fmt: skip
def test_a_mistyped_key_is_told(text: str) -> None:
    with pytest.raises(BadRequest):
        Recipient.parse(text)


def test_a_private_key_is_never_shown() -> None:
    assert KEY not in repr(IDENTITY)
    with pytest.raises(BadRequest) as refused:
        Identity.parse(KEY[:-1] + "Q")
    assert KEY[:20] not in str(refused.value)
