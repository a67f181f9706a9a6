"""What an SSH server offers, as values: limits, the names it answers, and what a client asked for.

Closed by default: a channel type, global request or session request that `Surface` does not name is refused and
reported, whether asyncssh could serve it or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from teleport.authz.channel_table import AskedKind

# AES-GCM first: about twice as fast as ChaCha20-Poly1305 wherever the processor has AES instructions. No CBC and no
# cipher with a separate MAC that is not encrypt-then-MAC.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
KEY_EXCHANGES = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
# No ssh-rsa (SHA-1) and no DSA.
SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-512",
)


@dataclass(frozen=True, slots=True)
class Surface:
    """The names a server answers. Everything else is refused and reported."""

    channels: frozenset[str]
    session_requests: frozenset[str]
    global_requests: frozenset[str]

    def offers(self, kind: AskedKind, name: str) -> bool:
        """Whether `name` is among the names of its kind."""
        match kind:
            case AskedKind.CHANNEL:
                return name in self.channels
            case AskedKind.GLOBAL_REQUEST:
                return name in self.global_requests
            case AskedKind.SESSION_REQUEST:
                return name in self.session_requests
            case AskedKind.TRAFFIC:
                return False


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds that hold for every connection, before and after authentication. Times are seconds."""

    login_seconds: float = 30.0
    answer_seconds: float = 180.0  # for a second step, once the key was proved
    authentication_attempts: int = 8
    channels: int = 64
    unanswered: int = 64  # channels that we asked the peer to open and that it neither opened nor refused yet
    refusals: int = 64  # refused requests after which the connection ends, so that they cannot flood the audit log
    global_requests_per_second: int = 50
    queued_requests: int = 64  # requests waiting on one channel while another is being decided
    environment: int = 64  # variables a client may offer for one session
    keepalive_seconds: float = 60.0
    keepalive_count: int = 3
    window: int = 2 * 1024 * 1024  # bytes, the first receive window of a channel; it grows on long paths
    packet: int = 32 * 1024  # bytes of data in one packet
    least_packet: int = 256  # bytes; a peer that takes less would make a thousand packets of a page
    opens_per_second: int = 100  # channels
    # of peers that have not authenticated
    unproved_packet: int = 35_000  # bytes (RFC 4253 section 6.1)
    unproved_bytes: int = 512 * 1024  # in all
    authentication_requests: int = 64  # with those that only offer a key
    # of all
    proved_packet: int = 256 * 1024  # bytes: a command may be 128 KiB long
    idle_messages_per_second: int = 5000  # ignore, debug, and what is of no known type
    exchange_seconds: float = 60.0  # for a further key exchange to end
    exchange_worth: int = 1024 * 1024  # bytes between two key exchanges, or the second one was for nothing ...
    exchanges_for_nothing: int = 16  # ... of which there may be so many in a row
    unread: int = 8 * 1024 * 1024  # bytes of answers that a peer may leave unread
    deferred: int = 1000  # answers that wait for the end of a key exchange


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How often a client that says nothing is asked whether it is there, and after how many questions without an
    answer its connection ends; `probed_after`: the seconds without a packet after which the kernel probes a connection
    that it probes (`transport.probes`), 0: as before; `gone_after`: the seconds after which a connection is dead on
    which nothing is acknowledged, 0: as before. `apart`: all three come up to so many seconds later, each connection by
    a draw of its own."""

    seconds: float
    count: int
    probed_after: int = 0
    gone_after: int = 0
    apart: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: an IP address and a port; empty and 0 when there is none (a Unix socket)."""

    host: str
    port: int
    through: str = ""  # the other cluster whose proxy says that the client is there: it can invent that

    @property
    def counted(self) -> str:
        """What limits count by."""
        return f"cluster {self.through}" if self.through else self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal: one clear sentence for the user. It reveals nothing beyond the proved certificate's own content.

    `tried`: nothing forbids it, it was tried and did not work. `busy`: nothing forbids it, and it may work soon.
    """

    message: str
    tried: bool = False
    busy: bool = False

    @classmethod
    def told(cls, what: str, hint: str) -> Refusal:
        """What failed, and what to do next, as the one sentence."""
        return cls(f"{what} Next: {hint.rstrip('.')}." if hint else what)


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Columns and rows in characters, and the same in pixels (zero when unknown)."""

    columns: int
    rows: int
    width: int = 0
    height: int = 0

    def __str__(self) -> str:
        """The form audit events use, `W:H`."""
        return f"{self.columns}:{self.rows}"


@dataclass(frozen=True, slots=True)
class TerminalRequest:
    """A client asked for a pseudo-terminal. `modes` is the encoded string of RFC 4254 section 8."""

    term: str
    size: TerminalSize
    modes: bytes = b""


@dataclass(frozen=True, slots=True)
class Shell:
    """A client asked for a login shell."""


@dataclass(frozen=True, slots=True)
class Exec:
    """A client asked for a command, exactly as sent."""

    command: str


@dataclass(frozen=True, slots=True)
class Subsystem:
    """A client asked for a subsystem by its name."""

    name: str


Start = Shell | Exec | Subsystem


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """Where a client wants something listened for: an address as it says it (empty: everywhere) and a port."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class SocketPlace:
    """Where a client wants something listened for: the path of a Unix socket."""

    path: str


Place = TcpPlace | SocketPlace


@dataclass(frozen=True, slots=True)
class X11Request:
    """A client offers its display (RFC 4254 section 6.3.1): what clients of it have to show, which it replaces."""

    single: bool  # for one connection only
    protocol: str
    cookie: bytes
    screen: int


@dataclass(frozen=True, slots=True)
class FromTcp:
    """A connection came to a listener of the client's, from `origin`."""

    place: TcpPlace
    origin: tuple[str, int]


@dataclass(frozen=True, slots=True)
class FromSocket:
    """A connection came to a Unix socket of the client's."""

    place: SocketPlace


@dataclass(frozen=True, slots=True)
class FromX11:
    """A program of the session connected to its display."""

    origin: tuple[str, int]


@dataclass(frozen=True, slots=True)
class FromAgentSocket:
    """A program of the session asks the client's agent."""


@dataclass(frozen=True, slots=True)
class ToHost:
    """A proxy leads a client through the tunnel that the host at its other end keeps; `data` says whom to."""

    data: bytes


Incoming = FromTcp | FromSocket | FromX11 | FromAgentSocket | ToHost
