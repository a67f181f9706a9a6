"""How a host becomes part of a cluster: the authority is proved first, the token is sent second (decision 18).

1. Over TLS that proves nothing, ask which authority the far end claims. That is public; nothing secret is sent.
2. Compare it with the pins. Without pins it is taken as it is, and the caller warns.
3. Over a *new* TLS session, trust only the authorities that a pin named, and require the name and the role that only
   an auth server's certificate has. Whoever cannot prove that gets neither token nor keys.

Through a proxy the TLS of step 1 and 3 runs inside a websocket to the proxy, and ends at auth (threat T13).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import TIMEOUT, TUNNEL_PATH, SyncAuthClient
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.pin import check_pin, parse_pin
from teleport.pki.trust import AuthorityKind, check_cluster_name
from teleport.pki.x509cert import auth_server_name
from teleport.pki.x509verify import identity_from_tls, trusted_tls_authority
from teleport.transport.blocking import ByteStream, TLSStream, WebSocketStream, shown_address
from teleport.transport.site_dial import dial_out
from teleport.transport.tls import cluster_client_context, unproved_client_context

SSH_SECONDS = 2.0  # in which an SSH server says that it is one
WEB_PORTS = frozenset({443, 3080})  # an auth_servers entry with one of these is a proxy (`certificates.md` 6)
MAX_CLOCK_OFF = timedelta(
    seconds=30
)  # what a node grants a proxy's vouch (`wire.vouch.VALID`): beyond it nothing works


@dataclass(frozen=True, slots=True)
class Door:
    """One way to auth: its own address, or a proxy's web address."""

    host: str
    port: int
    through_proxy: bool

    @property
    def address(self) -> str:
        """`host:port`, as HTTP's Host field has it."""
        return shown_address(self.host, self.port)

    def __str__(self) -> str:
        return self.address + (" (proxy)" if self.through_proxy else "")

    def open(self) -> ByteStream:
        """Bytes to auth, over which TLS is to be spoken. Raises `ConnectionProblem`."""
        connection = dial_out(self.host, self.port, TIMEOUT)
        if not self.through_proxy:
            return connection
        # The outer TLS hides the tunnel from onlookers and proves nothing: what matters is proved inside.
        outer = TLSStream(connection, unproved_client_context(), self.host)
        return WebSocketStream(outer, shown_address(self.host, self.port), TUNNEL_PATH)


def doors(addresses: Sequence[tuple[str, int]]) -> list[Door]:
    """The ways to try, in order: the one that the port suggests first, then the other, for each address."""
    ordered = [Door(host, port, port in WEB_PORTS) for host, port in addresses]
    return [*ordered, *(Door(door.host, door.port, not door.through_proxy) for door in ordered)]


@dataclass(frozen=True, slots=True)
class ProvedCluster:
    """A cluster whose auth server was reached and whose authority is trusted now."""

    name: str
    ca_certs: tuple[str, ...]  # PEM
    door: Door
    pinned: bool
    clock_off: timedelta = timedelta()  # how far this host's clock is ahead of auth's; negative when it is behind


def find_cluster(
    addresses: Sequence[tuple[str, int]],
    pins: Sequence[str],
    now: Callable[[], datetime] | None = None,
    *,
    ways: Sequence[Door] = (),
) -> ProvedCluster:
    """Steps 1 and 2 at the first door behind which an auth server answers: those of `addresses`, or `ways`. With `now`
    the clocks are compared.

    Raises `BadRequest` when a pin is malformed, before anybody is asked; `CertificateRefused` when the authority has
    none of the pins; `ConnectionProblem` when nobody answers.
    """
    for pin in pins:
        parse_pin(pin)
    problems: list[str] = []
    for door in ways or doors(addresses):
        try:
            before = now() if now is not None else None
            claimed = _claimed_authority(door)
            after = now() if now is not None else None
        except (ConnectionProblem, OSError) as error:
            problems.append(f"{door}: {error}")
            continue
        certs = [cert.encode() for cert in claimed.tls_certs]
        if not certs:
            problems.append(f"{door}: shows no authority")
            continue
        trusted = check_pin(pins, certs) if pins else tuple(certs)
        check_cluster_name(claimed.cluster)
        off = _clock_off(before, claimed.now, after)
        return ProvedCluster(claimed.cluster, tuple(cert.decode() for cert in trusted), door, bool(pins), off)
    raise ConnectionProblem(
        "no auth server answers: " + "; ".join(problems[: max(1, len(addresses), len(ways))]),
        hint=_instead(addresses) or "check auth_servers (--auth-server) and that the auth service runs",
    )


