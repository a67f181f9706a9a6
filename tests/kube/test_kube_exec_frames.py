"""The frames of commands in pods: read however they are cut, and refused where two readers could differ."""

from __future__ import annotations

import contextlib
import json
import os
import random
import zlib

import pytest

from teleport.kube.exec_channels import BadStream, Channel, LastWord, Pieces, Reader, Sizes
from teleport.kube.spdy import DICTIONARY, MOST_BLOCK, SpdyReader, SpdyStreams
from teleport.kube.websocket_frames import MOST, WebsocketReader, frame

MASK = b"\x11\x22\x33\x44"


def masked(payload: bytes, *, first: int = 0x82, mask: bytes = MASK) -> bytes:
    """A frame as a client sends it."""
    plain = frame(payload)
    head = plain[: len(plain) - len(payload)]
    body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return bytes((first, head[1] | 0x80)) + head[2:] + mask + body


def client(kind: str = "websocket") -> Reader:
    return WebsocketReader(client=True) if kind == "websocket" else SpdyStreams().reader(client=True)


def one_by_one(reader: Reader, wire: bytes) -> None:
    for place in range(len(wire)):
        reader.feed(wire[place : place + 1])


def joined(pieces: Pieces) -> dict[Channel, bytes]:
    found: dict[Channel, bytes] = {}
    for channel, part in pieces:
        found[channel] = found.get(channel, b"") + part
    return found


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    parts = []
    while data:
        size = chance.choice((1, 1, 2, 3, 7, 100, 5000))
        parts.append(data[:size])
        data = data[size:]
    return parts


class Opener:
    """Frames of SPDY as a client writes them."""

    def __init__(self) -> None:
        self._pack = zlib.compressobj(zdict=DICTIONARY)

    def block(self, plain: bytes) -> bytes:
        return self._pack.compress(plain) + self._pack.flush(zlib.Z_SYNC_FLUSH)

    def stream(self, number: int, *headers: tuple[bytes, bytes], flags: int = 0, more: bytes = b"") -> bytes:
        packed = self.block(headers_block(*headers) + more)
        return control(1, number.to_bytes(4) + bytes(6) + packed, flags)


def headers_block(*headers: tuple[bytes, bytes]) -> bytes:
    return len(headers).to_bytes(4) + b"".join(len(text).to_bytes(4) + text for pair in headers for text in pair)


def control(kind: int, body: bytes, flags: int = 0, version: int = 3) -> bytes:
    return (0x8000 | version).to_bytes(2) + kind.to_bytes(2) + bytes((flags,)) + len(body).to_bytes(3) + body


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return number.to_bytes(4) + bytes((flags,)) + len(payload).to_bytes(3) + payload


def all_streams() -> tuple[SpdyStreams, SpdyReader, bytes]:
    opener, streams = Opener(), SpdyStreams()
    opening = b"".join(
        opener.stream(2 * place + 1, (b"streamtype", name.value.encode()), (b"requestid", b"1"))
        for place, name in enumerate((Channel.ERROR, Channel.STDIN, Channel.STDOUT, Channel.STDERR, Channel.RESIZE))
    )
    return streams, streams.reader(client=True), opening


@pytest.mark.parametrize("seed", range(20))
def test_a_websocket_is_read_however_it_is_cut(seed: int) -> None:
    """Output as it is, with control frames between and messages in pieces; of what is typed the size alone."""
    chance = random.Random(seed)
    sent, wire, typed, up = {Channel.STDOUT: b"", Channel.STDERR: b"", Channel.ERROR: b""}, b"", 0, b""
    for _ in range(30):
        number, name = chance.choice([(1, Channel.STDOUT), (2, Channel.STDERR), (3, Channel.ERROR)])
        payload = os.urandom(chance.choice((0, 1, 5, 125, 126, 70_000)))
        sent[name] += payload
        whole = frame(bytes((number,)) + payload)
        if payload and chance.random() < 0.3:
            first, rest = frame(bytes((number,)) + payload[:1]), frame(payload[1:])
            whole = b"\x02" + first[1:] + b"\x89\x00" + b"\x80" + rest[1:]
        wire += whole + chance.choice((b"", b"\x89\x01x", b"\x8a\x00", b"\x82\x00"))
        keys = os.urandom(chance.choice((0, 3, 200)))
        typed += len(keys)
        up += masked(b"\x00" + keys, mask=os.urandom(4)) + masked(b"", first=0x8A)
        up += masked(b'\x04{"Width":9,"Height":8}\n', mask=os.urandom(4))
    server, reader = WebsocketReader(client=False), WebsocketReader(client=True)
    got = joined([piece for part in cut(wire, chance) for piece in server.feed(part)])
    assert {name: got.get(name, b"") for name in sent} == sent
    sizes = joined([piece for part in cut(up, chance) for piece in reader.feed(part)])
    assert (reader.typed, sizes) == (typed, {Channel.RESIZE: b'{"Width":9,"Height":8}\n' * 30})
    assert server.between
    assert server.feed(server.last_word(b"{}")) == [(Channel.ERROR, b"{}")]
    assert (server.closed, server.between) == (True, False)


