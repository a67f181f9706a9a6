"""Events of the cluster itself: certificates, tokens, joins, secrets, services, the log. Ours, from T9010 on."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, Struct, UnsetType, field

from teleport.audit.events.base import Event, ResourceEvent, StatusEvent, UserEvent


class CertCreate(UserEvent, frozen=True, kw_only=True, tag="cert.create"):
    """A certificate was issued."""

    cert_type: str = ""  # user, host, or server for one outside the cluster
    subject: str = ""  # user name, host UUID or names of the server
    system_roles: list[str] = field(default_factory=list)  # of a host certificate
    roles: list[str] = field(default_factory=list)  # of a user certificate
    logins: list[str] = field(default_factory=list)  # of a user certificate
    serial: str = ""  # serial number of the SSH and the X.509 certificate, decimal
    key_fingerprint: str = ""  # SHA256:... of the certified public key
    valid_until: datetime | UnsetType = UNSET  # end of its life
    route_to_cluster: str = ""  # cluster that it leads to
    addr: str = ""  # where it was asked for from
    factor: str = ""  # what was proved for it, such as password+otp, or token for hosts
    mfa_device: str = ""  # second factor that the certificate names
    source_ip: str = ""  # address that it holds from, when it holds from one only
    traits: dict[str, list[str]] = field(default_factory=dict)  # of a user certificate
    names: list[str] = field(default_factory=list)  # host's name, or all names of a certificate for a plain sshd
    renewed_from: str = ""  # serial number of the certificate that was shown to get it
    mfa_target: str = ""  # what that factor was proved for: UUID of a host, kube: and a Kubernetes cluster, or api
    signed_by: str = ""  # SHA256:... of the SSH key of the authority that signed


class CertRevoked(UserEvent, frozen=True, kw_only=True, tag="cert.revoked"):
    """A certificate was ended before its time, and with it those that it was renewed to."""

    cert_type: str = ""  # user or host; empty when it is not in the inventory
    subject: str = ""  # user name or host UUID, when known
    serial: str = ""  # of the certificate that was named
    serials: list[str] = field(default_factory=list)  # of all that ended
    message: str = ""  # why


class TokenCreate(ResourceEvent, frozen=True, kw_only=True, tag="token.create"):
    """A join token was made. `name` is its public id, never the secret."""

    system_roles: list[str] = field(default_factory=list)  # what it lets a host become


class TokenDelete(ResourceEvent, frozen=True, kw_only=True, tag="token.delete"):
    """A join token was removed. `name` is its public id."""


class TokenUsed(Event, frozen=True, kw_only=True, tag="token.used"):
    """A join token was accepted."""

    name: str = ""  # public id of the token
    host_id: str = ""  # UUID of the host that offered it
    addr: str = ""  # where it came from


class HostJoin(Event, frozen=True, kw_only=True, tag="host.join"):
    """A host became part of the cluster."""

    host_id: str = ""  # its UUID
    hostname: str = ""  # its name
    system_roles: list[str] = field(default_factory=list)  # what it may be
    token: str = ""  # public id of the token
    addr: str = ""  # where it came from


class HostJoinFailed(Event, frozen=True, kw_only=True, tag="host.join_failed"):
    """A host tried to join and was refused."""

    host_id: str = ""  # UUID that it claims
    hostname: str = ""  # name that it claims
    system_roles: list[str] = field(default_factory=list)  # what it wanted to be
    token: str = ""  # public id of what it offered
    addr: str = ""  # where it came from
    error: str = ""  # why


class NodeCreate(ResourceEvent, frozen=True, kw_only=True, tag="node.create"):
    """A node was registered by a person."""

    hostname: str = ""  # its name


class NodeDelete(ResourceEvent, frozen=True, kw_only=True, tag="node.delete"):
    """A node was expelled. `name` is its UUID."""

    hostname: str = ""  # its name
    keep_identity: bool = False  # only hidden: its certificates stay good


class ProxyCreate(ResourceEvent, frozen=True, kw_only=True, tag="proxy.create"):
    """A proxy was registered by a person."""


class ProxyDelete(ResourceEvent, frozen=True, kw_only=True, tag="proxy.delete"):
    """A proxy was removed."""


class AuthServerCreate(ResourceEvent, frozen=True, kw_only=True, tag="auth_server.create"):
    """An auth server was registered by a person."""


class AuthServerDelete(ResourceEvent, frozen=True, kw_only=True, tag="auth_server.delete"):
    """An auth server was removed."""


class KubeServiceDelete(ResourceEvent, frozen=True, kw_only=True, tag="kube_service.delete"):
    """A Kubernetes service was expelled. `name` is its host's UUID."""

    hostname: str = ""  # its name
    keep_identity: bool = False  # only hidden: its certificates stay good


class AuthorityCreate(ResourceEvent, frozen=True, kw_only=True, tag="authority.create"):
    """An authority was made or changed."""

    authority: str = ""  # its kind: user, host or jwt
    fingerprints: list[str] = field(default_factory=list)  # SHA256:... of its public keys


