"""What a recording says: the header's fields, the kinds of frames and their payloads, the end record.

A frame is (time, kind, payload). Times are microseconds since the session's start and never go back. Payloads of
output, stderr and input are the session's own bytes, untouched; all others are small records of ours, as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from teleport.errors import BadRequest

MAX_HEADER_JSON = 64 * 1024
MAX_HEADER_TEXT = 512  # characters of each text, which JSON may make six times longer
MAX_DETAIL_TEXT = 48 * 1024
MAX_FRAME_PAYLOAD = 1024 * 1024
MAX_FRAMES_PER_CHUNK = 65_536
RAW_CHUNK_TARGET = 1024 * 1024  # a chunk is closed when its frames reach this many bytes
MAX_RAW_CHUNK = 4 * 1024 * 1024  # what a reader accepts, so a hostile file costs it no more memory than this
MAX_TIME = 2**48  # microseconds, about nine years: a longer session is a broken file

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def canonical_uuid(text: str, what: str = "session id") -> str:
    """`text` itself, when it is a UUID in its one canonical form (lower case, with hyphens).

    Ids name files, so nothing else is ever taken: `BadRequest` for every other text, which is not repeated whole.
    """
    if not _UUID.fullmatch(text):
        raise BadRequest(
            f"{what} {text[:40]!r} is not a UUID in canonical form",
            hint="ids look like 0b6f1a52-8f0e-4d0c-9d53-5d7a3c1e2f40; see `tctl recordings ls`",
        )
    return text


def canonical_name(text: str) -> str:
    """`text` itself, when it is the name of a stored recording: SID, or SID.HOST of the host that made it.

    `BadRequest` for every other text.
    """
    sid, dot, maker = text.partition(".")
    canonical_uuid(sid)
    if dot:
        canonical_uuid(maker, "host id")
    return text


class FrameKind(IntEnum):
    """What a frame holds. Numbers are the file's; they are never reused."""

    OUTPUT = 1  # what the session wrote to its terminal or standard output
    STDERR = 2
    INPUT = 3  # what the user typed, only when the role asks for it
    RESIZE = 4
    EXEC = 5
    FILE = 6
    FORWARD = 7
    NOTE = 8  # a sentence of the recorder, UTF-8
    END = 9  # alone in the last chunk


BYTE_KINDS = frozenset({FrameKind.OUTPUT, FrameKind.STDERR, FrameKind.INPUT})


class Frame(NamedTuple):
    """One thing that happened, `time` microseconds after the start."""

    time: int
    kind: FrameKind
    payload: bytes


class RecordingHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was known when the session began. Fields are only appended, with defaults."""

    sid: str
    started: Annotated[datetime, msgspec.Meta(tz=True)]
    user: str
    login: str
    node_id: str  # UUID of the host on which the session ran
    node_name: str = ""
    cluster: str = ""
    command: str = ""  # empty: a login shell
    interactive: bool = False
    terminal: str = ""  # the TERM the client asked for
    width: int = 0  # columns at the start; 0: no terminal
    height: int = 0
    client: str = ""  # the client's address, host:port
    recorder: str = ""  # UUID of the proxy that recorded it; empty: the node did

    told_by_node: bool = False  # of one that a proxy made: the host has a daemon, which tells of the session

    kube_cluster: str = ""  # of one in a pod: the Kubernetes cluster; `login` is the user that it was told
    pod_namespace: str = ""
    pod: str = ""
    container: str = ""  # as it was asked for; empty: the pod's first

    @property
    def made_by(self) -> str:
        """UUID of the host that made the recording, and signs it."""
        return self.recorder or self.node_id

    @property
    def place(self) -> str:
        """Where the session ran, as lists show it."""
        return f"{self.kube_cluster}/{self.pod_namespace}/{self.pod}" if self.kube_cluster else self.node_name

    @property
    def pod_fields(self) -> dict[str, Any]:
        """What events of a session in a pod say of it; nothing of others."""
        if not self.kube_cluster:
            return {}
        return {
            "kubernetes_cluster": self.kube_cluster,
            "kubernetes_users": [self.login],
            "kubernetes_pod_name": self.pod,
            "kubernetes_pod_namespace": self.pod_namespace,
            "kubernetes_container_name": self.container,
        }


class ExecDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command that began, or (with a status or signal) ended."""

    command: str
    status: int | None = None
    signal: str = ""


class FileDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file operation of scp or sftp."""

    action: str  # read, write, remove, rename, mkdir, ...
    path: str
    target: str = ""
    size: int = 0  # bytes moved
    sha256: str = ""  # hex, of the bytes moved
    error: str = ""


class ForwardDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A forwarded connection that was opened, or (with counts) closed."""

    kind: str  # direct-tcpip, forwarded-tcpip, x11, agent
    address: str
    sent: int = 0
    received: int = 0
    closed: bool = False
    error: str = ""


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Payload bytes of each stream, and the number of frames before the end."""

    output: int = 0
    stderr: int = 0
    input: int = 0
    frames: int = 0


class EndRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the recording ended: the body of the end frame, which the signature covers."""

    reason: str
    totals: Totals
    time: int  # microseconds since the start
    chunks: int  # data chunks before the end chunk
    chain: str  # hex of the hash this end is linked to
    lost: int = 0  # bytes that could not be recorded after a failure (best-effort mode)
    cut: int = 0  # bytes of an unfinished tail that recovery removed
    recovered: bool = False  # written by recovery, not by the process that recorded


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Who vouches for the whole recording, and with which certificate (or public key) that can be checked."""

    algorithm: str
    key_id: str
    certificate: bytes
    value: bytes


Detail = ExecDetail | FileDetail | ForwardDetail


def plain_text(text: str, limit: int) -> str:
    """`text` as the file can hold it: what came from bytes that are not UTF-8 as `\\xNN`, and what is above `limit`
    characters cut off with a note. Commands and names are a user's; none of them may stop a recording."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def encode_detail(detail: Detail) -> bytes:
    """The payload of an exec, file or forward frame."""
    return msgspec.json.encode(_plain(detail, MAX_DETAIL_TEXT))


