"""A small cluster of certificates, one proxy and one node on loopback, for tests with real SSH clients.

Everything of ours is real; only what belongs to other services is simple: authorities are made here, events are kept in
a list, access is a set of logins, and sessions may be recorded nowhere (`MemoryRecordings`).
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec

from teleport.audit.events import Event, event_name
from teleport.authz.certificate import certificate_denial
from teleport.authz.decision import AccessDenial, ClusterDefaults, Policy
from teleport.authz.ssh import SSHAccessRequest, lease_lifetime, why_second_factor_due
from teleport.clock import Clock, SystemClock
from teleport.errors import AccessDenied, LimitExceeded, TeleportError
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.kernel.watcher import Watcher
from teleport.node.needs import Launcher, NodeConfig, Recordings
from teleport.node.service import NodeService
from teleport.pki import sshsig
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.sshcert import (
    HostCertRequest,
    UserCertRequest,
    host_principals,
    issue_host_cert,
    issue_user_cert,
)
from teleport.pki.sshformat import SSHCertificate, parse_certificate
from teleport.pki.sshverify import ENFORCED, verify_host_cert, verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.proxy.ssh_router import RouterConfig, SshRouter
from teleport.recording.format import FileDetail, RecordingHeader
from teleport.resources.lock import Lock
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.ssh.server import HostKey
from teleport.ssh.surface import KeepAlive, ServerLimits
from teleport.store.resolve import RegisteredNode
from teleport.transport.places import Place

CLUSTER = "lab.test"


class Events:
    """An emitter that keeps what it was given, and wakes who waits."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.failing = False
        self._more = asyncio.Event()

    async def emit(self, event: Event) -> None:
        if self.failing:
            raise TeleportError("the disk is full")
        self.all.append(event)
        self._more.set()

    def named(self, name: str) -> list[Event]:
        return [event for event in self.all if event_name(event) == name]

    async def wait_for(self, name: str, count: int = 1, seconds: float = 10.0) -> list[Event]:
        """The events called `name`, once there are `count`."""
        async with asyncio.timeout(seconds):
            while len(self.named(name)) < count:
                self._more.clear()
                await self._more.wait()
        return self.named(name)


@dataclass
class MemoryRecording:
    """Keeps a recording's bytes."""

    header: RecordingHeader
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[FileDetail] = field(default_factory=list)
    reason: str | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        self.failed: asyncio.Future[TeleportError] = asyncio.get_running_loop().create_future()

    def record_output(self, data: bytes) -> None:
        if self.keep:
            self.stdout += data

    def record_stderr(self, data: bytes) -> None:
        if self.keep:
            self.stderr += data

    def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def file(self, detail: FileDetail) -> None:
        self.files.append(detail)

    @property
    def must_drain(self) -> bool:
        return False

    async def drain(self) -> None:
        return

    @property
    def slow_to_close(self) -> bool:
        return False

    async def sync(self) -> None:
        return

    async def close(self, reason: str) -> MemoryRecording:
        self.reason = reason
        return self

    @property
    def sha256(self) -> str:
        return "00" * 32


class MemoryRecordings:
    """Sessions recorded in memory."""

    def __init__(self, *, keep: bool = True) -> None:
        self.all: list[MemoryRecording] = []
        self.failing = False
        self.on_record_of: list[str] = []  # sessions whose end is on record
        self.unended_of: list[str] = []  # sessions whose end could not be kept
        self._keep = keep

    async def start(self, header: RecordingHeader) -> MemoryRecording:
        if self.failing:
            raise TeleportError("no room for recordings")
        recording = MemoryRecording(header, keep=self._keep)
        self.all.append(recording)
        return recording

    async def unrecorded(self, header: RecordingHeader) -> None: ...

    def unended(self, sid: str) -> None:
        self.unended_of.append(sid)

    def on_record(self, sid: str) -> None:
        self.on_record_of.append(sid)


