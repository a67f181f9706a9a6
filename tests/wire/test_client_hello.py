"""ClientHellos that OpenSSL writes, whole, in pieces, split over records, and damaged."""

from __future__ import annotations

import ssl

import pytest

from teleport.wire.client_hello import MAX_BYTES, ClientHello, Malformed, parse


def hello(name: str | None, *protocols: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    if protocols:
        context.set_alpn_protocols(protocols)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


WHOLE = hello("Proxy.Example.test", "teleport-proxy-ssh", "http/1.1")
FOUND = ClientHello("proxy.example.test", ("teleport-proxy-ssh", "http/1.1"))


def in_records(whole: bytes, size: int) -> bytes:
    body = whole[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(whole[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def test_name_and_protocols_are_read() -> None:
    assert parse(WHOLE) == FOUND
    assert parse(hello(None)) == ClientHello()
    assert parse(hello("192.0.2.1")) == ClientHello()  # addresses are not named (RFC 6066)
    assert parse(hello("a.test", newest=ssl.TLSVersion.TLSv1_2)) == ClientHello("a.test")


@pytest.mark.parametrize("size", [16, 50])
def test_it_comes_in_any_pieces_and_records(size: int) -> None:
    """Nothing is decided before all of it is there, and what follows it decides nothing."""
    split = in_records(WHOLE, size)
    for end in range(len(split)):
        assert parse(split[:end]) is None, end
    assert parse(split) == parse(split + b"\x14\x03\x03") == FOUND


def extended(*extensions: tuple[int, bytes]) -> bytes:
    packed = b"".join(kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body for kind, body in extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0" + len(packed).to_bytes(2, "big") + packed
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def named(*names: bytes, kind: int = 0) -> bytes:
    packed = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    return len(packed).to_bytes(2, "big") + packed


BAD = {
    "SSH": b"SSH-2.0-x\r\n",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "an alert": b"\x15\x03\x01\x00\x02\x01\x00",
    "a ServerHello": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record too long": b"\x16\x03\x01\x40\x01",
    "a message too long": b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    "cut off within": WHOLE[:3] + (len(WHOLE) - 6).to_bytes(2, "big") + WHOLE[5:6] + b"\0\0\x10" + WHOLE[9:-1],
    "the name twice": extended((0, named(b"a")), (0, named(b"b"))),
    "two names": extended((0, named(b"a", b"b"))),
    "no name": extended((0, named())),
    "a name with NUL": extended((0, named(b"a\0b"))),
    "another kind of name": extended((0, named(b"a", kind=1))),
    "protocols twice": extended((16, b"\0\2\1a"), (16, b"\0\2\1b")),
    "an empty protocol": extended((16, b"\0\1\0")),
    "more than the list": extended((16, b"\0\2\1a!")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_client_hello_or_has_two_readings_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        parse(BAD[name])


def test_a_sender_that_goes_on_and_on_is_refused() -> None:
    assert parse(extended((0, named(b"a")))) == ClientHello("a")
    endless = b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * MAX_BYTES
    with pytest.raises(Malformed):
        parse(b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00\x16\x03\x01\x00\x02\x3f\xff" + endless)
