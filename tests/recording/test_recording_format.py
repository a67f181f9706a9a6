"""The format: what goes in comes out, and what was changed is named."""

from __future__ import annotations

import hashlib
import io
import random
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recording.recording_samples import OTHER_SID, SID, chunk_list, header, recording, sign

from teleport.errors import BadRequest
from teleport.recording.format import (
    CHUNK_HEAD,
    MAX_FRAME_PAYLOAD,
    BrokenRecording,
    Chunk,
    ChunkEncoder,
    EndRecord,
    Frame,
    FrameKind,
    RecordingParser,
    Totals,
    canonical_uuid,
    decode_size,
    encode_header,
    encode_size,
    signed_message,
)
from teleport.recording.player import RecordingReader
from teleport.recording.verify import VerifiedRecording, verify_recording

VECTORS = Path(__file__).parent.parent / "vectors" / "recording"

VECTOR_FRAMES = [
    Frame(0, FrameKind.EXEC, b'{"command":"make"}'),
    Frame(10, FrameKind.OUTPUT, b"caf\xc3\xa9 \xff\xfe\r\n"),
    Frame(10, FrameKind.STDERR, b"\xe2\x82"),
    Frame(300, FrameKind.INPUT, b"q"),
    Frame(70_000, FrameKind.RESIZE, encode_size(132, 43)),
    Frame(80_000, FrameKind.FILE, b'{"action":"read","path":"/etc/hosts","size":12}'),
    Frame(90_000, FrameKind.FORWARD, b'{"kind":"direct-tcpip","address":"db:5432"}'),
    Frame(2**40, FrameKind.NOTE, b"a note"),
    Frame(2**40 + 1, FrameKind.OUTPUT, b"x" * 5000),
]

frame_lists = st.lists(
    st.builds(
        Frame,
        st.integers(0, 2**40),
        st.sampled_from([FrameKind.OUTPUT, FrameKind.STDERR, FrameKind.INPUT, FrameKind.NOTE]),
        st.binary(max_size=300),
    ),
    max_size=30,
).map(lambda frames: sorted(frames, key=lambda frame: frame.time))


def parse(data: bytes, piece: int = 1 << 20) -> tuple[RecordingParser, list[Chunk], list[Frame]]:
    parser = RecordingParser()
    chunks: list[Chunk] = []
    frames: list[Frame] = []
    for position in range(0, len(data), piece):
        for chunk in parser.feed(data[position : position + piece]):
            chunks.append(chunk)
            frames += parser.frames(chunk)
    return parser, chunks, [frame for frame in frames if frame.kind is not FrameKind.END]


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(frame_lists, max_size=4), piece=st.integers(1, 500))
def test_frames_come_back_exactly_however_the_file_is_cut_into_pieces(groups: list[list[Frame]], piece: int) -> None:
    """Times that would go back are raised to the latest before; all else is as it was."""
    head = encode_header(header())
    encoder = ChunkEncoder(head[-32:])
    data = head + b"".join(b"".join(encoder.encode(frames)) for frames in groups)
    data += b"".join(encoder.end("done", sign=sign)[0])
    parser, _, found = parse(data, piece)
    assert parser.header == header()
    written = [frame for frames in groups for frame in frames]
    assert [(frame.kind, frame.payload) for frame in found] == [(frame.kind, frame.payload) for frame in written]
    latest, times = 0, []
    for frame in written:
        latest = max(latest, frame.time)
        times.append(latest)
    assert [frame.time for frame in found] == times
    end = parser.check_totals()
    assert end.record.totals.output == sum(len(f.payload) for f in written if f.kind is FrameKind.OUTPUT)


def test_version_1_is_written_as_the_vector_says() -> None:
    """The file of version 1 in the vectors is read today, to the same values."""
    data = (VECTORS / "version-1.rec").read_bytes()
    parser, chunks, frames = parse(data)
    assert parser.header == header()
    assert frames == VECTOR_FRAMES
    assert len(chunks) == 2
    end = parser.check_totals()
    assert end.record == EndRecord(
        reason="session ended",
        totals=Totals(output=5010, stderr=2, input=1, frames=9),
        time=2**40 + 1,
        chunks=1,
        chain=chunks[0].digest.hex(),
    )
    assert end.signature == sign_of(chunks[1], end.body)
    assert recording(VECTOR_FRAMES)[:8] == data[:8]


def sign_of(chunk: Chunk, body: bytes) -> object:
    return sign(signed_message(chunk.previous, body))