class LabRules:
    """One role, `access`, that the test may replace, and locks."""

    def __init__(self, logins: Iterable[str] = ()) -> None:
        self.role = Role(
            metadata=Metadata(name="access"),
            spec=RoleSpec(allow=Conditions(logins=tuple(logins), node_labels={"*": ("*",)})),
        )
        self.more: dict[str, Role] = {}  # other roles, by name
        self.locked: list[Lock] = []
        self.leased: list[MfaLease] = []
        self.cluster = ClusterDefaults()
        self.age = 0.0

    def policy(self) -> Policy:
        return Policy({"access": self.role, **self.more}, self.cluster, self.age)

    def locks(self) -> Sequence[Lock]:
        return self.locked

    def leases(self, user: str, key: str, client_address: str) -> Sequence[MfaLease]:
        return [lease for lease in self.leased if lease.spec.user == user]

    def allow(self, **changes: object) -> None:
        """Changes what the role allows."""
        allow = msgspec.structs.replace(self.role.spec.allow, **changes)
        self.role = msgspec.structs.replace(self.role, spec=msgspec.structs.replace(self.role.spec, allow=allow))

    def options(self, **changes: object) -> None:
        """Changes the role's options."""
        spec = msgspec.structs.replace(self.role.spec, options=Options(**changes))  # type: ignore[arg-type]
        self.role = msgspec.structs.replace(self.role, spec=spec)


@dataclass(frozen=True)
class _Labels:
    labels: Mapping[str, str]

    def current(self) -> Mapping[str, str]:
        return self.labels


class Authorities:
    """A user and a host authority, and certificates by them."""

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.cluster = cluster
        self.user_key = generate_ed25519()
        self.host_key = generate_ed25519()
        self.clock: Clock = SystemClock()
        self.rotated: set[bytes] = set()  # former user keys (blobs) that a rotation let go

    @property
    def trusted(self) -> tuple[TrustedSSHAuthority, TrustedSSHAuthority]:
        return (
            TrustedSSHAuthority(AuthorityKind.USER, self.cluster, (self.user_key.public,)),
            TrustedSSHAuthority(AuthorityKind.HOST, self.cluster, (self.host_key.public,)),
        )

    def verify_user(self, certificate: bytes) -> UserIdentity:
        return verify_user_cert(certificate, self.trusted, self.clock.now(), enforced_critical_options=ENFORCED)

    def verify_host(self, certificate: bytes) -> HostIdentity:
        return verify_host_cert(certificate, self.trusted, self.clock.now(), hostname=None)

    def trusts_user_authority(self, signer: bytes) -> bool:
        return signer == self.user_key.public.blob

    def let_go(self, signer: bytes) -> bool:
        return signer in self.rotated

    def user(self, logins: Iterable[str], *, key: PrivateKey | None = None, **changes: object) -> LabUser:
        """A user called alice with these logins; `changes` are of `UserCertRequest`."""
        key = key or generate_p256()
        request = UserCertRequest(key.public, "alice", tuple(logins), ("access",), timedelta(hours=1))
        request = replace(request, **changes)  # type: ignore[arg-type]
        return LabUser(key, issue_user_cert(request, self.user_key, self.cluster, self.clock.now()))

    def host(self, role: SystemRole, hostname: str) -> LabHost:
        key, host_id = generate_ed25519(), uuid4()
        names = host_principals(str(host_id), hostname, self.cluster)
        request = HostCertRequest(key.public, str(host_id), role, names)
        return LabHost(host_id, hostname, key, issue_host_cert(request, self.host_key, self.cluster, self.clock.now()))

    def known_hosts_line(self) -> str:
        return f"@cert-authority * {self.host_key.public.line()}\n"


@dataclass(frozen=True)
class LabUser:
    """A user's key and certificate."""

    key: PrivateKey
    certificate: SSHCertificate

    def write(self, folder: Path, name: str = "id") -> Path:
        """Writes the key and `-cert.pub` as OpenSSH wants them."""
        path = folder / name
        path.write_bytes(self.key.openssh_pem().reveal())
        path.chmod(0o600)
        (folder / f"{name}.pub").write_text(self.key.public.line() + "\n")
        (folder / f"{name}-cert.pub").write_text(self.certificate.line() + "\n")
        return path


@dataclass(frozen=True)
class LabHost:
    """A host's key and certificate; also the proxy's `ProxyIdentity`."""

    host_id: UUID
    hostname: str
    key: PrivateKey
    cert: SSHCertificate

    @property
    def certificate(self) -> bytes:
        return self.cert.blob

    def sign(self, message: bytes) -> bytes:
        return sshsig.sign(self.key, message)

    @property
    def host_key(self) -> HostKey:
        return HostKey(self.key.openssh_pem().reveal(), self.cert.line())


