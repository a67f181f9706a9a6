"""The table of the auth API. Every route declares who may ask what of which kind, and what it leaves in the audit log.

A route without a declaration cannot be built: verb, kind and `events` have no defaults. `events=()` means that the
operation neither changes anything nor reveals a secret. `verb=None` marks the few routes that anyone may call; each
says why in `reason`, and tests enumerate them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from teleport.api import messages as m
from teleport.resources.kinds import Verb

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)


class Stream(StrEnum):
    """Bodies that are not one JSON value."""

    NONE = "none"
    DOWN = "down"  # the reply is a stream of lines or bytes
    UP = "up"  # the request's body is bytes; its fields travel in path and query


@dataclass(frozen=True, slots=True)
class Route(Generic[Req, Rep]):
    """One operation of auth. Fields of the request that the path names travel there; the rest in query or body."""

    name: str
    method: str
    path: str
    verb: Verb | None
    kind: str
    events: tuple[str, ...]
    request: type[Req]
    reply: type[Rep]
    stream: Stream = Stream.NONE
    reason: str = ""

    @property
    def path_fields(self) -> frozenset[str]:
        return frozenset(re.findall(r"\{(\w+)\}", self.path))


_table: dict[str, Route[Any, Any]] = {}


def _route(
    name: str,
    call: str,
    verb: Verb | None,
    kind: str,
    events: tuple[str, ...],
    request: type[Req],
    reply: type[Rep],
    *,
    stream: Stream = Stream.NONE,
    reason: str = "",
) -> Route[Req, Rep]:
    method, path = call.split(" ")
    route = Route(name, method, "/v1" + path, verb, kind, events, request, reply, stream, reason)
    assert name not in _table, name
    assert (verb is None) == bool(reason), f"{name}: an open route says why, and only an open one"
    _table[name] = route
    return route


# --- open to callers without a certificate
CLUSTER_CA = _route(
    "cluster_ca", "GET /ca", None, "cert_authority", (), m.Empty, m.ClusterCA,
    reason="public; a joiner compares it with its pin",
)  # fmt: skip
JOIN = _route(
    "join", "POST /join", None, "token", ("host.join", "host.join_failed"), m.JoinRequest, m.HostCredentials,
    reason="the join token in the request is the proof",
)  # fmt: skip

# --- from the auth services of other clusters, which hold no certificate of this one
VALIDATE_CLUSTER = _route(
    "validate_cluster", "POST /clusters/validate", None, "remote_cluster", ("remote_cluster.create", "token.used"),
    m.ValidateClusterRequest, m.ClusterStatement,
    reason="the token in the request is the proof",
)  # fmt: skip
EXCHANGE_AUTHORITIES = _route(
    "exchange_authorities", "POST /clusters/exchange", None, "remote_cluster",
    ("cluster_authority.update", "cluster_statement.refused"), m.ExchangeRequest, m.ClusterStatement,
    reason="the statement is signed by keys that are known of its cluster",
)  # fmt: skip

# --- the cluster
STATUS = _route("status", "GET /status", Verb.READ, "cluster_name", (), m.Empty, m.ClusterStatus)
WHO_AM_I = _route("who_am_i", "GET /whoami", Verb.READ, "cluster_name", (), m.Empty, m.WhoAmI)
WATCH = _route("watch", "GET /watch", Verb.LIST, "*watch", (), m.WatchRequest, m.WatchLine, stream=Stream.DOWN)
HEARTBEAT = _route("heartbeat", "PUT /presence", Verb.UPDATE, "*presence", (), m.HeartbeatRequest, m.Heard)
WITHDRAW = _route("withdraw", "DELETE /presence/{name}", Verb.UPDATE, "*presence", (), m.Named, m.Done)

# --- certificates
RENEW_HOST = _route(
    "renew_host", "POST /certs/host/renew", Verb.CREATE, "*own_host_cert", ("cert.create",),
    m.RenewHostRequest, m.HostCredentials,
)  # fmt: skip
RENEW_USER = _route(
    "renew_user", "POST /certs/user/renew", Verb.CREATE, "*own_user_cert", ("cert.create",),
    m.RenewUserRequest, m.UserCerts,
)  # fmt: skip
# --- second factors for one session
SESSION_CHALLENGE = _route(
    "session_challenge", "POST /certs/user/session/challenge", Verb.CREATE, "*own_user_cert", (),
    m.SessionChallengeRequest, m.FactorChallenge,
)  # fmt: skip
SESSION_CERT = _route(
    "session_cert", "POST /certs/user/session", Verb.CREATE, "*own_user_cert", ("session.mfa", "cert.create"),
    m.SessionCertRequest, m.UserCerts,
)  # fmt: skip
LEASE_CHALLENGE = _route(
    "lease_challenge", "POST /mfa/leases/challenge", Verb.CREATE, "mfa_lease", (),
    m.LeaseChallengeRequest, m.LeaseChallenge,
)  # fmt: skip
LEASE_APPROVAL = _route(
    "lease_approval", "GET /mfa/leases/approvals/{token}", Verb.READ, "mfa_lease", (),
    m.LeaseApprovalRequest, m.LeaseApproval,
)  # fmt: skip
APPROVE_LEASE = _route(
    "approve_lease", "POST /mfa/leases/approvals/{token}", Verb.CREATE, "mfa_lease",
    ("session.mfa", "mfa_lease.created"), m.ApproveLeaseRequest, m.Lease,
)  # fmt: skip
MFA_LEASE = _route(
    "mfa_lease", "POST /mfa/leases", Verb.CREATE, "mfa_lease", ("session.mfa", "mfa_lease.created"),
    m.LeaseRequest, m.Lease,
)  # fmt: skip

SIGN_USER = _route(
    "sign_user", "POST /certs/user", Verb.CREATE, "user_cert", ("cert.create",), m.SignUserRequest, m.UserCerts
)
SIGN_HOST = _route(
    "sign_host", "POST /certs/host", Verb.CREATE, "host_cert", ("cert.create",), m.SignHostRequest, m.HostCredentials
)

SIGN_SERVER = _route(
    "sign_server", "POST /certs/server", Verb.CREATE, "host_cert", ("auth.sign", "cert.create"),
    m.SignServerRequest, m.ServerCert,
)  # fmt: skip
# --- hosts with a plain sshd, for which proxies speak
REGISTER_OPENSSH = _route(
    "register_openssh", "POST /openssh/hosts", Verb.CREATE, "host_cert", ("node.create", "auth.sign", "cert.create"),
    m.RegisterOpensshRequest, m.OpensshHost,
)  # fmt: skip
OPENSSH_NAME = _route(
    "openssh_name", "POST /openssh/names", Verb.CREATE, "openssh_cert", ("openssh.name_cert",),
    m.OpensshNameRequest, m.OpensshName,
)  # fmt: skip
SIGN_OPENSSH = _route(
    "sign_openssh", "POST /openssh/certs", Verb.CREATE, "openssh_cert", ("openssh.cert",),
    m.SignOpensshRequest, m.OpensshCert,
)  # fmt: skip
# --- rotation of authorities
ROTATE = _route(
    "rotate", "POST /authorities/rotate", Verb.ROTATE, "cert_authority", ("authority.rotate",),
    m.RotateRequest, m.RotateReply,
)  # fmt: skip
ROTATION_PROGRESS = _route(
    "rotation_progress", "GET /authorities/progress", Verb.ROTATE, "cert_authority", (), m.Empty, m.RotationProgress
)
ROTATION_PLAN = _route(
    "rotation_plan", "GET /authorities/plan", Verb.ROTATE, "cert_authority", (), m.RotationPlanRequest, m.RotationPlan
)

# --- live certificates
LIST_CERTS = _route("list_certs", "GET /certs", Verb.LIST, "user", (), m.ListCertsRequest, m.CertsPage)
REVOKE_CERT = _route(
    "revoke_cert", "POST /certs/{serial}/revoke", Verb.CREATE, "lock", ("cert.revoked", "lock.created"),
    m.RevokeCertRequest, m.RevokedCerts,
)  # fmt: skip
REVOCATION_LIST = _route(
    "revocation_list", "GET /certs/revoked", Verb.LIST, "lock", (), m.RevocationListRequest, m.RevocationList
)

# --- what proxies ask for people who hold no certificate yet
LOGIN = _route(
    "login", "POST /login", Verb.CREATE, "web_session", ("user.login", "cert.create"), m.LoginRequest, m.UserCerts
)
LOGIN_CHALLENGE = _route(
    "login_challenge", "POST /login/challenge", Verb.CREATE, "web_session", (),
    m.LoginChallengeRequest, m.FactorChallenge,
)  # fmt: skip
PASSKEY_CHALLENGE = _route(
    "passkey_challenge", "POST /login/passkey", Verb.CREATE, "web_session", (), m.Empty, m.FactorChallenge
)
BEGIN_BROWSER_LOGIN = _route(
    "begin_browser_login", "POST /login/browser", Verb.CREATE, "web_session", (),
    m.BeginBrowserLoginRequest, m.BrowserLogin,
)  # fmt: skip
BROWSER_LOGIN = _route(
    "browser_login", "GET /login/browser/{id}", Verb.CREATE, "web_session", (), m.BrowserLoginRequest, m.BrowserLogin
)
FINISH_BROWSER_LOGIN = _route(
    "finish_browser_login", "POST /login/browser/{id}", Verb.CREATE, "web_session", ("user.login", "cert.create"),
    m.FinishBrowserLoginRequest, m.Done,
)  # fmt: skip
COLLECT_BROWSER_LOGIN = _route(
    "collect_browser_login", "POST /login/browser/{id}/certs", Verb.CREATE, "web_session", (),
    m.BrowserLoginRequest, m.CollectedLogin,
)  # fmt: skip
USER_TOKEN = _route(
    "user_token", "GET /user-tokens/{token}", Verb.READ, "user_token", ("secret.revealed",),
    m.UserTokenRequest, m.UserTokenInfo,
)  # fmt: skip
FINISH_USER_TOKEN = _route(
    "finish_user_token", "PUT /user-tokens/{token}", Verb.UPDATE, "user_token",
    ("user.password_change", "mfa.add", "user.login", "cert.create", "web_session.create"),
    m.FinishUserTokenRequest, m.FinishedUserToken,
)  # fmt: skip

USER_TOKEN_CHALLENGE = _route(
    "user_token_challenge", "POST /user-tokens/{token}/challenge", Verb.UPDATE, "user_token", (),
    m.UserTokenChallengeRequest, m.NewFactor,
)  # fmt: skip

# --- the sessions of browsers: what proxies ask that were shown a cookie
BEGIN_WEB_SESSION = _route(
    "begin_web_session", "POST /web/sessions", Verb.CREATE, "web_session",
    ("user.login", "cert.create", "web_session.create"), m.BeginWebSessionRequest, m.WebSession,
)  # fmt: skip
USE_WEB_SESSION = _route(
    "use_web_session", "POST /web/sessions/use", Verb.UPDATE, "web_session", ("cert.create",),
    m.UseWebSessionRequest, m.WebSession,
)  # fmt: skip
END_WEB_SESSION = _route(
    "end_web_session", "POST /web/sessions/end", Verb.DELETE, "web_session", ("web_session.end",),
    m.EndWebSessionRequest, m.Done,
)  # fmt: skip
#     and what their users ask, for themselves
OWN_WEB_SESSIONS = _route(
    "own_web_sessions", "GET /web/sessions/own", Verb.LIST, "*own_web_session", (), m.Empty, m.OwnWebSessions
)
END_OWN_WEB_SESSIONS = _route(
    "end_own_web_sessions", "POST /web/sessions/own/end", Verb.DELETE, "*own_web_session", ("web_session.end",),
    m.EndOwnWebSessionsRequest, m.EndedWebSessions,
)  # fmt: skip
CHANGE_PASSWORD = _route(
    "change_password", "PUT /password", Verb.UPDATE, "*own_password", ("user.password_change",),
    m.ChangePasswordRequest, m.Done,
)  # fmt: skip
FIND_NODES = _route("find_nodes", "GET /nodes/found", Verb.LIST, "node", (), m.FindNodesRequest, m.FoundNodes)

# --- second factors of the caller's own
FACTOR_CHALLENGE = _route(
    "factor_challenge", "POST /mfa/challenge", Verb.CREATE, "*own_mfa_device", (), m.Empty, m.FactorChallenge
)
OWN_FACTORS = _route("own_factors", "GET /mfa/devices", Verb.LIST, "*own_mfa_device", (), m.Empty, m.FactorDevices)
BEGIN_FACTOR = _route(
    "begin_factor", "POST /mfa/devices/begin", Verb.CREATE, "*own_mfa_device", (), m.BeginFactorRequest, m.NewFactor
)
FINISH_FACTOR = _route(
    "finish_factor", "POST /mfa/devices", Verb.CREATE, "*own_mfa_device", ("mfa.add",), m.NewFactorProof, m.Done
)
REMOVE_FACTOR = _route(
    "remove_factor", "POST /mfa/devices/{name}/remove", Verb.DELETE, "*own_mfa_device", ("mfa.delete",),
    m.RemoveFactorRequest, m.Done,
)  # fmt: skip

# --- users
ADD_USER = _route(
    "add_user", "POST /users", Verb.CREATE, "user", ("user.create", "reset_password_token.create"),
    m.AddUserRequest, m.UserToken,
)  # fmt: skip
UPDATE_USER = _route(
    "update_user", "PUT /users/{name}/roles", Verb.UPDATE, "user", ("user.update",), m.UpdateUserRequest, m.Done
)
RESET_USER = _route(
    "reset_user", "POST /users/{name}/reset", Verb.UPDATE, "user", ("reset_password_token.create",),
    m.ResetUserRequest, m.UserToken,
)  # fmt: skip
UNLOCK_USER = _route(
    "unlock_user", "POST /users/{name}/unlock", Verb.UPDATE, "user", ("user.unlocked",),
    m.UnlockUserRequest, m.UnlockedUser,
)  # fmt: skip

FIND_KUBE_CLUSTERS = _route(
    "find_kube_clusters", "GET /kube_clusters/found", Verb.LIST, "kube_service", (),
    m.FindKubeClustersRequest, m.FoundKubeClusters,
)  # fmt: skip
FIND_USERS = _route("find_users", "GET /users/found", Verb.LIST, "user", (), m.FindUsersRequest, m.FoundUsers)

# --- decisions
EXPLAIN_ACCESS = _route(
    "explain_access", "GET /access/explain", Verb.READ_NO_SECRETS, "user", (), m.ExplainRequest, m.Explanation
)
DIFF_ACCESS = _route("diff_access", "POST /access/diff", Verb.READ, "role", (), m.AccessDiffRequest, m.AccessDiff)

# --- join tokens
ADD_TOKEN = _route("add_token", "POST /tokens", Verb.CREATE, "token", ("token.create",), m.AddTokenRequest, m.JoinToken)

# --- resources: one set of routes for each kind, so that each has its declaration
#     kind: (event when listed or read with secrets, event when written, event when removed)
RESOURCE_EVENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "user": (("secret.revealed",), ("user.create", "user.update"), ("user.delete",)),
    "role": ((), ("role.created",), ("role.deleted",)),
    "token": ((), ("token.create",), ("token.delete",)),
    "node": ((), ("node.create",), ("node.delete",)),
    "cert_authority": (("secret.revealed",), ("authority.create",), ("authority.delete",)),
    "lock": ((), ("lock.created",), ("lock.deleted",)),
    "mfa_lease": ((), (), ("mfa_lease.deleted",)),  # made by a code at a proxy, never by hand
    "trusted_cluster": (
        (),
        ("trusted_cluster.create", "trusted_cluster.update"),
        ("trusted_cluster.delete",),
    ),
    "remote_cluster": ((), ("remote_cluster.update",), ("remote_cluster.delete",)),
    # nobody makes these by hand: writing one is always refused
    "proxy": ((), (), ("proxy.delete",)),
    "auth_server": ((), (), ("auth_server.delete",)),
    "kube_service": ((), (), ("kube_service.delete",)),
    # the settings of the cluster: removing one brings the defaults back
    "cluster_auth_preference": ((), ("auth_preference.update",), ("auth_preference.update",)),
    "cluster_networking_config": ((), ("cluster_networking_config.update",), ("cluster_networking_config.update",)),
    "session_recording_config": ((), ("session_recording_config.update",), ("session_recording_config.update",)),
}
LIST: dict[str, Route[m.ListRequest, m.Page]] = {}
GET: dict[str, Route[m.GetRequest, m.One]] = {}
STORE: dict[str, Route[m.StoreRequest, m.Done]] = {}
REMOVE: dict[str, Route[m.ExpelRequest, m.Done]] = {}
for _kind, (_read, _written, _removed) in RESOURCE_EVENTS.items():
    LIST[_kind] = _route(f"list_{_kind}", f"GET /resources/{_kind}", Verb.LIST, _kind, _read, m.ListRequest, m.Page)
    GET[_kind] = _route(
        f"get_{_kind}", f"GET /resources/{_kind}/{{name}}", Verb.READ_NO_SECRETS, _kind, _read, m.GetRequest, m.One
    )
    STORE[_kind] = _route(
        f"store_{_kind}", f"POST /resources/{_kind}", Verb.CREATE, _kind, _written, m.StoreRequest, m.Done
    )
    REMOVE[_kind] = _route(
        f"remove_{_kind}", f"DELETE /resources/{_kind}/{{name}}", Verb.DELETE, _kind, _removed, m.ExpelRequest, m.Done
    )
CHECK_REMOVAL = _route("check_removal", "POST /removals/check", Verb.DELETE, "user", (), m.CheckRemovalRequest, m.Done)
# what the configuration file alone decides is only read
for _kind in ("cluster_audit_config",):
    LIST[_kind] = _route(f"list_{_kind}", f"GET /resources/{_kind}", Verb.LIST, _kind, (), m.ListRequest, m.Page)
    GET[_kind] = _route(
        f"get_{_kind}", f"GET /resources/{_kind}/{{name}}", Verb.READ_NO_SECRETS, _kind, (), m.GetRequest, m.One
    )

# --- audit and recordings
INTAKE = _route("intake", "POST /audit/intake", Verb.CREATE, "event", (), m.IntakeRequest, m.IntakeReply)
SEARCH_EVENTS = _route(
    "search_events", "GET /audit/events", Verb.LIST, "event", (), m.SearchEventsRequest, m.EventsPage
)
TAIL_EVENTS = _route("tail_events", "POST /audit/tail", Verb.LIST, "event", (), m.TailEventsRequest, m.TailedEvents)
COUNT_EVENTS = _route("count_events", "GET /audit/counts", Verb.LIST, "event", (), m.CountEventsRequest, m.EventCounts)
VERIFY_EVENTS = _route("verify_events", "POST /audit/verify", Verb.READ, "event", (), m.Empty, m.VerifyReply)
LIST_RECORDINGS = _route(
    "list_recordings", "GET /recordings", Verb.LIST, "session", (), m.ListRecordingsRequest, m.RecordingsPage
)
READ_RECORDING = _route(
    "read_recording", "GET /recordings/{sid}", Verb.READ, "session", ("session_recording.access",),
    m.RecordingRequest, m.Done, stream=Stream.DOWN,
)  # fmt: skip
RECORDING_OFFSET = _route(
    "recording_offset", "GET /recordings/{sid}/offset", Verb.CREATE, "ssh_session", (),
    m.RecordingRequest, m.RecordingOffset,
)  # fmt: skip
APPEND_RECORDING = _route(
    "append_recording", "PUT /recordings/{sid}", Verb.CREATE, "ssh_session", (),
    m.AppendRecordingRequest, m.RecordingOffset, stream=Stream.UP,
)  # fmt: skip
COMPLETE_RECORDING = _route(
    "complete_recording", "POST /recordings/{sid}/complete", Verb.CREATE, "ssh_session",
    ("session.upload", "session.conflict"), m.CompleteRecordingRequest, m.RecordingOffset,
)  # fmt: skip

# --- sessions that run
TRACK_SESSIONS = _route(
    "track_sessions",
    "PUT /sessions",
    Verb.UPDATE,
    "session_tracker",
    ("session.conflict",),
    m.TrackSessionsRequest,
    m.Done,
)
RUNNING_SESSIONS = _route("running_sessions", "GET /sessions", Verb.LIST, "session", (), m.Empty, m.RunningSessions)

# --- other clusters, as proxies see them
SEEN_CLUSTERS = _route(
    "seen_clusters", "PUT /clusters/seen", Verb.UPDATE, "tunnel_connection", (), m.SeenClustersRequest, m.Done
)

# --- hosts whose tunnels ended, as proxies see them
LOST_TUNNELS = _route(
    "lost_tunnels", "PUT /tunnels/lost", Verb.UPDATE, "tunnel_connection", (), m.LostTunnelsRequest, m.Done
)

# --- certificates that proxies get by ACME
WEB_CERT_TURN = _route(
    "web_cert_turn", "POST /webcerts/turn", Verb.CREATE, "web_certificate", ("acme.order",),
    m.WebCertTurnRequest, m.WebCertTurn,
)  # fmt: skip
WEB_CERT_ACCOUNT = _route(
    "web_cert_account", "PUT /webcerts/account", Verb.UPDATE, "web_certificate", ("acme_account.create",),
    m.WebCertAccountRequest, m.Done,
)  # fmt: skip
WEB_CERT_CHALLENGE = _route(
    "web_cert_challenge", "PUT /webcerts/challenge", Verb.UPDATE, "web_certificate", (),
    m.WebCertChallengeRequest, m.Done,
)  # fmt: skip
WEB_CERT_STORE = _route(
    "web_cert_store", "PUT /webcerts", Verb.UPDATE, "web_certificate", ("web_certificate.update",),
    m.WebCertStoreRequest, m.Done,
)  # fmt: skip
WEB_CERT_FAILED = _route(
    "web_cert_failed", "PUT /webcerts/failed", Verb.UPDATE, "web_certificate", ("web_certificate.failed",),
    m.WebCertFailedRequest, m.Done,
)  # fmt: skip
WEB_CERT_READ = _route(
    "web_cert_read", "POST /webcerts/read", Verb.READ, "web_certificate", ("web_certificate.read",),
    m.WebCertNamed, m.WebCertPair,
)  # fmt: skip

# --- connections that are counted
HOLD_CONNECTION = _route(
    "hold_connection", "POST /connections", Verb.CREATE, "semaphore", (), m.HoldConnectionRequest, m.ConnectionHeld
)
RENEW_CONNECTIONS = _route(
    "renew_connections", "PUT /connections", Verb.UPDATE, "semaphore", (),
    m.RenewConnectionsRequest, m.RenewedConnections,
)  # fmt: skip
RELEASE_CONNECTIONS = _route(
    "release_connections", "POST /connections/release", Verb.DELETE, "semaphore", (),
    m.ReleaseConnectionsRequest, m.Done,
)  # fmt: skip

SEARCH_RECORDINGS = _route(
    "search_recordings", "POST /recordings/search", Verb.READ, "session", ("session_recording.search",),
    m.SearchRecordingsRequest, m.RecordingMatches,
)  # fmt: skip
VERIFY_RECORDINGS = _route(
    "verify_recordings", "POST /recordings/verify", Verb.READ, "session", (),
    m.VerifyRecordingsRequest, m.RecordingVerdicts,
)  # fmt: skip

# --- backups
CREATE_BACKUP = _route(
    "create_backup",
    "GET /backup",
    Verb.READ,
    "*backup",
    ("backup.create",),
    m.BackupRequest,
    m.Done,
    stream=Stream.DOWN,
)

# --- legal hold: of the administrator on an auth host alone
ADD_HOLD = _route(
    "add_hold", "POST /audit/holds", Verb.CREATE, "*hold", ("hold.created",), m.AddHoldRequest, m.HoldInfo
)
LIST_HOLDS = _route("list_holds", "GET /audit/holds", Verb.LIST, "*hold", (), m.Empty, m.HoldList)
REMOVE_HOLD = _route(
    "remove_hold", "DELETE /audit/holds/{id}", Verb.DELETE, "*hold", ("hold.deleted",), m.RemoveHoldRequest, m.Done
)

ROUTES: dict[str, Route[Any, Any]] = dict(_table)