def test_a_large_write_is_split_and_comes_back_whole() -> None:
    data = bytes(range(256)) * (3 * MAX_FRAME_PAYLOAD // 256) + b"tail"
    frames = RecordingReader(io.BytesIO(recording([Frame(5, FrameKind.OUTPUT, data)]))).frames()
    assert b"".join(frame.payload for frame in frames) == data


def test_a_record_of_ours_above_the_limit_is_refused_not_split() -> None:
    with pytest.raises(ValueError, match="above the limit"):
        recording([Frame(0, FrameKind.NOTE, b"x" * (MAX_FRAME_PAYLOAD + 1))])


def test_bytes_that_do_not_compress_are_stored_raw_and_text_is_not() -> None:
    noise = random.Random(1).randbytes(300_000)
    _, chunks, _ = parse(recording([Frame(0, FrameKind.OUTPUT, noise)]))
    assert chunks[0].size - 200 < len(noise) < chunks[0].size
    _, chunks, _ = parse(recording([Frame(0, FrameKind.OUTPUT, b"the same line\n" * 20_000)]))
    assert chunks[0].size < 5000


def test_a_size_out_of_range_is_refused() -> None:
    assert decode_size(encode_size(200, 50)) == (200, 50)
    for payload in (b"", b"\x50", encode_size(70_000, 1), encode_size(1, 1) + b"\0", b"\x80\x00\x01"):
        with pytest.raises(ValueError):
            decode_size(payload)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../etc/passwd",
        "/etc/passwd",
        SID.upper(),
        SID + "\n",
        SID + "/..",
        "{" + SID + "}",
        SID.replace("-", ""),
        SID[:-1] + "\u0660",
        SID + "\0",
        "x" * 100_000,
    ],
)
def test_only_a_canonical_uuid_names_a_session(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        canonical_uuid(text)
    assert len(caught.value.message) < 200


PARTS = chunk_list(6)
OTHER = chunk_list(6, OTHER_SID, "other")
SAME = chunk_list(6, SID, "same session, other bytes")

TAMPERED: dict[str, tuple[list[bytes], int | None, str]] = {
    "a chunk dropped": (PARTS[:3] + PARTS[4:], 2, "stands where"),
    "the first chunk dropped": (PARTS[:1] + PARTS[2:], 0, "stands where"),
    "a chunk twice": (PARTS[:4] + PARTS[3:], 3, "stands where"),
    "two chunks swapped": ([*PARTS[:3], PARTS[4], PARTS[3], *PARTS[5:]], 2, "stands where"),
    "cut between chunks": (PARTS[:-2], 5, "without an end"),
    "cut before the end": (PARTS[:-1], 6, "without an end"),
    "cut inside a chunk": ([*PARTS[:4], PARTS[4][:50]], 3, "stops 50 bytes into"),
    "cut inside the header": ([PARTS[0][:-1]], None, "inside the header"),
    "another session's chunk": ([*PARTS[:3], OTHER[3], *PARTS[4:]], 2, "not linked"),
    "another session's tail": (PARTS[:3] + OTHER[3:], 2, "not linked"),
    "another version of the same session": (PARTS[:3] + SAME[3:], 2, "not linked"),
    "another session's header": (OTHER[:1] + PARTS[1:], 0, "not linked"),
    "another session's end": (PARTS[:-1] + OTHER[-1:], 6, "not linked"),
    "bytes after the end": ([*PARTS, b"x"], 7, "follow the end"),
    "an end, then more": ([*PARTS, PARTS[-1]], 7, "follow the end"),
    "not a recording": ([b"PK\x03\x04"], None, "not a recording"),
    "empty": ([], None, "inside the header"),
    "a version from the future": ([PARTS[0][:9] + b"\x02" + PARTS[0][10:]], None, "version 2"),
}


@pytest.mark.parametrize(("parts", "chunk", "what"), TAMPERED.values(), ids=TAMPERED.keys())
def test_the_verifier_names_the_first_broken_place(parts: list[bytes], chunk: int | None, what: str) -> None:
    """T43."""
    place = verify_recording(io.BytesIO(b"".join(parts)))
    assert not isinstance(place, VerifiedRecording)
    assert place.chunk == chunk
    assert what in place.what
    if chunk is not None and chunk < 7:
        expected = sum(len(part) for part in PARTS[: chunk + 1]) if "header" not in what else 0
        if parts[: chunk + 1] == PARTS[: chunk + 1]:
            assert place.offset == expected


def test_any_flipped_bit_is_found_in_the_chunk_that_it_is_in() -> None:
    """T43: every bit of a recording, header to signature."""
    data = b"".join(chunk_list(3))
    parts = chunk_list(3)
    assert isinstance(verify_recording(io.BytesIO(data)), VerifiedRecording)
    starts = [sum(len(part) for part in parts[:number]) for number in range(len(parts))]
    for bit in range(0, len(data) * 8, 3):
        position = bit // 8
        changed = bytearray(data)
        changed[position] ^= 1 << (bit % 8)
        place = verify_recording(io.BytesIO(bytes(changed)))
        assert not isinstance(place, VerifiedRecording), f"bit {bit} is not covered"
        part = max(number for number, start in enumerate(starts) if start <= position)
        assert place.chunk == (part - 1 if part else None)
        assert place.offset == starts[part]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400), keep=st.integers(0, 600))
def test_hostile_bytes_raise_only_the_one_error(data: bytes, keep: int) -> None:
    """Whatever stands after a true beginning, reading ends in a result or a named place."""
    for unsealed in (False, True):
        parser = RecordingParser(unsealed=unsealed)
        with suppress(BrokenRecording):
            for chunk in parser.feed(b"".join(PARTS)[:keep] + data):
                parser.frames(chunk)
            parser.finish()
            raise AssertionError("this cannot be a whole recording")


def test_a_small_chunk_cannot_claim_to_unpack_to_gigabytes() -> None:
    """The size inside the compressed data is compared before any memory is taken."""
    head = encode_header(header())
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 * 1024 * 1024))
    fields = CHUNK_HEAD.pack(len(bomb), 1000, 0, 1, 1, 0, 0, head[-32:])
    place = verify_recording(io.BytesIO(head + fields + bomb + hashlib.sha256(fields + bomb).digest()))
    assert "unpacked size" in str(place)