class LabDirectory:
    """The registered nodes."""

    def __init__(self) -> None:
        self.registered: list[RegisteredNode] = []
        self.hidden: set[str] = set()
        self.forbidden: AccessDenial | None = None  # of everybody, from now on
        self.rules: LabRules | None = None  # by which a second factor is due

    def nodes(self) -> Iterable[RegisteredNode]:
        return self.registered

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        return self.forbidden or certificate_denial(
            identity, cluster=identity.cluster, now=SystemClock().now(), client_address=client_address
        )

    def second_factor_due(
        self, identity: UserIdentity, node: RegisteredNode, key: str, client_address: str
    ) -> AccessDenial | None:
        if self.rules is None:
            return None
        request = SSHAccessRequest(
            identity=identity,
            login="",
            cluster=identity.cluster,
            now=SystemClock().now(),
            node_id=node.host_id,
            node_hostname=node.hostname,
            client_address=client_address,
            key=key,
            vouched=True,
            leases=self.rules.leases(identity.name, key, client_address),
        )
        return why_second_factor_due(request, self.rules.policy())

    def why_hidden(self, identity: UserIdentity, node: RegisteredNode) -> tuple[str, ...]:
        return ("no role reaches it",) if node.host_id in self.hidden else ()

    def most_recent(self) -> bool:
        return False


CODE = "123456"  # the second factor of everybody in the lab


class LabLeases:
    """Leases as auth would make them, for the one code there is (`proxy.ssh_router.Leases`)."""

    def __init__(self, rules: LabRules) -> None:
        self._rules = rules
        self.asked: list[str] = []  # codes that came
        self.link = ""  # where a hardware key would approve
        self.approve: MfaLease | None = None  # what it gives when somebody says that they did
        self.hold_back = False  # what is made stays out of view

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        return lease_lifetime(
            identity,
            self._rules.policy(),
            key=key,
            client_address=client_address,
            leases=self._rules.leases(identity.name, key, client_address),
            now=SystemClock().now(),
        )

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        return True, self.link

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        if self.approve is not None:
            self._rules.leased.append(self.approve)
        return self.approve is not None

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        self.asked.append(code)
        if code != CODE:
            raise AccessDenied("the code is wrong or was used before", hint="wait for the next one")
        key, now = parse_certificate(certificate).body.public_key.fingerprint(), SystemClock().now()
        expires = now + (self.lifetime(identity, key, client_address) or timedelta(0))
        spec = MfaLeaseSpec(
            user=identity.name, key=key, client_address=client_address, device="d", granted=now, expires=expires
        )
        name = lease_name(identity.name, key, client_address)
        if not self.hold_back:
            self._rules.leased.append(MfaLease(metadata=Metadata(name=name, expires=expires), spec=spec))


class LabControl:
    """Counts connections as auth would, in memory (`transport.places.Control`)."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.held: dict[str, str] = {}  # id of the place: user
        self.away = False
        self.renewed = 0

    def _there(self) -> None:
        if self.away:
            raise TeleportError("auth cannot be reached")

    async def hold(self, place: Place) -> float:
        self._there()
        if list(self.held.values()).count(place.user) >= place.most:
            raise LimitExceeded("as many connections as the roles allow")
        self.held[place.id] = place.user
        return self.seconds

    async def renew(self, places: Sequence[Place]) -> tuple[float, frozenset[str]]:
        self._there()
        self.renewed += 1
        return self.seconds, frozenset(place.id for place in places if place.id not in self.held)

    async def release(self, places: Sequence[Place]) -> None:
        self._there()
        for place in places:
            self.held.pop(place.id, None)


def listener() -> socket.socket:
    """A bound loopback socket; serving it is somebody else's part."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@dataclass
