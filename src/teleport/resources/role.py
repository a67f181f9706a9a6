"""The role: what its holders may do (`resources.md` 3), laid out as people write it. `role_checks` says what is wrong.

A field that is absent from `allow` or `deny` is None where absence and emptiness differ (labels, namespaces). The
defaults that depend on the version are applied by the properties of `Role`, so that what was written comes back so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Literal

from teleport.resources import role_checks
from teleport.resources.joining import JoinPolicy, RequiredJoin
from teleport.resources.kube_rules import KubeRule
from teleport.resources.metadata import DEFAULT_NAMESPACE, FieldWarning, Finding, Metadata, Value
from teleport.resources.values import Duration

LabelSelector = Mapping[str, tuple[str, ...]]
ANY_LABELS: LabelSelector = {"*": ("*",)}
DEFAULT_MAX_SESSION_TTL = Duration.of(hours=30)
RecordedKind = Literal["command", "network", "disk"]
DEFAULT_ENHANCED_RECORDING: tuple[RecordedKind, ...] = ("command", "network")
IMPLICIT_ROLE_NAME = "default-implicit-role"


class CertFormat(StrEnum):
    STANDARD = "standard"
    OLDSSH = "oldssh"


class RequestAccess(StrEnum):
    OPTIONAL = "optional"
    ALWAYS = "always"
    REASON = "reason"


class RoleLocking(StrEnum):
    CLUSTER = ""
    BEST_EFFORT = "best_effort"
    STRICT = "strict"


class ExecMode(StrEnum):
    """What may be run: anything, file transfers, or nothing."""

    ALL = "all"
    TRANSFER = "transfer"
    NONE = "none"


class FileTransfer(Value, frozen=True, kw_only=True):
    """What sftp, scp and rsync may move, and where. Lists of paths that are absent mean every path."""

    download: bool = True
    upload: bool = True  # and every other change: names, attributes, links, folders
    download_paths: tuple[str, ...] | None = None
    upload_paths: tuple[str, ...] | None = None
    deny_paths: tuple[str, ...] = ()
    max_file_size: int = 0  # bytes; zero: no limit


class Options(Value, frozen=True, kw_only=True):
    max_session_ttl: Duration = DEFAULT_MAX_SESSION_TTL
    forward_agent: bool = False
    port_forwarding: bool | None = None  # absent means true
    client_idle_timeout: Duration = Duration(0)  # zero: never
    disconnect_expired_cert: bool = False
    enhanced_recording: tuple[RecordedKind, ...] | None = None
    permit_x11_forwarding: bool = False
    cert_format: CertFormat = CertFormat.STANDARD
    max_connections: int = 0  # zero: no limit
    max_sessions: int = 0  # zero: no limit
    request_access: RequestAccess = RequestAccess.OPTIONAL
    request_prompt: str = ""
    require_session_mfa: bool = False
    mfa_lease_ttl: Duration = Duration(0)  # zero: plain ssh gets no lease by this role
    lock: RoleLocking = RoleLocking.CLUSTER
    pin_source_ip: bool = False  # certificates hold from the address of the login only
    # Of those below, each counts for the logins and hosts that its own role gives.
    local_forwarding: bool | None = None  # to hosts and sockets; absent: as port_forwarding
    remote_forwarding: bool | None = None  # listening for clients; absent: as port_forwarding
    exec: ExecMode = ExecMode.ALL
    commands: tuple[str, ...] = ()  # none: every command
    file_transfer: FileTransfer = FileTransfer()
    create_host_user: bool = False  # accounts that a host does not have are made there for sessions


class Rule(Value, frozen=True, kw_only=True):
    """Verbs on resources, perhaps only `where` a predicate holds."""

    resources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    where: str = ""
    actions: tuple[str, ...] = ()


class ClaimToRoles(Value, frozen=True, kw_only=True):
    claim: str = ""
    value: str = ""
    roles: tuple[str, ...] = ()


class Threshold(Value, frozen=True, kw_only=True):
    name: str = ""
    filter: str = ""
    approve: int = 1
    deny: int = 1


class AccessRequestConditions(Value, frozen=True, kw_only=True):
    roles: tuple[str, ...] = ()
    claims_to_roles: tuple[ClaimToRoles, ...] = ()
    suggested_reviewers: tuple[str, ...] = ()
    annotations: Mapping[str, tuple[str, ...]] = {}
    thresholds: tuple[Threshold, ...] = ()


class AccessReviewConditions(Value, frozen=True, kw_only=True):
    roles: tuple[str, ...] = ()
    claims_to_roles: tuple[ClaimToRoles, ...] = ()
    where: str = ""


class ImpersonateConditions(Value, frozen=True, kw_only=True):
    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    where: str = ""


class Conditions(Value, frozen=True, kw_only=True):
    """What `allow` and `deny` have in common."""

    namespaces: tuple[str, ...] | None = None
    logins: tuple[str, ...] = ()
    node_labels: LabelSelector | None = None
    app_labels: LabelSelector | None = None
    kubernetes_labels: LabelSelector | None = None
    db_labels: LabelSelector | None = None
    cluster_labels: LabelSelector | None = None
    kubernetes_groups: tuple[str, ...] = ()
    kubernetes_users: tuple[str, ...] = ()
    kubernetes_resources: tuple[KubeRule, ...] | None = None  # absent from allow: all that the cluster lets its groups
    db_names: tuple[str, ...] = ()
    db_users: tuple[str, ...] = ()
    aws_role_arns: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    request: AccessRequestConditions | None = None
    review_requests: AccessReviewConditions | None = None
    impersonate: ImpersonateConditions | None = None
    forward_to: tuple[str, ...] | None = None  # HOST:PORTS and unix:PATH; absent from allow: all that is not reserved
    listen_on: tuple[str, ...] | None = None  # likewise; absent from allow: loopback
    host_groups: tuple[str, ...] = ()  # Unix groups of accounts that are made
    join_sessions: tuple[JoinPolicy, ...] = ()
    require_session_join: tuple[RequiredJoin, ...] = ()

    @property
    def effective_namespaces(self) -> tuple[str, ...]:
        return (DEFAULT_NAMESPACE,) if self.namespaces is None else self.namespaces


class RoleSpec(Value, frozen=True, kw_only=True):
    options: Options = Options()
    allow: Conditions = Conditions()
    deny: Conditions = Conditions()


class Role(Value, frozen=True, kw_only=True):
    kind: Literal["role"] = "role"
    version: Literal["v3", "v4", "v5"] = "v4"
    metadata: Metadata
    spec: RoleSpec = RoleSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def options(self) -> Options:
        return self.spec.options

    @property
    def allow(self) -> Conditions:
        return self.spec.allow

    @property
    def deny(self) -> Conditions:
        return self.spec.deny

    @property
    def allowed_node_labels(self) -> LabelSelector:
        """The selector for nodes; absent from a v3 role with logins it means every node, else none."""
        if self.allow.node_labels is not None:
            return self.allow.node_labels
        return ANY_LABELS if self.version == "v3" and self.allow.logins else {}

    @property
    def allowed_kubernetes_labels(self) -> LabelSelector:
        """The selector for Kubernetes clusters; absent from a v3 role it means every cluster, else none."""
        if self.allow.kubernetes_labels is not None:
            return self.allow.kubernetes_labels
        return ANY_LABELS if self.version == "v3" else {}

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        if self.metadata.name == IMPLICIT_ROLE_NAME:
            yield Finding(("metadata", "name"), repr(IMPLICIT_ROLE_NAME), "another name; this one is the cluster's own")
        yield from role_checks.role_findings(self)

    @property
    def warnings(self) -> tuple[FieldWarning, ...]:
        """Fields that are kept but whose feature comes later, and forms that grant more than they seem to."""
        return role_checks.role_warnings(self)