class AuthorityDelete(ResourceEvent, frozen=True, kw_only=True, tag="authority.delete"):
    """An authority was removed."""

    authority: str = ""  # its kind


class AuthorityRotate(ResourceEvent, frozen=True, kw_only=True, tag="authority.rotate"):
    """A rotation of an authority began, went into another phase, or ended."""

    authority: str = ""  # its kind: user, host or jwt
    rotation_id: str = ""  # the same through all phases
    phase: str = ""  # which it is in now
    previous_phase: str = ""  # which it was in
    mode: str = ""  # manual, or auto for a rotation that runs by itself
    grace_period: str = ""  # such as 48h0m0s; 0s replaces the keys at once
    fingerprints: list[str] = field(default_factory=list)  # SHA256:... of the SSH keys that sign now
    ca_pins: list[str] = field(default_factory=list)  # of a host authority: what is trusted now, what signs first
    forced: bool = False  # went on although services had not reached the phase before
    left_behind: list[str] = field(default_factory=list)  # UUIDs of those services


class AuthorityRotateStopped(ResourceEvent, frozen=True, kw_only=True, tag="authority.rotate_stopped"):
    """A rotation that ran by itself could not go on; it waits for a person from here on."""

    authority: str = ""  # its kind
    rotation_id: str = ""  # the same through all phases
    phase: str = ""  # which it stays in
    wanted_phase: str = ""  # which it could not go into
    error: str = ""  # why
    left_behind: list[str] = field(default_factory=list)  # UUIDs of services that had not reached the phase


class ClusterRepaired(UserEvent, frozen=True, kw_only=True, tag="cluster.repaired"):
    """`teleport repair` changed the storage of the auth host while its daemon was down. Told when that runs again."""

    what: list[str] = field(default_factory=list)  # what was done, in words


class SecretRevealed(UserEvent, frozen=True, kw_only=True, tag="secret.revealed"):
    """A secret left auth: `auth export --keys`, `get --with-secrets`."""

    kind: str = ""  # kind of the resource
    name: str = ""  # its name; empty for all
    what: str = ""  # which secret


class AuthSign(UserEvent, frozen=True, kw_only=True, tag="auth.sign"):
    """`tctl auth sign` issued a certificate for somebody else."""

    subject: str = ""  # user or host named
    format: str = ""  # of the written files
    ttl: str = ""  # lifetime asked for
    valid_until: datetime | UnsetType = UNSET  # end of its life
    source_ip: str = ""  # the one address that it holds from; empty: any


class ApiDenied(StatusEvent, frozen=True, kw_only=True, tag="api.denied"):
    """A call was refused."""

    success: bool = False  # always false
    host_id: str = ""  # UUID of the calling host, when a host called
    verb: str = ""  # what was asked
    kind: str = ""  # of which sort of resource
    name: str = ""  # which one
    route: str = ""  # name of the call
    addr: str = ""  # where it came from


class SessionRecordingAccess(UserEvent, frozen=True, kw_only=True, tag="session_recording.access"):
    """A recording was played or downloaded."""

    sid: str = ""  # session
    format: str = ""  # what the program said that it was for: play, cast, text, json, html, raw
    made_by: str = ""  # UUID of the host that made the recording


class SessionRecordingSearch(UserEvent, frozen=True, kw_only=True, tag="session_recording.search"):
    """Recordings were searched for what they showed. A search of many recordings leaves several."""

    query: str = ""  # the text, at most 200 characters
    searched: int = 0  # sessions that were searched
    sids: list[str] = field(default_factory=list)  # sessions of which lines were shown


class ServiceStart(Event, frozen=True, kw_only=True, tag="service.start"):
    """A daemon started its services."""

    services: list[str] = field(default_factory=list)  # auth, proxy, node
    version: str = ""  # of the program
    pid: int = 0  # process id
    hostname: str = ""  # host's name


class ServiceStop(Event, frozen=True, kw_only=True, tag="service.stop"):
    """A daemon stopped its services in order. A killed one leaves no such event."""

    services: list[str] = field(default_factory=list)  # auth, proxy, node
    reason: str = ""  # signal or error


class CheckpointHead(Struct, frozen=True, kw_only=True):
    """How far auth held one chain."""

    emitter: str  # host UUID
    epoch: int  # run of the daemon
    seq: int  # last event taken in
    hash: str  # its hash, hex


class AuditCheckpoint(Event, frozen=True, kw_only=True, tag="audit.checkpoint"):
    """A signed statement over the heads of all chains (`docs/audit-log.md`)."""

    number: int = 0  # from 1, without gaps
    base: bool = False  # starts the map of heads anew instead of adding to the one before
    heads: list[CheckpointHead] = field(default_factory=list)  # heads that moved since the checkpoint before
    root: str = ""  # SHA-256 over the whole map of heads, hex
    previous: str = ""  # hash of the checkpoint before, hex; empty for the first
    key_id: str = ""  # which key signed
    signature: str = ""  # Ed25519, base64
