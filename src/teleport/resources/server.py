"""A service that announced itself: node, proxy or auth server (`resources.md` 9, kind `node` and its siblings)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from teleport.resources.authority import AuthorityType, RotationPhase
from teleport.resources.metadata import (
    DEFAULT_NAMESPACE,
    Finding,
    Metadata,
    Moment,
    Value,
    label_findings,
    shown,
    text_findings,
)
from teleport.resources.names import check_hostname
from teleport.resources.values import Duration, HostPort

MAX_ADDRESSES = 32
MAX_KUBE_CLUSTERS = 1000  # of one service
MAX_KUBE_NAME = 256  # characters
LOST_AFTER = timedelta(seconds=150)  # of silence: two heartbeats were missed, and half a minute more


def is_lost(heard: datetime | None, lost_after: int, now: datetime) -> bool:
    """Whether a service of which auth noted so that it heard of it is not there any more (`ServerSpec`)."""
    return heard is not None and now - heard >= (timedelta(seconds=lost_after) if lost_after else LOST_AFTER)


class CommandLabelState(Value, frozen=True, kw_only=True):
    """A dynamic label: the command that finds its value, and what it found last."""

    period: Duration
    command: tuple[str, ...]
    result: str = ""


class ReachedPhase(Value, frozen=True, kw_only=True):
    """How far a service has followed an authority: it has done all that `phase` of the rotation `current_id` asks
    (`pki.rotation` says what that is). An authority that was never rotated is in standby, without a `current_id`."""

    phase: RotationPhase = RotationPhase.STANDBY
    current_id: str = ""


class KubeClusterEntry(Value, frozen=True, kw_only=True):
    """A Kubernetes cluster that a service leads to, with the labels by which roles select it."""

    name: str
    static_labels: Mapping[str, str] = {}
    dynamic_labels: Mapping[str, CommandLabelState] = {}

    @property
    def all_labels(self) -> Mapping[str, str]:
        """Static and dynamic labels together, as they are matched; a dynamic one wins a clash."""
        return {**self.static_labels, **{key: state.result for key, state in self.dynamic_labels.items()}}


class ServerSpec(Value, frozen=True, kw_only=True):
    addr: str = ""  # where it listens, `host:port`; empty behind a tunnel
    public_addrs: tuple[str, ...] = ()  # where clients reach it, `host:port`
    hostname: str = ""
    cmd_labels: Mapping[str, CommandLabelState] = {}
    use_tunnel: bool = False  # of a node: proxies reach it by the tunnels that it keeps to them
    version: str = ""
    epoch: str = ""  # this run of the daemon; a newer run of the same host replaces an older one
    started: Moment | None = None
    rotation: Mapping[AuthorityType, ReachedPhase] = {}  # empty: it says nothing (of an older version)
    heard: Moment | None = None  # when auth noted last that it heard of it
    lost_after: int = 0  # seconds from then on in which it is not lost; 0: `LOST_AFTER`
    proxy_ids: tuple[str, ...] = ()  # of a node behind a tunnel: the proxies that it keeps one to
    tunnel_addrs: tuple[str, ...] = ()  # of a proxy: where hosts reach its tunnel listener, `host:port`
    peer_addr: str = ""  # of a proxy: where other proxies ask for the hosts whose tunnels it holds, `host:port`
    silent_for: Duration = Duration(0)  # in lists, of a service that is lost: the time since then
    tunnel_lost_for: Duration = Duration(0)  # in lists: for how long its proxies have been without a tunnel of it
    kube_clusters: tuple[KubeClusterEntry, ...] = ()  # of a Kubernetes service or proxy: where it leads itself


class Server(Value, frozen=True, kw_only=True):
    """A live service. `name` is the host's UUID; `metadata.expires` ends its presence."""

    kind: Literal["node", "proxy", "auth_server", "kube_service"] = "node"
    sub_kind: Literal["", "openssh"] = ""  # openssh: a plain sshd, which a person registered and proxies speak for
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: ServerSpec = ServerSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def host_id(self) -> str:
        return self.metadata.name

    @property
    def hostname(self) -> str:
        return self.spec.hostname

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def all_labels(self) -> Mapping[str, str]:
        """Static and dynamic labels together, as they are matched; a dynamic one wins a clash."""
        return {**self.metadata.labels, **{key: state.result for key, state in self.spec.cmd_labels.items()}}

    @property
    def agentless(self) -> bool:
        """Whether it is a plain sshd without a node service."""
        return self.sub_kind == "openssh"

    def lost(self, now: datetime) -> bool:
        """Whether it ended without saying so, or cannot reach auth. What a person registered is never lost."""
        return is_lost(self.spec.heard, self.spec.lost_after, now)

    def as_of(self, now: datetime) -> Server:
        """The same, saying of a lost service for how long it has been silent (to the second)."""
        silent = Duration(0)
        if self.spec.heard is not None and self.lost(now):
            silent = Duration.of(seconds=(now - self.spec.heard) // timedelta(seconds=1))
        return msgspec.structs.replace(self, spec=msgspec.structs.replace(self.spec, silent_for=silent))

    def expired(self, now: datetime) -> bool:
        return self.metadata.expires is not None and now >= self.metadata.expires

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        if self.spec.hostname and (problem := check_hostname(self.spec.hostname)):
            yield Finding(("spec", "hostname"), shown(self.spec.hostname), f"a host name; this one {problem}")
        if self.spec.addr and not _is_address(self.spec.addr):
            yield Finding(("spec", "addr"), shown(self.spec.addr), "host:port")
        if self.spec.peer_addr and not _is_address(self.spec.peer_addr):
            yield Finding(("spec", "peer_addr"), shown(self.spec.peer_addr), "host:port")
        if len(self.spec.public_addrs) > MAX_ADDRESSES:
            yield Finding(("spec", "public_addrs"), f"{len(self.spec.public_addrs)}", f"at most {MAX_ADDRESSES}")
        for number, address in enumerate(self.spec.public_addrs):
            if not _is_address(address):
                yield Finding(("spec", "public_addrs", number), shown(address), "host:port")
        for name in ("tunnel_addrs", "proxy_ids"):
            if len(getattr(self.spec, name)) > MAX_ADDRESSES * 2:
                yield Finding(("spec", name), f"{len(getattr(self.spec, name))}", f"at most {MAX_ADDRESSES * 2}")
        for number, address in enumerate(self.spec.tunnel_addrs):
            if not _is_address(address):
                yield Finding(("spec", "tunnel_addrs", number), shown(address), "host:port")
        for number, proxy in enumerate(self.spec.proxy_ids):
            if not _is_uuid(proxy):
                yield Finding(("spec", "proxy_ids", number), shown(proxy), "the UUID of a proxy")
        yield from label_findings(("spec", "cmd_labels"), {k: s.result for k, s in self.spec.cmd_labels.items()})
        yield from label_findings(("metadata", "labels"), self.all_labels)
        for name in ("version", "epoch"):
            yield from text_findings(("spec", name), getattr(self.spec, name), 128)
        yield from self._kube_findings()
        if self.agentless:
            yield from self._agentless_findings()

    def _kube_findings(self) -> Iterator[Finding]:
        clusters = self.spec.kube_clusters
        if clusters and self.kind not in ("kube_service", "proxy"):
            yield Finding(("spec", "kube_clusters"), "clusters", "none: Kubernetes services and proxies have some")
        if len(clusters) > MAX_KUBE_CLUSTERS:
            yield Finding(("spec", "kube_clusters"), f"{len(clusters)}", f"at most {MAX_KUBE_CLUSTERS}")
        if len({one.name for one in clusters}) < len(clusters):
            yield Finding(("spec", "kube_clusters"), "a name twice", "each cluster once")
        for number, one in enumerate(clusters):
            where = ("spec", "kube_clusters", number)
            if not one.name:
                yield Finding((*where, "name"), "nothing", "the name of a Kubernetes cluster")
            yield from text_findings((*where, "name"), one.name, MAX_KUBE_NAME)
            yield from label_findings((*where, "static_labels"), one.all_labels)

    def _agentless_findings(self) -> Iterator[Finding]:
        if self.kind != "node":
            yield Finding(("sub_kind",), "openssh", "a node's")
        if not _is_uuid(self.metadata.name):
            yield Finding(("metadata", "name"), shown(self.metadata.name), "a UUID: uuidgen makes one")
        if not self.spec.hostname:
            yield Finding(("spec", "hostname"), "nothing", "the name by which people reach the host")
        if not self.spec.addr:
            yield Finding(("spec", "addr"), "nothing", "host:port where proxies reach its sshd")
        elif _is_address(self.spec.addr) and not HostPort.parse(self.spec.addr, 0).port:
            yield Finding(("spec", "addr"), shown(self.spec.addr), "an address with its port, such as 192.0.2.7:22")
        if self.spec.public_addrs:
            yield Finding(("spec", "public_addrs"), "addresses", "none: a plain sshd has the one in spec.addr")
        if self.spec.cmd_labels:
            yield Finding(("spec", "cmd_labels"), "labels", "none: nothing runs commands there")


class _GlanceMetadata(msgspec.Struct):
    name: str
    namespace: str = DEFAULT_NAMESPACE
    labels: dict[str, str] = {}


class _GlanceResult(msgspec.Struct):
    result: str = ""


class _GlanceSpec(msgspec.Struct):
    addr: str = ""
    public_addrs: tuple[str, ...] = ()
    hostname: str = ""
    use_tunnel: bool = False
    started: datetime | None = None
    cmd_labels: dict[str, _GlanceResult] = {}
    heard: datetime | None = None
    lost_after: int = 0
    silent_for: str = ""


class Glance(msgspec.Struct):
    """A stored node, read only as far as one is found among many, or listed: a tenth of the work of reading it whole,
    which whoever stored it has checked."""

    metadata: _GlanceMetadata
    sub_kind: str = ""
    spec: _GlanceSpec = msgspec.field(default_factory=_GlanceSpec)

    @property
    def host_id(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def hostname(self) -> str:
        return self.spec.hostname

    @property
    def agentless(self) -> bool:
        """As `Server.agentless`."""
        return self.sub_kind == "openssh"

    def lost(self, now: datetime) -> bool:
        """As `Server.lost`."""
        return is_lost(self.spec.heard, self.spec.lost_after, now)

    @property
    def all_labels(self) -> Mapping[str, str]:
        """As `Server.all_labels`."""
        return {**self.metadata.labels, **{key: state.result for key, state in self.spec.cmd_labels.items()}}

    def as_stored(self, now: datetime) -> bool:
        """Whether `Server.as_of` would change nothing."""
        return not self.spec.silent_for and not self.lost(now)


def _is_address(text: str) -> bool:
    try:
        HostPort.parse(text, 0)
    except ValueError:
        return False
    return True


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