class Lab:
    """What runs."""

    authorities: Authorities
    node: NodeService
    node_host: LabHost
    node_port: int
    router: SshRouter
    proxy_host: LabHost
    proxy_port: int
    events: Events
    recordings: MemoryRecordings
    rules: LabRules
    directory: LabDirectory
    leases: LabLeases
    control: LabControl

    def client_config(self, folder: Path, user: LabUser, login: str) -> Path:
        """Writes an OpenSSH configuration with which `ssh -F` reaches the node through the proxy by its name."""
        identity = user.write(folder)
        (folder / "known_hosts").write_text(self.authorities.known_hosts_line())
        config = folder / "ssh_config"
        common = f"""
  IdentityFile {identity}
  CertificateFile {identity}-cert.pub
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  Ciphers aes128-gcm@openssh.com
  User {login}
"""
        subsystem = f"ssh -F {config} proxy -s proxy:%h:%p@{self.authorities.cluster}"
        config.write_text(
            f"Host proxy\n  HostName 127.0.0.1\n  Port {self.proxy_port}\n{common}\n"
            f"Host direct\n  HostName 127.0.0.1\n  Port {self.node_port}\n{common}\n"
            f"Host jump\n  HostName {self.node_host.hostname}\n  ProxyJump proxy\n{common}\n"
            f"Host * !proxy !direct !jump\n  ProxyCommand {subsystem}\n{common}\n"
        )
        return config


@asynccontextmanager
async def running_lab(
    launcher: Launcher,
    *,
    recordings: Recordings | None = None,
    limits: ServerLimits | None = None,
    hostname: str = "node1",
    authorities: Authorities | None = None,
    labels: Mapping[str, str] | None = None,
    watcher: Watcher | None = None,
    port_forwarding: bool = True,
) -> AsyncIterator[Lab]:
    """A node and a proxy in this loop until the context ends."""
    authorities = authorities or Authorities()
    clock = SystemClock()
    events, memory = Events(), MemoryRecordings()
    rules, directory = LabRules([getpass.getuser(), "nobody"]), LabDirectory()
    node_host = authorities.host(SystemRole.NODE, hostname)
    proxy_host = authorities.host(SystemRole.PROXY, "proxy")
    node_socket, proxy_socket = listener(), listener()
    node_port, proxy_port = node_socket.getsockname()[1], proxy_socket.getsockname()[1]
    directory.rules = rules
    leases, control = LabLeases(rules), LabControl()
    directory.registered.append(RegisteredNode(str(node_host.host_id), hostname, f"127.0.0.1:{node_port}"))
    config = NodeConfig(authorities.cluster, node_host.host_id, hostname, f"127.0.0.1:{node_port}")
    config = replace(config, probe=KeepAlive(0.2, 2), port_forwarding=port_forwarding, limits=limits or config.limits)
    node = NodeService(
        config,
        certificates=authorities,
        rules=rules,
        labels=_Labels(labels or {}),
        launcher=launcher,
        recordings=recordings or memory,
        emitter=events,
        clock=clock,
        host_keys=[node_host.host_key],
        watcher=watcher,
        control=control,
    )
    router = SshRouter(
        RouterConfig(authorities.cluster, proxy_host.host_id, "proxy", limits=limits or ServerLimits()),
        certificates=authorities,
        directory=directory,
        identity=proxy_host,
        host_keys=[proxy_host.host_key],
        emitter=events,
        clock=clock,
        leases=leases,
    )
    async with (
        AsyncExitStack() as stack,
        served(lambda started: node.run([node_socket], started), "node"),
        served(lambda started: router.run([proxy_socket], started), "proxy"),
    ):
        for sock in (node_socket, proxy_socket):  # services leave them open: they are the supervisor's
            stack.callback(sock.close)
        yield Lab(
            authorities,
            node,
            node_host,
            node_port,
            router,
            proxy_host,
            proxy_port,
            events,
            memory,
            rules,
            directory,
            leases,
            control,
        )


@asynccontextmanager
async def served(run: Callable[[Callable[[], None]], Coroutine[Any, Any, None]], name: str) -> AsyncIterator[None]:
    """Runs a service in a task of its own, until the context ends."""
    started = asyncio.Event()
    task = asyncio.create_task(run(started.set), name=name)
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


async def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for a condition that nothing announces (a file, a process, bytes); `TimeoutError` when it never holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # nobody could set an event
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Ran:
    """How a client ended."""

    status: int
    stdout: bytes
    stderr: str


async def run_client(*command: str, stdin: bytes = b"", seconds: float = 30.0) -> Ran:
    """Runs a client program with a plain environment until it ends."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate(stdin)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, stdout, stderr.decode(errors="replace"))