def _instead(addresses: Sequence[tuple[str, int]]) -> str:
    """What to write for an address at which a proxy takes SSH or tunnels; empty when there is none."""
    for host, port in addresses:
        if _speaks_ssh(host, port):
            web = " or ".join(shown_address(host, one) for one in sorted(WEB_PORTS, reverse=True))
            return (
                f"{shown_address(host, port)} speaks SSH, as a proxy does where it takes tunnels (3024) and clients "
                f"(3023): write its web address into auth_servers, {web} unless another one is configured"
            )
    return ""


def _speaks_ssh(host: str, port: int) -> bool:
    try:
        connection = dial_out(host, port, SSH_SECONDS)
        try:
            connection.settimeout(SSH_SECONDS)
            return connection.recv(4) == b"SSH-"
        finally:
            connection.close()
    except (ConnectionProblem, BadRequest, OSError):
        return False


def _clock_off(before: datetime | None, auth: datetime | None, after: datetime | None) -> timedelta:
    """How far this clock is ahead, auth having read its own at some moment between two looks at this one."""
    if before is None or auth is None or after is None or before <= auth <= after:
        return timedelta()
    return before - auth if auth < before else after - auth


def check_clock(cluster: ProvedCluster) -> None:
    """Raises `TeleportError` when this host's clock is too far from auth's for certificates and vouches to hold.

    Auth's time is not proved at this point: whoever lies about it keeps a host from joining, as silence would.
    """
    off = cluster.clock_off
    if abs(off) <= MAX_CLOCK_OFF:
        return
    raise TeleportError(
        f"the clock of this host is off by {_spoken(abs(off))}: it is {'ahead of' if off > timedelta() else 'behind'} "
        f"that of the auth server at {cluster.door}; {MAX_CLOCK_OFF.seconds} s are allowed",
        hint="set the clock (timedatectl set-ntp true; date -u on both hosts shows them), then start again",
    )


def _spoken(span: timedelta) -> str:
    """A span of time in its two largest units: `1 h`, `2 d 3 h`, `45 s`."""
    seconds = round(span.total_seconds())
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def _claimed_authority(door: Door) -> m.ClusterCA:
    context = unproved_client_context()
    with SyncAuthClient(lambda: TLSStream(door.open(), context, door.host), door.address) as client:
        return client.call(routes.CLUSTER_CA, m.Empty())


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """What a host that has joined in another role proves itself with: files of a TLS certificate and its key."""

    cert: Path
    key: Path


def proved_client(
    cluster: ProvedCluster, now: Callable[[], datetime], identity: OwnIdentity | None = None
) -> SyncAuthClient:
    """Step 3: a client of auth over TLS in which auth proved the trusted authority, its name and its role."""
    own = (identity.cert, identity.key) if identity is not None else (None, None)
    context = cluster_client_context(cluster.ca_certs, *own)
    authorities = [trusted_tls_authority(AuthorityKind.HOST, cluster.name, cert.encode()) for cert in cluster.ca_certs]

    def connect() -> TLSStream:
        stream = prove_auth(cluster.door.open(), context, cluster.name)
        try:
            identity = identity_from_tls(stream.peer_certificate(), authorities, now())
            if not isinstance(identity, HostIdentity) or identity.role is not SystemRole.AUTH:
                raise AccessDenied(
                    f"{cluster.door} is a host of the cluster {cluster.name}, but not its auth server",
                    hint="check teleport.auth_servers",
                )
        except BaseException:
            stream.close()
            raise
        return stream

    return SyncAuthClient(connect, cluster.door.address)


def prove_auth(stream: ByteStream, context: ssl.SSLContext, cluster: str) -> TLSStream:
    """TLS in which the far end must have the certificate name of auth servers of `cluster`."""
    try:
        return TLSStream(stream, context, auth_server_name(cluster))
    except TeleportError as error:
        raise ConnectionProblem(
            f"the far end shows the authority of the cluster {cluster} but cannot prove that it is its auth server: "
            f"{error}",
            hint="somebody may stand between this host and the auth server; nothing secret was sent",
        ) from None


def join_cluster(
    cluster: ProvedCluster, request: m.JoinRequest, now: Callable[[], datetime], identity: OwnIdentity | None = None
) -> m.HostCredentials:
    """Offers the token; raises the refusal of auth, or `ConnectionProblem` when the far end proved nothing.

    A host that has a role already shows its `identity`: nobody else may join under its UUID.
    """
    check_clock(cluster)
    with proved_client(cluster, now, identity) as client:
        return client.call(routes.JOIN, request)
