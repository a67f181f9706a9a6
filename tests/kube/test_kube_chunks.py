"""Bodies in chunks that go on as they came: what another parser of HTTP reads of them is what it reads without us."""

from __future__ import annotations

import random
from collections.abc import Sequence

import h11
import pytest

from teleport.kube.chunks import Chunks

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(body: bytes) -> tuple[bytes, bool]:
    """What h11 reads of it, and whether it came to its end. Raises `h11.RemoteProtocolError`."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(HEAD + body)
    found = b""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Data):
            found += bytes(event.data)
        elif event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage):
            return found, event is not h11.NEED_DATA


def passed(parts: Sequence[bytes]) -> tuple[bytes, bytes | None]:
    """What goes on of these, and what is left to a parser with all that follows."""
    chunks, found = Chunks(), b""
    for number, part in enumerate(parts):
        found += chunks.feed(part)
        if chunks.rest is not None:
            return found, chunks.rest + b"".join(parts[number + 1 :])
    return found, None


def cut(body: bytes, chance: random.Random) -> list[bytes]:
    """In pieces, some of a byte, some empty."""
    places = sorted(chance.choices(range(len(body) + 1), k=chance.randrange(12)))
    return [body[begin:end] for begin, end in zip([0, *places], [*places, len(body)], strict=True)]


def test_chunks_go_on_unchanged_and_at_once() -> None:
    """Also the end of each, which some clients wait for; the last one is left."""
    chunks = Chunks()
    assert chunks.feed(b"5\r\nhello\r\n") == b"5\r\nhello\r\n"
    assert chunks.feed(b"00A\r\n01234") == b"00A\r\n01234"
    assert chunks.feed(b"56789") == b"56789"
    assert chunks.feed(b"\r") == b""
    assert chunks.feed(b"\n1") == b"\r\n"
    assert chunks.feed(b"f\r") == b""
    assert chunks.feed(b"\n" + b"x" * 31) == b"1f\r\n" + b"x" * 31
    assert chunks.rest is None
    assert chunks.feed(b"\r\n0\r\nTrailer: a\r\n\r\n") == b"\r\n"
    assert chunks.rest == b"0\r\nTrailer: a\r\n\r\n"


@pytest.mark.parametrize(
    "odd",
    [
        b"5;name=value\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"\r\n5\r\nhello\r\n",
        b"\r\n\r\n",
        b"0000000000000000000005\r\nhello\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b"f" * 100,
        "\u0665\r\nhello\r\n".encode(),
    ],
)
def test_a_length_that_could_be_read_in_two_ways_does_not_go_on(odd: bytes) -> None:
    """However it comes."""
    for parts in ([b"1\r\na\r\n" + odd], [b"1\r\na\r\n", odd], [bytes([one]) for one in b"1\r\na\r\n" + odd]):
        assert passed(parts) == (b"1\r\na\r\n", odd)


@pytest.mark.parametrize("after", [b"xx", b"\rx", b"\nx", b"x\r\n", b"0\r\n\r\n"])
def test_a_chunk_that_is_longer_than_it_says_ends_the_call(after: bytes) -> None:
    for parts in ([b"1\r\na" + after], [b"1\r\na", after], [bytes([one]) for one in b"1\r\na" + after]):
        with pytest.raises(h11.RemoteProtocolError, match="longer than it says"):
            passed(parts)


@pytest.mark.parametrize("seed", range(300))
def test_what_goes_on_is_read_as_what_came(seed: int) -> None:
    """However bodies are cut, and damaged: what is read of both parts is what is read of the whole, or both are
    refused."""
    chance = random.Random(seed)
    body = b""
    for _ in range(chance.randrange(8)):
        data = chance.randbytes(chance.choice([1, 2, 9, 10, 15, 16, 17, 255, 4096]))
        body += b"%s\r\n%s\r\n" % (chance.choice([b"%x", b"%X", b"%04x"]) % len(data), data)
    body += chance.choice([b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"00\r\n\r\n", b"", b"5;a=b\r\nhello\r\n0\r\n\r\n"])
    if body and chance.random() < 0.5:
        at = chance.randrange(len(body))
        body = body[:at] + chance.choice([b"", b"\r", b"\n", b"0", b"f", b";", b" "]) + body[at + 1 :]
    try:
        wanted = read(body)
    except h11.RemoteProtocolError:
        wanted = None
    try:
        through, rest = passed(cut(body, chance))
        assert body.startswith(through)
        assert rest is None or through + rest == body
        assert rest is not None or body.removeprefix(through).strip(b"\r0123456789abcdefABCDEF") == b""
        found = read(through + (rest or b""))
    except h11.RemoteProtocolError:
        found = None
    if wanted is None:
        assert found is None or not found[1], "what is refused is not taken for whole"
    else:
        assert found is not None
        assert wanted[0].startswith(found[0])
        assert rest is None or found == wanted
