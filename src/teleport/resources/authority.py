"""A named CA of a cluster: its kind, its active and additional trusted keys, its rotation (`certificates.md` 1 and 7).

Public keys are OpenSSH lines, certificates PEM, private keys PEM (PKCS#8 or OpenSSH). Private keys are wrapped;
`without_secrets` is what leaves auth. Only one module of auth reveals them (style.md 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

import msgspec

from teleport.resources.metadata import FieldWarning, Finding, Metadata, Moment, Value
from teleport.resources.secret import SecretText
from teleport.resources.values import Duration


class AuthorityType(StrEnum):
    USER = "user"
    HOST = "host"
    JWT = "jwt"
    OPENSSH = "openssh"


class SSHKeyPair(Value, frozen=True, kw_only=True):
    public_key: str  # one OpenSSH line
    private_key: SecretText | None = None


class TLSKeyPair(Value, frozen=True, kw_only=True):
    cert: str  # PEM
    key: SecretText | None = None


class JWTKeyPair(Value, frozen=True, kw_only=True):
    public_key: str  # PEM
    private_key: SecretText | None = None


class KeySet(Value, frozen=True, kw_only=True):
    ssh: tuple[SSHKeyPair, ...] = ()
    tls: tuple[TLSKeyPair, ...] = ()
    jwt: tuple[JWTKeyPair, ...] = ()

    def without_secrets(self) -> KeySet:
        return KeySet(
            ssh=tuple(SSHKeyPair(public_key=pair.public_key) for pair in self.ssh),
            tls=tuple(TLSKeyPair(cert=pair.cert) for pair in self.tls),
            jwt=tuple(JWTKeyPair(public_key=pair.public_key) for pair in self.jwt),
        )

    @property
    def empty(self) -> bool:
        return not (self.ssh or self.tls or self.jwt)


class RotationState(StrEnum):
    STANDBY = "standby"
    IN_PROGRESS = "in_progress"


class RotationPhase(StrEnum):
    STANDBY = "standby"
    INIT = "init"
    UPDATE_CLIENTS = "update_clients"
    UPDATE_SERVERS = "update_servers"
    ROLLBACK = "rollback"


class RotationMode(StrEnum):
    MANUAL = "manual"
    AUTO = "auto"


class RotationSchedule(Value, frozen=True, kw_only=True):
    update_clients: Moment | None = None
    update_servers: Moment | None = None
    standby: Moment | None = None


class Rotation(Value, frozen=True, kw_only=True):
    """How far replacing the keys has come."""

    state: RotationState = RotationState.STANDBY
    phase: RotationPhase = RotationPhase.STANDBY
    mode: RotationMode = RotationMode.MANUAL
    current_id: str = ""
    started: Moment | None = None
    grace_period: Duration = Duration(0)
    last_rotated: Moment | None = None
    schedule: RotationSchedule = RotationSchedule()


class RetiredKeys(Value, frozen=True, kw_only=True):
    """Public halves of keys that a rotation ended. Nothing is let in by them: they are kept so that whoever still shows
    a certificate of theirs is told what happened and what to do, and so that recordings signed before verify."""

    retired: Moment
    rotation_id: str = ""
    ssh: tuple[str, ...] = ()  # OpenSSH lines
    tls: tuple[str, ...] = ()  # PEM
    at_once: bool = False  # replaced without phases, as one does with stolen keys: what they let in ends, too


class RoleMapping(Value, frozen=True, kw_only=True):
    remote: str
    local: tuple[str, ...] = ()


class AuthoritySpec(Value, frozen=True, kw_only=True):
    type: AuthorityType
    cluster_name: str
    active_keys: KeySet = KeySet()
    additional_trusted_keys: KeySet = KeySet()
    rotation: Rotation = Rotation()
    roles: tuple[str, ...] = ()
    role_map: tuple[RoleMapping, ...] = ()
    signing_alg: str = ""
    retired_keys: tuple[RetiredKeys, ...] = ()  # the newest last


class Authority(Value, frozen=True, kw_only=True):
    """`metadata.name` is the cluster's name, `sub_kind` the type."""

    kind: Literal["cert_authority"] = "cert_authority"
    sub_kind: AuthorityType
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: AuthoritySpec

    @classmethod
    def new(cls, type_: AuthorityType, cluster_name: str, keys: KeySet) -> Authority:
        """An authority of `cluster_name` with `keys` active."""
        spec = AuthoritySpec(type=type_, cluster_name=cluster_name, active_keys=keys)
        return cls(sub_kind=type_, metadata=Metadata(name=cluster_name), spec=spec)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def type(self) -> AuthorityType:
        return self.spec.type

    def without_secrets(self) -> Authority:
        """The same authority as others may see it."""
        spec = msgspec.structs.replace(
            self.spec,
            active_keys=self.spec.active_keys.without_secrets(),
            additional_trusted_keys=self.spec.additional_trusted_keys.without_secrets(),
        )
        return msgspec.structs.replace(self, spec=spec)

    @property
    def trusted_ssh_keys(self) -> tuple[str, ...]:
        """Public keys that certificates may be signed with: active ones first."""
        sets = (self.spec.active_keys, self.spec.additional_trusted_keys)
        return tuple(pair.public_key for keys in sets for pair in keys.ssh)

    @property
    def trusted_tls_certs(self) -> tuple[str, ...]:
        """PEM of the certificates that are trusted: active ones first."""
        sets = (self.spec.active_keys, self.spec.additional_trusted_keys)
        return tuple(pair.cert for keys in sets for pair in keys.tls)

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        if self.sub_kind != self.spec.type:
            yield Finding(("sub_kind",), repr(str(self.sub_kind)), f"the type, {self.spec.type}")
        if self.metadata.name != self.spec.cluster_name:
            yield Finding(("spec", "cluster_name"), repr(self.spec.cluster_name[:80]), "the same as metadata.name")
        if self.spec.active_keys.empty:
            yield Finding(("spec", "active_keys"), "no keys", "at least one key pair")

    @property
    def warnings(self) -> tuple[FieldWarning, ...]:
        later = {"roles": "a trusted_cluster", "role_map": "a trusted_cluster", "signing_alg": "the kind of key"}
        return tuple(
            FieldWarning(f"spec.{name}", f"kept without effect: {what} decides")
            for name, what in later.items()
            if getattr(self.spec, name)
        )