@pytest.mark.parametrize(
    ("from_client", "wire"),
    [
        pytest.param(True, frame(b"\x00a"), id="a client's frame without a mask"),
        pytest.param(False, masked(b"\x01a"), id="a server's frame with one"),
        pytest.param(True, masked(b"\x01forged"), id="output from the client"),
        pytest.param(True, masked(b"\x03{}"), id="a last word from the client"),
        pytest.param(False, frame(b"\x00typed"), id="input from the server"),
        pytest.param(False, frame(b"\x04{}"), id="a size from the server"),
        pytest.param(False, frame(b"\x05x"), id="no such channel"),
        pytest.param(True, masked(b"\xfex"), id="no such channel from the client"),
        pytest.param(True, masked(b"\x00a", first=0x81), id="text"),
        pytest.param(True, masked(b"\x00a", first=0x02), id="a client's message in pieces"),
        pytest.param(True, masked(b"\x00a", first=0x80), id="a piece of nothing"),
        pytest.param(False, b"\x02\x02\x01a\x82\x02\x01b", id="a message within a message"),
        pytest.param(False, b"\xc2\x02\x01a", id="compressed"),
        pytest.param(False, b"\x83\x02\x01a", id="a kind that there is not"),
        pytest.param(False, b"\x89\x7e\x00\x7e", id="a long ping"),
        pytest.param(False, b"\x09\x01x", id="a ping in pieces"),
        pytest.param(False, b"\x82\x7e\x00\x05\x01abcd", id="a length longer than it needs"),
        pytest.param(False, b"\x82\x7f" + (65535).to_bytes(8), id="a length far longer than it needs"),
        pytest.param(False, b"\x82\x7f" + (MOST + 1).to_bytes(8), id="a huge frame"),
        pytest.param(False, b"\x82\x7f" + (2**63).to_bytes(8), id="a frame of half of everything"),
        pytest.param(False, b"\x88\x00" + frame(b"\x01late"), id="output after the end"),
        pytest.param(True, masked(b"", first=0x88) + masked(b"\x00late"), id="input after the end"),
    ],
)
def test_websockets_that_are_refused(from_client: bool, wire: bytes) -> None:
    """Whole, and byte by byte."""
    with pytest.raises(BadStream):
        WebsocketReader(client=from_client).feed(wire)
    with pytest.raises(BadStream):
        one_by_one(WebsocketReader(client=from_client), wire)


def test_a_frame_takes_no_memory() -> None:
    """The longest one is given on as it comes."""
    reader = WebsocketReader(client=False)
    reader.feed(b"\x82\x7f" + MOST.to_bytes(8) + b"\x01")
    for _ in range(100):
        assert reader.feed(bytes(1000)) == [(Channel.STDOUT, bytes(1000))]
    assert len(reader._head) == 0


