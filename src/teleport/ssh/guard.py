"""What an SSH server takes from a peer, whoever it is: the bounds under the decisions of `ssh.server_connection`.

asyncssh answers everything it is sent. Here a connection ends that sends too much before it has proved anything, that
floods with messages which move nothing, that begins key exchanges without end or does not finish one, that asks
without reading the answers, or whose packets cannot be (threats T18, T20, T21). What may be sent during a key exchange
is RFC 4253 section 7.1; strict key exchange is OpenSSH's (PROTOCOL section 1.10).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from asyncssh import DisconnectError, ProtocolError, SSHServerConnectionOptions
from asyncssh.connection import SSHServerConnection
from asyncssh.constants import (
    DISC_PROTOCOL_ERROR,
    MSG_DEBUG,
    MSG_IGNORE,
    MSG_KEX_LAST,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.packet import PacketDecodeError, SSHPacket

from teleport.ssh.packets import PacketPath
from teleport.ssh.surface import ServerLimits
from teleport.wire import proxy_protocol

log = logging.getLogger(__name__)

_MOVES_NOTHING = frozenset({MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG})
_NEEDS_STRICT_EXCHANGE = b"chacha20-poly1305@openssh.com"


_EACH_SECONDS = 10.0  # between two lines in the log about PROXY headers, which strangers may send at will
_told = dict[str, float]()


def _tell_of_header(peer: str, reason: str, now: float) -> None:
    if now >= _told.get("until", now):
        _told["until"] = now + _EACH_SECONDS
        log.warning(
            "connection refused peer=%s: %s (more of these in the next %g s are on record only)",
            peer,
            reason,
            _EACH_SECONDS,
        )


class Guarded(PacketPath, SSHServerConnection):
    """The server's end of a connection, with bounds on what its peer may send."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: SSHServerConnectionOptions, limits: ServerLimits
    ) -> None:
        super().__init__(loop, options)
        self.limits = limits
        self.exchanging = False  # between the peer's start of a key exchange and its new keys
        self._max_recv_pktlen = limits.unproved_packet
        self._received = 0  # bytes
        self._may_receive: float = limits.unproved_bytes
        self._received_at_exchange = 0
        self._exchanges_for_nothing = 0
        self._exchange_timer: asyncio.TimerHandle | None = None
        self._authentication_requests = 0
        self._second = 0
        self._in_second = dict[str, int]()

    @abstractmethod
    def report_limit(self, reason: str) -> None:
        """The connection is about to end because its peer went too far."""

    def end(self, reason: str) -> None:
        """Ends the connection of a peer that went too far."""
        if self._transport is None:
            return
        self.report_limit(reason)
        self._send_disconnect(DISC_PROTOCOL_ERROR, reason, "en")
        self._force_close(DisconnectError(DISC_PROTOCOL_ERROR, reason))

    def proved(self) -> None:
        """The peer has authenticated: what holds for strangers does not hold any more."""
        self._may_receive = float("inf")
        self._max_recv_pktlen = self.limits.proved_packet

    def too_often(self, what: str, most: int) -> bool:
        """Counts one more `what` in this second; whether there were more than `most`."""
        second = int(self._loop.time())
        if second != self._second:
            self._second = second
            self._in_second.clear()
        count = self._in_second[what] = self._in_second.get(what, 0) + 1
        return count > most

    # what comes

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        if not self._received and proxy_protocol.begins(data):
            reason = "it begins with a PROXY header, taken only from what proxy_service.proxy_protocol_from lists"
            _tell_of_header(self._peer_addr, reason, self._loop.time())
            self.end(reason)
            return
        self._received += len(data)
        if self._received > self._may_receive:
            self.end(f"more than {self.limits.unproved_bytes} bytes before authentication")
        elif self._socket_full and self._unread() > self.limits.unread:
            self.end("asks and does not read the answers")
        else:
            super().data_received(data, datatype)

    def _unread(self) -> int:
        return int(self._transport.get_write_buffer_size()) if self._transport is not None else 0

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if (
            pkttype in _MOVES_NOTHING
            or pkttype not in self._packet_handlers
            or (pkttype == MSG_USERAUTH_REQUEST and self._auth_complete)
        ):
            if self.too_often("nothing", self.limits.idle_messages_per_second):
                raise self.gone_too_far("too many messages that say nothing")
        elif self.exchanging and pkttype > MSG_KEX_LAST:
            raise ProtocolError("a request during a key exchange")
        return super().process_packet(pkttype, pktid, packet)

    def gone_too_far(self, reason: str) -> DisconnectError:
        """Reports `reason`; gives what is to be raised."""
        self.report_limit(reason)
        return DisconnectError(DISC_PROTOCOL_ERROR, reason)

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > self.limits.deferred:
            self._deferred_packets.clear()
            self.end("asks and does not finish the key exchange")

    def internal_error(self, exc_info: Any = None, error_logger: Any = None) -> None:
        # asyncssh closes the connection and says so at its lowest level only.
        found = exc_info or sys.exc_info()
        if isinstance(found[1], PacketDecodeError | UnicodeDecodeError):
            log.debug("connection closed, what came cannot be read peer=%s: %s", self._peer_addr, found[1])
        else:  # a mistake of ours
            log.error("connection closed by an error peer=%s", self._peer_addr, exc_info=found)
        super().internal_error(exc_info, error_logger)

    # key exchange

    def _choose_alg(self, alg_type: str, local_algs: Sequence[bytes], remote_algs: Sequence[bytes]) -> bytes:
        if alg_type == "encryption" and not self._strict_kex:
            # without strict exchange this cipher lets somebody in between drop packets unseen (CVE-2023-48795)
            local_algs = [name for name in local_algs if name != _NEEDS_STRICT_EXCHANGE]
        return super()._choose_alg(alg_type, local_algs, remote_algs)

    def _send_kexinit(self) -> None:
        again = bool(self._session_id)
        super()._send_kexinit()
        if again and self._exchange_timer is None:
            self._exchange_timer = self._loop.call_later(
                self.limits.exchange_seconds, self.end, "the key exchange does not end"
            )

    async def _process_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        self.exchanging = True
        if self._session_id and not self._kexinit_sent:
            moved = self._received - self._received_at_exchange + self._rekey_bytes_sent
            self._exchanges_for_nothing = 0 if moved >= self.limits.exchange_worth else self._exchanges_for_nothing + 1
            if self._exchanges_for_nothing > self.limits.exchanges_for_nothing:
                raise self.gone_too_far("too many key exchanges")
        self._received_at_exchange = self._received
        await super()._process_kexinit(pkttype, pktid, packet)

    def _process_newkeys(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        super()._process_newkeys(pkttype, pktid, packet)
        self.exchanging = False
        self._cancel_exchange_timer()

    def _cancel_exchange_timer(self) -> None:
        if self._exchange_timer is not None:
            self._exchange_timer.cancel()
            self._exchange_timer = None

    def _cleanup(self, exc: Exception | None) -> None:
        self._cancel_exchange_timer()
        super()._cleanup(exc)

    # authentication

    def _process_userauth_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        if not self._auth_in_progress and not self._auth_complete:
            raise ProtocolError("authentication began before its service was asked for")
        self._authentication_requests += 1
        if self._authentication_requests > self.limits.authentication_requests and not self._auth_complete:
            raise self.gone_too_far("too many authentication requests")
        return super()._process_userauth_request(pkttype, pktid, packet)

    # asyncssh dispatches by this table of functions, so a method that is only overridden is never called.
    _packet_handlers = {  # noqa: RUF012  # as asyncssh declares it
        **SSHServerConnection._packet_handlers,
        MSG_KEXINIT: _process_kexinit,
        MSG_NEWKEYS: _process_newkeys,
        MSG_USERAUTH_REQUEST: _process_userauth_request,
    }
