"""The messages between daemon, launcher and monitors, and how they travel.

Every message is one packet on a SOCK_SEQPACKET socket pair, so it arrives whole or not at all, at most `MAX_MESSAGE`
bytes, in JSON: `[VERSION, kind, {fields}]`. Descriptors ride along as SCM_RIGHTS.

    daemon -> launcher   HAND_OVER with one descriptor: a session socket whose queue already holds the request
    daemon -> monitor    spawn {...}; go {} or stop {message, hint} after held; then signal {name}, kill {}, release {}
    monitor -> daemon    held {pid}, when the first process is to wait; started {pid, tty} with the
                         descriptors, or refused {reason, message, hint}; then exit {...}

The end of a session socket is a message too. Seen by the monitor it means that the daemon is gone: everything dies.
Seen by the daemon it means that the monitor is gone, which it is only when no process of the session is left, or when
the session was released.
"""

from __future__ import annotations

import array
import json
import os
import socket
from dataclasses import asdict
from typing import Any

from teleport.launcher.values import (
    Exit,
    HostUserRequest,
    Kind,
    LauncherRefused,
    PamRequest,
    Pty,
    Reason,
    SpawnRequest,
    Transfer,
)

VERSION = 1
HAND_OVER = b"\x01S"  # version 1, a session
# The kernel takes a packet of up to the send buffer (212,992 bytes by default); one argument of exec may be 128 KiB.
MAX_MESSAGE = 196_608
MAX_DESCRIPTORS = 4


def encode(message: str, /, **fields: object) -> bytes:
    """The packet for a message of a kind; `LauncherRefused` when it is too long."""
    packet = json.dumps([VERSION, message, fields], separators=(",", ":")).encode()
    if len(packet) > MAX_MESSAGE:
        raise LauncherRefused(
            Reason.BAD_REQUEST,
            f"The request takes {len(packet)} bytes; at most {MAX_MESSAGE} are possible",
            hint="shorten the command, or send the script on its standard input",
        )
    return packet


def decode(packet: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and fields of a packet; `ValueError` when it is none of ours."""
    message = json.loads(packet)
    match message:
        case [int(version), str(kind), dict(fields)] if version == VERSION:
            return kind, fields
    raise ValueError("not a message of this version")


def send(sock: socket.socket, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Sends one packet with descriptors; `OSError` as the kernel says."""
    if not descriptors:
        sock.send(packet, socket.MSG_NOSIGNAL)
        return
    rights = array.array("i", descriptors)
    sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors, which do not survive an exec; empty at the end of the connection.

    `ValueError` when something was cut off; no descriptor is kept then.
    """
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    packet, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    rights = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            rights.frombytes(data[: len(data) - len(data) % rights.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in rights:
            os.close(descriptor)
        raise ValueError("a message was cut off")
    return packet, rights.tolist()


def encode_request(request: SpawnRequest) -> bytes:
    """The `spawn` packet. Text may hold lone surrogates for bytes that are not UTF-8, as `os.fsdecode` makes them."""
    pty = request.pty
    return encode(
        "spawn",
        login=request.login,
        kind=request.kind,
        command=request.command,
        client_env=request.client_env,
        session_env=request.session_env,
        pty=None if pty is None else [pty.term, pty.width, pty.height, pty.xpixel, pty.ypixel, pty.modes.hex()],
        permit_user_env=request.permit_user_env,
        pam=None if request.pam is None else [request.pam.service, request.pam.auth, request.pam.environment],
        client=request.client,
        host_user=None if request.host_user is None else [request.host_user.groups, request.host_user.told],
        hold=request.hold,
        transfer=None if request.transfer is None else asdict(request.transfer),
    )


def decode_request(packet: bytes) -> SpawnRequest:
    """The request in a `spawn` packet; `ValueError` when it is malformed."""
    kind, fields = decode(packet)
    if kind != "spawn":
        raise ValueError("not a spawn message")
    try:
        pty = None
        if fields["pty"] is not None:
            term, width, height, xpixel, ypixel, modes = fields["pty"]
            pty = Pty(term, width, height, xpixel, ypixel, bytes.fromhex(modes))
        pam = None
        if fields["pam"] is not None:
            service, auth, variables = fields["pam"]
            pam = PamRequest(service, auth, tuple((name, value) for name, value in variables))
        host_user = None
        if fields["host_user"] is not None:
            groups, told = fields["host_user"]
            host_user = HostUserRequest(tuple(groups), told)
        return SpawnRequest(
            login=fields["login"],
            kind=Kind(fields["kind"]),
            command=fields["command"],
            client_env=tuple((name, value) for name, value in fields["client_env"]),
            session_env=tuple((name, value) for name, value in fields["session_env"]),
            pty=pty,
            permit_user_env=fields["permit_user_env"],
            pam=pam,
            client=fields["client"],
            host_user=host_user,
            hold=fields["hold"],
            transfer=_transfer(fields["transfer"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"malformed spawn message: {error}") from error


def _transfer(fields: dict[str, Any] | None) -> Transfer | None:
    if fields is None:
        return None
    paths = tuple((how, text) for how, text in fields["paths"])
    return Transfer(**{**fields, "paths": paths, "options": tuple(fields["options"])})


def encode_exit(ended: Exit) -> bytes:
    return encode("exit", status=ended.status, signal=ended.signal, core_dumped=ended.core_dumped)


def encode_refusal(refusal: LauncherRefused) -> bytes:
    return encode("refused", reason=refusal.reason, message=refusal.message, hint=refusal.hint)
