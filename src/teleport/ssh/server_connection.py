"""One connection of a client to an SSH server: who is let in, by certificates alone, and what may be asked then.

A service drives it through a `Gate`. Rules it keeps (each has a contract test, `tests/ssh/test_ssh_contract.py`):
- Only public keys, only with certificates. The service gets the raw certificate after its key was *proved*; what was
  merely offered leaves no trace, and the login is the one of the proof.
- asyncssh's own view of certificates, options and principals is never used.
- Channel types and requests that the surface does not name are refused and reported; every count has a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from asyncssh import ChannelOpenError, DisconnectError, SSHServerConnectionOptions
from asyncssh.auth import lookup_server_auth
from asyncssh.constants import (
    DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    DISC_PROTOCOL_ERROR,
    MSG_CHANNEL_OPEN,
    MSG_GLOBAL_REQUEST,
    MSG_USERAUTH_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from asyncssh.packet import Boolean, NameList, PacketDecodeError, SSHPacket, String
from asyncssh.public_key import KeyImportError, decode_ssh_public_key

from teleport.authz.channel_table import AskedKind
from teleport.pki.live_proof import Evidence
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import parse_certificate
from teleport.resources.names import peer_address
from teleport.spans import LONGEST_HEADER
from teleport.ssh.channels import ChannelView, ServerSessionChannel, serve_stream
from teleport.ssh.exchange_evidence import hashed_exchange
from teleport.ssh.handlers import ConnectionHandler, Gate, LeadsOn, TakesTunnels, Traced, WantsClient, WantsEvidence
from teleport.ssh.listener import Slot
from teleport.ssh.second_step import SecondSteps, is_step
from teleport.ssh.server_forwards import ClientView, ForwardRequests
from teleport.ssh.surface import (
    SIGNATURES,
    KeepAlive,
    Peer,
    Refusal,
    ServerLimits,
    Surface,
)

# Clients end with the list of methods that they were left with: "Permission denied (publickey,...)". This name stands
# there for who offered keys without a certificate. A banner would also be read by everybody whose client offers a bare
# key first, and is let in with the next one. It has an @, as names that are nobody else's do (RFC 4250 section 4.6.1).
PLAIN_KEY = b"a-certificate-is-needed:run-tsh-login@teleport"


class ServerConnection(ForwardRequests):
    """One connection of a client. An asyncio protocol: give it to a transport."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: SSHServerConnectionOptions,
        make_gate: Callable[[Peer], Gate],
        surface: Surface,
        limits: ServerLimits,
        slot: Slot,
        greeted: bool,
    ) -> None:
        super().__init__(loop, options, limits)
        self._greeted = greeted
        self._make_gate = make_gate
        self.surface = surface
        self._slot = slot
        self._of_hosts = surface.offers(AskedKind.GLOBAL_REQUEST, "tunnel-register@teleport")
        self._admitted: tuple[str, ConnectionHandler] | None = None
        self._handler: ConnectionHandler | None = None
        self._steps = SecondSteps(self)
        self._plain_key: tuple[str, str] | None = None  # the first one offered: login, and what is wrong with it
        self._on_record = False  # whether a refusal was reported already
        self._failures = 0
        self._refusals = 0
        self._no_more_sessions = False
        self._exchange: tuple[bytes, str] | None = None  # what the session id is the hash of, for who wants evidence

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = Peer(*peer_address(transport.get_extra_info("peername")))
        self.gate = self._make_gate(peer)
        super().connection_made(transport)

    def keep_alive(self, every: KeepAlive) -> None:
        """Asks the client so often whether it is there; asyncssh's timer runs once it has authenticated."""
        self.ask_after(every)
        if self._keepalive_timer is not None:
            self._cancel_keepalive_timer()
            self._set_keepalive_timer()

    def _send_version(self) -> None:
        if not self._greeted:
            super()._send_version()
            return
        self._server_version = b"SSH-2.0-" + self._version
        self.set_extra_info(server_version=self._server_version.decode("ascii"))

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        if not self._session_id and hasattr(self.gate, "proved"):
            self._exchange = hashed_exchange(self, k, h)
        super().send_newkeys(k, h)

    # authentication

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:
        # Replaces asyncssh's: no configuration is read again, and no callback can say that no proof is needed.
        if self._owner is None or self._auth_complete:
            return
        if self._auth is not None:
            self._auth.cancel()
        self._withdraw()
        if self._steps.pending and self._username != self._steps.login:
            self._refused(self._username, f"the user name was changed from {self._steps.login!r} between two steps")
            raise DisconnectError(DISC_PROTOCOL_ERROR, "the user name was changed")
        offered = (b"none", b"publickey", *((b"keyboard-interactive",) if self._steps.pending else ()))
        if method not in offered:
            self._refused(self._username, f"method {method.decode('ascii', 'replace')[:40]!r} is not offered")
        self._auth = lookup_server_auth(self, self._username, method, packet)

    def wait_for_answers(self) -> None:
        """The peer has proved a key: a person now gets the time to answer."""
        self._cancel_login_timer()
        self._login_timer = self._loop.call_later(self.limits.answer_seconds, self._login_timer_callback)

    def _withdraw(self) -> None:
        """Whoever was admitted did not come in."""
        admitted, self._admitted = self._admitted, None
        if admitted is not None:
            admitted[1].ended("it ended before it began")

    def send_userauth_failure(self, partial_success: bool) -> None:
        if partial_success:
            super().send_userauth_failure(True)
            return
        self._failures += 1
        if self._failures > self.limits.authentication_attempts:
            self._refused(self._username, "too many attempts")
            raise DisconnectError(DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "too many authentication failures")
        if self._plain_key is None or self._on_record or self._steps.pending:
            super().send_userauth_failure(partial_success)
            return
        self._auth = None
        methods = NameList([b"publickey", PLAIN_KEY])
        self.send_packet(MSG_USERAUTH_FAILURE, methods, Boolean(partial_success))

    def public_key_auth_supported(self) -> bool:
        return not self._steps.pending  # one key was proved; what follows concerns its holder

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return self._steps.pending

    async def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return await self._steps.begin()

    async def validate_kbdint_response(self, username: str, responses: Any) -> Any:
        return await self._steps.answer(responses)

    def admitted(self, login: str, handler: ConnectionHandler) -> None:
        """Whoever proved the key came through the second step."""
        self._admitted = (login, handler)

    def host_based_auth_supported(self) -> bool:
        return False

    def gss_kex_auth_supported(self) -> bool:
        return False

    def gss_mic_auth_supported(self) -> bool:
        return False

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Asked once with an offered key (no `msg`) and once with its proof. Only the proof has any effect."""
        try:
            certified = parse_certificate(key_data).body.public_key
            key = decode_ssh_public_key(certified.blob)
        except (CertificateRefused, KeyImportError) as error:
            # A client offers every key it has, in whatever order: this is a refusal only when nothing else was tried.
            if self._plain_key is None:
                self._plain_key = (username, f"a certificate is needed: {error}")
            return False
        if not msg:
            return True  # any certificate is worth proving: only then may its holder be told what is wrong with it
        if _signature_algorithm(signature) not in SIGNATURES:
            self._refused(username, "the signature's algorithm is not accepted")
            return False
        key.set_touch_required(True)  # of security keys
        if key.verify(String(self._session_id) + msg, signature) is not True:
            self._refused(username, "the signature does not fit the certificate")
            return False
        if self._exchange is not None:
            hashed, hash_name = self._exchange
            cast(WantsEvidence, self.gate).proved(Evidence(hashed, hash_name, msg, signature))
        outcome = await self.gate.admit(username, key_data)
        if isinstance(outcome, Refusal):
            self._on_record = True  # by the gate
            self.send_auth_banner(f"{outcome.message}\r\n")
            return False
        if is_step(outcome):
            handler = self._steps.offer(username, outcome, self._client_version.decode("ascii", "replace"))
            if handler is None:
                return True
        else:
            handler = cast(ConnectionHandler, outcome)
        self._admitted = (username, handler)
        return True

    def _refused(self, login: str, reason: str) -> None:
        self._on_record = True
        self.gate.failed(login, reason)

    def _cleanup(self, exc: Exception | None) -> None:
        if self._plain_key is not None and not self._on_record and not self._auth_complete:
            self._refused(*self._plain_key)
        self._slot.over()
        self._withdraw()
        self._steps.abandon()
        super()._cleanup(exc)

    async def send_userauth_success(self) -> None:
        admitted, self._admitted = self._admitted, None
        if admitted is None and self._steps.asks(self._username):
            self.send_auth_banner(f"{self._steps.notice}\r\n")
            self.send_userauth_failure(True)
            return
        if admitted is None or admitted[0] != self._username:
            raise DisconnectError(DISC_PROTOCOL_ERROR, "authentication ended without a proof")
        self._handler = admitted[1]
        self._exchange = None  # nobody else is told of it
        self._slot.proved()
        self.proved()
        if hasattr(self._handler, "began"):
            cast(WantsClient, self._handler).began(ClientView(self))
        await super().send_userauth_success()

    def report_limit(self, reason: str) -> None:
        if self._handler is not None:
            self._handler.refused(AskedKind.TRAFFIC, "traffic", reason)
        else:
            self._refused(self._username, reason)

    # what may be asked

    @property
    def handler(self) -> ConnectionHandler:
        """The service's side of this connection; only an authenticated connection has one."""
        if self._handler is None:
            raise DisconnectError(DISC_PROTOCOL_ERROR, "not authenticated")
        return self._handler

    def report(self, kind: AskedKind, name: str, reason: str) -> None:
        """Tells the handler about a refusal, and ends a connection that collects too many."""
        self._refusals += 1
        if self._refusals > self.limits.refusals:
            raise self.gone_too_far("too many refused requests")
        self.handler.refused(kind, name[:200], reason)

    def _process_channel_open(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        peek = SSHPacket(packet.get_remaining_payload())
        name = peek.get_string().decode("ascii", "replace")
        sender, _, largest = peek.get_uint32(), peek.get_uint32(), peek.get_uint32()
        if self.too_often("channel", self.limits.opens_per_second):
            raise self.gone_too_far("too many channels opened in a second")
        if not self.surface.offers(AskedKind.CHANNEL, name):
            self.report(AskedKind.CHANNEL, name, "not offered here")
            self.send_channel_open_failure(sender, OPEN_UNKNOWN_CHANNEL_TYPE, f"{name[:80]} is not offered here", "en")
        elif len(self._channels) >= self.limits.channels:
            self.report(AskedKind.CHANNEL, name, f"more than {self.limits.channels} channels on a connection")
            self.send_channel_open_failure(sender, OPEN_RESOURCE_SHORTAGE, "too many channels", "en")
        elif 0 < largest < self.limits.least_packet:
            reason = f"packets of {largest} bytes are too small"
            self.report(AskedKind.CHANNEL, name, reason)
            self.send_channel_open_failure(sender, OPEN_RESOURCE_SHORTAGE, reason, "en")
        else:
            super()._process_channel_open(pkttype, pktid, packet)

    def _process_session_open(self, packet: SSHPacket) -> Any:
        packet.check_end()
        if self._no_more_sessions:
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "the client asked for no more sessions")
        self.create_task(self.measure_delay())
        channel = ServerSessionChannel(self, self._loop)
        return channel, channel.serve(self.after_requests(self.handler.open_session(ChannelView(channel))))

    def _process_direct_tcpip_open(self, packet: SSHPacket) -> Any:
        host, port = packet.get_string(), packet.get_uint32()
        origin_host, origin_port = packet.get_string(), packet.get_uint32()
        packet.check_end()
        if len(host) > 255 or len(origin_host) > 255 or not 0 <= port <= 65535:
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "the address cannot be meant")
        if not all(0x20 < byte < 0x7F for byte in host):
            # what a resolver would turn into another name than the one that roles are asked about
            reason = "a host is an address or a name of ASCII letters (write an international one as xn--...)"
            self.report(AskedKind.CHANNEL, "direct-tcpip", reason)
            raise ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, reason)
        self.create_task(self.measure_delay())
        channel = self.stream_channel()
        origin = (origin_host.decode("utf-8", "replace"), origin_port)
        opened = self.handler.open_stream(ChannelView(channel), host.decode("utf-8", "replace"), port, origin)
        return channel, serve_stream(channel, self.after_requests(opened))

    def _process_global_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if self.too_often("global request", self.limits.global_requests_per_second):
            raise self.gone_too_far("too many global requests")
        peek = SSHPacket(packet.get_remaining_payload())
        name = peek.get_string().decode("ascii", "replace")
        wants_reply = peek.get_boolean()
        if len(self._global_request_queue) >= self.limits.queued_requests:
            raise self.gone_too_far("too many global requests at once")
        if self.surface.offers(AskedKind.GLOBAL_REQUEST, name):
            super()._process_global_request(pkttype, pktid, packet)
            return
        self.report(AskedKind.GLOBAL_REQUEST, name, "not offered here")
        self._global_request_queue.append((None, packet, wants_reply))
        if len(self._global_request_queue) == 1:
            self._service_next_global_request()

    def _process_no_more_sessions_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        packet.check_end()
        self._no_more_sessions = True
        self._report_global_response(True)

    def _process_keepalive_at_openssh_dot_com_global_request(self, packet: SSHPacket) -> None:
        packet.check_end()
        if self._handler is not None and hasattr(self._handler, "answers_beyond"):
            self.create_task(self._answer_from(cast(LeadsOn, self._handler)))
        else:
            self._report_global_response(True)

    async def _answer_from(self, handler: LeadsOn) -> None:
        """The end of the way answers, not what stands between: so does a host behind a proxy that only relays."""
        self._report_global_response(await handler.answers_beyond())

    def _process_recording_proxy_at_teleport_dot_com_global_request(self, packet: SSHPacket) -> None:
        """Whether sessions end and are recorded here (`protocols.md` 3): the word `true` or `false`."""
        packet.check_end()
        records = bool(getattr(self.handler, "records", False))
        self._report_global_response(b"true" if records else b"false")

    def _process_trace_at_teleport_global_request(self, packet: SSHPacket) -> None:
        """To which trace what follows belongs, as `teleport.spans` writes it; from clients that ask for a trace."""
        text = packet.get_string()
        packet.check_end()
        if hasattr(self.handler, "traced"):
            cast(Traced, self.handler).traced(text[:LONGEST_HEADER].decode("ascii", "replace"))
        self._report_global_response(True)

    def _process_tunnel_register_at_teleport_global_request(self, packet: SSHPacket) -> None:
        data = packet.get_string()
        packet.check_end()
        self._report_global_response(cast(TakesTunnels, self.handler).register(data) or False)

    # asyncssh dispatches by this table of functions, so a method that is only overridden is never called.
    _packet_handlers = {  # noqa: RUF012  # as asyncssh declares it
        **ForwardRequests._packet_handlers,
        MSG_GLOBAL_REQUEST: _process_global_request,
        MSG_CHANNEL_OPEN: _process_channel_open,
    }

    def ended(self, exc: Exception | None) -> None:
        """asyncssh's side is gone; tell the handler once."""
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.ended(str(exc) if exc is not None else "closed by the client")


def _signature_algorithm(signature: bytes) -> str:
    try:
        return SSHPacket(signature).get_string().decode("ascii", "replace")
    except PacketDecodeError:
        return ""