@pytest.mark.parametrize("seed", range(20))
def test_spdy_is_read_however_it_is_cut(seed: int) -> None:
    """With everything else that such a connection carries."""
    chance = random.Random(seed)
    streams, up, opening = all_streams()
    down = streams.reader(client=False)
    sizes = data(9, b'{"Width":9,') + data(9, b'"Height":8}\n')
    up_wire = opening + control(6, b"\0\0\0\x01") + data(3, b"secret") + sizes + data(3, b"", 1)
    got = joined([piece for part in cut(up_wire, chance) for piece in up.feed(part)])
    assert (up.typed, got) == (6, {Channel.RESIZE: b'{"Width":9,"Height":8}\n'})
    opener, sent = Opener(), {Channel.STDOUT: b"", Channel.STDERR: b"", Channel.ERROR: b""}
    wire = control(4, b"\0\0\0\x01" + bytes(8))
    for number in (1, 3, 5, 7, 9):
        wire += control(2, number.to_bytes(4) + opener.block(headers_block((b"a", b"b"))))
    for _ in range(30):
        number, name = chance.choice([(5, Channel.STDOUT), (7, Channel.STDERR), (1, Channel.ERROR)])
        payload = os.urandom(chance.choice((0, 1, 100, 70_000)))
        sent[name] += payload
        wire += data(number, payload) + chance.choice((b"", control(9, bytes(8)), control(6, b"\0\0\0\x01")))
    wire += data(5, b"", 1) + data(3, b"", 1) + control(3, b"\0\0\0\x05\0\0\0\x05") + control(7, bytes(8))
    found = joined([piece for part in cut(wire, chance) for piece in down.feed(part)])
    assert {name: found.get(name, b"") for name in sent} == sent
    assert down.between


KIND = (b"streamtype", b"stdout")


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(Opener().stream(2, KIND), id="an even number"),
        pytest.param(Opener().stream(1, KIND, (b"streamtype", b"stdin")), id="two kinds"),
        pytest.param(Opener().stream(1, (b"streamtype", b"stdout\0stdin")), id="two kinds in one"),
        pytest.param(Opener().stream(1, (b"Streamtype", b"stdout")), id="capitals"),
        pytest.param(Opener().stream(1, (b"streamtype", b"data")), id="a kind that is none"),
        pytest.param(Opener().stream(1), id="no kind"),
        pytest.param(Opener().stream(1, KIND, more=b"x"), id="more than the block says"),
        pytest.param(Opener().stream(1, KIND, flags=2), id="one way only"),
        pytest.param(control(1, bytes(3) + b"\1" + bytes(6) + b"not packed"), id="not packed"),
        pytest.param(control(1, bytes(3) + b"\1" + bytes(6) + headers_block(KIND)), id="plain"),
        pytest.param(control(1, bytes(3) + b"\1" + bytes(6) + zlib.compress(headers_block(KIND))), id="no dictionary"),
        pytest.param(control(1, bytes(9)), id="too short"),
        pytest.param(control(1, bytes(10), version=2), id="an older version"),
        pytest.param(control(6, bytes(3)), id="a short ping"),
        pytest.param(control(6, bytes(12)), id="a long ping, with a frame in it"),
        pytest.param(control(3, bytes(16)), id="a long reset"),
        pytest.param(control(4, b"\0\0\0\x09"), id="settings that are not there"),
        pytest.param(control(8, bytes(3) + b"\1" + Opener().block(headers_block())), id="headers of no stream"),
        pytest.param(control(2, bytes(3) + b"\1" + Opener().block(headers_block())), id="a client's reply"),
        pytest.param(control(5, b""), id="no such kind"),
        pytest.param(control(10, bytes(8)), id="credentials"),
        pytest.param(b"\x80\x03\x00\x01\x00\xff\xff\xff", id="a huge control frame"),
        pytest.param(data(1, b"x"), id="a stream that nobody opened"),
        pytest.param(data(0, b""), id="no stream"),
    ],
)
def test_spdy_that_is_refused(wire: bytes) -> None:
    with pytest.raises(BadStream):
        client("spdy").feed(wire)


@pytest.mark.parametrize(
    ("from_client", "wire"),
    [
        pytest.param(True, data(5, b"forged"), id="output from the client"),
        pytest.param(True, data(1, b"{}"), id="a last word from the client"),
        pytest.param(False, data(3, b"typed"), id="input from the server"),
        pytest.param(False, data(9, b"{}"), id="a size from the server"),
        pytest.param(True, data(3, b"x", 1) + data(3, b"late"), id="input after its end"),
        pytest.param(True, data(9, b"", 1) + data(9, b'{"Width":1,"Height":1}'), id="sizes after their end"),
        pytest.param(True, data(3, b"x", 2), id="a flag that there is not"),
        pytest.param(False, Opener().stream(2, KIND), id="a stream from the server"),
    ],
)
def test_data_of_the_wrong_side(from_client: bool, wire: bytes) -> None:
    streams, up, opening = all_streams()
    up.feed(opening)
    with pytest.raises(BadStream):
        (up if from_client else streams.reader(client=False)).feed(wire)


