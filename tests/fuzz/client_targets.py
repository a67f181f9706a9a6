"""Parsers of what hosts, SSH agents and programs of the same machine send to tsh."""

from __future__ import annotations

from typing import Final

from tests.fuzz.engine import Target

from teleport.errors import BadRequest, TeleportError
from teleport.wire import forward_spec, sftp_client, socks, ssh_agent
from teleport.wire import screen as left_behind


def sftp_answer(data: bytes) -> None:
    """What a host sends to `tsh scp`."""
    for packet in sftp_client.Packets().feed(data):
        number, _ = sftp_client.parse_answer(packet)
        assert 0 <= number < 2**32


def agent_answer(data: bytes) -> None:
    """What an SSH agent answers."""
    held = ssh_agent.identities(data)
    assert sum(len(one.blob) for one in held) <= len(data)


def socks_request(data: bytes) -> None:
    """What a program asks of `-D`: in one piece as in many."""
    whole, pieces = socks.SocksRequest(), socks.SocksRequest()
    answer, wanted = whole.feed(data)
    found = [pieces.feed(data[at : at + 1]) for at in range(len(data))]
    if wanted is None:
        assert b"".join(given for given, _ in found) == answer
    else:
        assert wanted in [one for _, one in found]


def forward_argument(data: bytes) -> None:
    found = forward_spec.parse(forward_spec.Direction.LOCAL, data.decode("utf-8", "surrogateescape"))
    assert found.to is not None


def session_modes(data: bytes) -> None:
    """What a session left a terminal in: after it was put back nothing is left."""
    seen = left_behind.Screen()
    seen.feed(data)
    seen.feed(b"\x18" + seen.restore())
    assert seen.restore() == b""


CLIENT_TARGETS: Final = (
    Target("sftp_answer", sftp_answer, (sftp_client.Broken,), (b"\x00\x00\x00\x01", b"\x69", b"\xff" * 4), 1024),
    Target(
        "agent_answer", agent_answer, (TeleportError,), (b"\x0c", b"\x00\x00\x00\x01", b"-cert-v01@openssh.com"), 1024
    ),
    Target("socks_request", socks_request, (socks.NotSocks,), (b"\x05\x01\x00", b"\x04\x01", b"\x03"), 300),
    Target("forward_argument", forward_argument, (BadRequest,), (b":", b"[", b"]", b"/", b"\\", b"8080"), 300),
    Target("session_modes", session_modes, (), b"\x1b[ ?1049h \x1b[>1u \x1b(0 \x0e \x1bc ;31m r".split(), 300, 800),
)