def _plain(value: _Struct, limit: int) -> _Struct:
    texts = {name: getattr(value, name) for name in value.__struct_fields__}
    changes = {name: plain_text(text, limit) for name, text in texts.items() if isinstance(text, str)}
    return msgspec.structs.replace(value, **changes)


def plain_header(header: RecordingHeader) -> RecordingHeader:
    """The header with texts of bounded length; a long command is whole in its exec frame."""
    return _plain(header, MAX_HEADER_TEXT)


def varint(number: int) -> bytes:
    """`number` in base 128, least significant group first, high bit set on all but the last byte."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position` and the position after it; `ValueError` when cut off, too long or not minimal."""
    result = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("a number is cut off")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise ValueError("a number is not in its shortest form")
            return result, position
        shift += 7
        if shift > 56:
            raise ValueError("a number is too long")


def encode_size(width: int, height: int) -> bytes:
    """The payload of a resize frame."""
    return varint(width) + varint(height)


def decode_size(payload: bytes) -> tuple[int, int]:
    """Columns and rows of a resize frame; `ValueError` when it is malformed."""
    width, position = read_varint(payload, 0)
    height, position = read_varint(payload, position)
    if position != len(payload) or width > 0xFFFF or height > 0xFFFF:
        raise ValueError("a terminal size is out of range")
    return width, height


def encode_end(record: EndRecord, signature: Signature | None) -> bytes:
    """The payload of the end frame: the record, then the signature over it (empty when there is none)."""
    body = end_body(record)
    signed = msgspec.json.encode(signature) if signature is not None else b""
    return varint(len(body)) + body + varint(len(signed)) + signed


def end_body(record: EndRecord) -> bytes:
    """The bytes of the end record, as signed."""
    return msgspec.json.encode(record)


def decode_end(payload: bytes) -> tuple[EndRecord, Signature | None, bytes]:
    """The end record, its signature, and the record's bytes as signed; `ValueError` when malformed."""
    size, position = read_varint(payload, 0)
    body = payload[position : position + size]
    if len(body) != size:
        raise ValueError("the end record is cut off")
    size, position = read_varint(payload, position + size)
    signed = payload[position : position + size]
    if len(signed) != size or position + size != len(payload):
        raise ValueError("the signature's length is wrong")
    record = msgspec.json.decode(body, type=EndRecord)
    return record, (msgspec.json.decode(signed, type=Signature) if signed else None), body


class PackedFrames(NamedTuple):
    """What becomes one chunk."""

    first: int  # microseconds since the start
    last: int
    frames: int
    size: int  # bytes
    pieces: list[bytes]  # the bytes; large payloads are not copied


def pack_frames(frames: Iterable[Frame], not_before: int) -> Iterator[PackedFrames]:
    """The frames packed, within the limits of one chunk each.

    Payloads above the limit of one frame are split where that keeps their meaning, which is only for the session's
    own bytes; `ValueError` for others. A time before the previous one (at first `not_before`) is raised to it.
    """
    pieces: list[bytes] = []
    size = count = first = 0
    last = not_before
    for time, kind, payload in frames:
        if len(payload) > MAX_FRAME_PAYLOAD:
            if kind not in BYTE_KINDS:
                raise ValueError(f"a {kind.name.lower()} frame of {len(payload)} bytes is above the limit")
            steps = range(0, len(payload), MAX_FRAME_PAYLOAD)
            parts = [payload[position : position + MAX_FRAME_PAYLOAD] for position in steps]
        else:
            parts = [payload]
        if time < last:
            time = last
        for part in parts:
            if not count:
                first = last = time
            head = varint(time - last) + bytes((kind,)) + varint(len(part))
            last = time
            pieces += (head, part)
            size += len(head) + len(part)
            count += 1
            if size >= RAW_CHUNK_TARGET or count >= MAX_FRAMES_PER_CHUNK:
                yield PackedFrames(first, last, count, size, pieces)
                pieces, size, count = [], 0, 0
    if count:
        yield PackedFrames(first, last, count, size, pieces)


def split_frames(raw: bytes, count: int, first: int) -> Iterator[Frame]:
    """The `count` frames of a chunk whose first frame happened at `first`; `ValueError` names what is wrong."""
    position, time = 0, first
    for number in range(count):
        delta, position = read_varint(raw, position)
        time += delta
        if time > MAX_TIME:
            raise ValueError(f"frame {number} has a time out of range")
        if position >= len(raw):
            raise ValueError(f"frame {number} is cut off")
        try:
            kind = FrameKind(raw[position])
        except ValueError:
            raise ValueError(f"frame {number} has the unknown kind {raw[position]}") from None
        size, position = read_varint(raw, position + 1)
        if size > MAX_FRAME_PAYLOAD:
            raise ValueError(f"frame {number} claims {size} bytes, above the limit")
        payload = raw[position : position + size]
        if len(payload) != size:
            raise ValueError(f"frame {number} is cut off")
        position += size
        yield Frame(time, kind, payload)
    if position != len(raw):
        raise ValueError(f"{len(raw) - position} bytes follow the last frame")