def test_streams_of_the_same_kind_or_number() -> None:
    """Which of two a server would take nobody knows."""
    for number, kind in ((3, b"stdout"), (1, b"stdin")):
        opener, reader = Opener(), client("spdy")
        reader.feed(opener.stream(1, KIND))
        with pytest.raises(BadStream):
            reader.feed(opener.stream(number, (b"streamtype", kind)))


def test_headers_that_unpack_to_very_much() -> None:
    with pytest.raises(BadStream):
        client("spdy").feed(Opener().stream(1, KIND, (b"a", bytes(MOST_BLOCK))))
    with pytest.raises(BadStream):
        client("spdy").feed(Opener().stream(1, *((str(number).encode(), b"") for number in range(70))))


def test_the_dictionary_is_the_one_of_everybody() -> None:
    """Streams name it by this number."""
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_our_own_frame_ends_its_stream() -> None:
    streams, up, opening = all_streams()
    server = streams.reader(client=False)
    assert server.last_word(b"why") == b""
    up.feed(opening)
    assert server.feed(server.last_word(b"why")) == [(Channel.ERROR, b"why")]


def test_sizes() -> None:
    """As they come from kubectl, in one piece or many."""
    sizes, wire = Sizes(), b'{"Width":80,"Height":24}\n{"Height":1,"Width":65535}\n '
    assert Sizes().feed(wire) == [(80, 24), (65535, 1)]
    assert [size for byte in wire for size in sizes.feed(bytes((byte,)))] == [(80, 24), (65535, 1)]


@pytest.mark.parametrize(
    "text",
    [
        '{"Width":80}',
        '{"Width":80,"Height":24,"Height":25}',
        '{"width":80,"height":24}',
        '{"Width":80,"Height":-1}',
        '{"Width":80,"Height":65536}',
        '{"Width":80,"Height":2.5}',
        '{"Width":80,"Height":true}',
        '{"Width":80,"Height":"24"}',
        '{"Width":{},"Height":24}',
        '[{"Width":80,"Height":24}',
        '{"Width":80,"H\\u0065ight":NaN}',
        "}",
        " " * 2000,
    ],
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(BadStream):
        Sizes().feed(text.encode())


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ({"status": "Success"}, ("0", "")),
        (
            {
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": "exit 4",
                "details": {"causes": [{"reason": "ExitCode", "message": "4"}]},
            },
            ("4", ""),
        ),
        ({"status": "Failure", "reason": "NonZeroExitCode", "message": "m", "details": {"causes": "x"}}, ("", "m")),
        ({"status": "Failure", "message": "no such\nfile\x1b[1m"}, ("", "no such file [1m")),
        ({}, ("", "it failed")),
        ([], ("", "[]")),
        ("x" * 100_000, ("", '"' + "x" * 499)),
    ],
)
def test_how_a_command_ended(status: object, found: tuple[str, str]) -> None:
    word = LastWord()
    for byte in json.dumps(status).encode():
        word.feed(bytes((byte,)))
    assert word.read() == found


def test_without_a_last_word_nothing_is_known() -> None:
    assert LastWord().read() == ("", "")


@pytest.mark.parametrize("seed", range(200))
def test_whatever_comes_is_read_or_refused(seed: int) -> None:
    """Streams with bytes changed, left out and added raise nothing but the one error."""
    chance = random.Random(seed)
    streams, up, opening = all_streams()
    wires: list[tuple[Reader, bytes]] = [
        (up, opening + data(3, b"words") + data(9, b'{"Width":9,"Height":8}') + control(6, b"\0\0\0\x01")),
        (streams.reader(client=False), data(5, b"words") + control(9, bytes(8)) + data(1, b"{}", 1)),
        (WebsocketReader(client=True), masked(b"\x00words") + masked(b'\x04{"Width":9,"Height":8}')),
        (WebsocketReader(client=False), frame(b"\x01words") + b"\x89\x00" + frame(b"\x02" + bytes(300))),
    ]
    for reader, wire in wires:
        changed = bytearray(wire)
        for _ in range(chance.randrange(1, 5)):
            place = chance.randrange(len(changed))
            what = chance.random()
            if what < 0.6:
                changed[place] = chance.randrange(256)
            elif what < 0.8:
                del changed[place]
            else:
                changed.insert(place, chance.randrange(256))
        sizes = Sizes()
        with contextlib.suppress(BadStream):
            for part in cut(bytes(changed), chance):
                for channel, piece in reader.feed(part):
                    if channel is Channel.RESIZE:
                        sizes.feed(piece)
