"""The messages of the auth API, as typed structs.

Rules: fields are only ever appended, with defaults (formats grow); unknown fields of a request are refused, so that
nobody sets what a route does not mean to take; durations are seconds, times RFC 3339, keys and certificates text.
A resource travels as the JSON document that the store holds (`Document`), without secrets unless asked for.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

Document = msgspec.Raw  # a resource in its stored JSON form


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What auth answers. Readers accept fields they do not know, so that newer servers may say more."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of auth. Unknown fields are refused."""


class Empty(Request, frozen=True, kw_only=True):
    """A request that says nothing more than its route."""


class Done(Message, frozen=True, kw_only=True):
    """It was done."""


class Named(Request, frozen=True, kw_only=True):
    """One thing of the route's kind."""

    name: str


# --- the cluster


class ClusterCA(Message, frozen=True, kw_only=True):
    """The public half of the host authority: what a joiner compares with its pin."""

    cluster: str
    tls_certs: list[str]  # PEM
    now: datetime | None = None  # auth's clock, which a joiner compares with its own; older servers leave it out


class AuthorityStatus(Message, frozen=True, kw_only=True):
    kind: str
    rotation: str
    keys: int


class ClusterStatus(Message, frozen=True, kw_only=True):
    cluster: str
    version: str
    authorities: list[AuthorityStatus]
    ca_pins: list[str]
    now: datetime


class WhoAmI(Message, frozen=True, kw_only=True):
    """How auth reads the caller's certificate."""

    kind: str  # user, host, anonymous
    name: str
    roles: list[str]
    cluster: str
    client_addr: str


class HostSigner(Message, frozen=True, kw_only=True):
    """A cluster whose hosts a client may trust (`protocols.md` 2.2)."""

    domain_name: str
    checking_keys: list[str]  # OpenSSH public key lines
    tls_certs: list[str]  # PEM


class ProxyAddresses(Message, frozen=True, kw_only=True):
    """Where the proxies of this cluster are reached, as they announce it."""

    web: str
    ssh: str
    tunnel: str = ""


# --- joining and certificates


class JoinRequest(Request, frozen=True, kw_only=True):
    """`certificates.md` 6. Only ever sent inside TLS to an auth server that proved the pinned authority."""

    token: str
    host_id: str
    node_name: str
    role: str
    public_ssh_key: str
    public_tls_key: str  # PEM
    additional_principals: list[str] = []
    dns_names: list[str] = []
    version: str = ""


class HostCredentials(Message, frozen=True, kw_only=True):
    """Certificates for one system role of one host."""

    cluster: str
    ssh_cert: str
    tls_cert: str
    tls_ca_certs: list[str]
    ssh_ca_keys: list[str]
    expires: datetime
    token_labels: dict[str, str] = {}


class RenewHostRequest(Request, frozen=True, kw_only=True):
    """A host asks for fresh certificates with the identity it has. The role and UUID come from its certificate."""

    public_ssh_key: str
    public_tls_key: str
    node_name: str
    additional_principals: list[str] = []
    dns_names: list[str] = []


class SignUserRequest(Request, frozen=True, kw_only=True):
    """An administrator signs for a user (`tctl auth sign --user`)."""

    name: str
    public_key: str
    ttl: float
    format: str = "file"
    compatibility: str = "standard"
    route_to_cluster: str = ""


class SignHostRequest(Request, frozen=True, kw_only=True):
    """An administrator signs a host certificate for a plain sshd (`tctl auth sign --host`)."""

    principals: list[str]
    public_key: str
    ttl: float = 0


class UserCerts(Message, frozen=True, kw_only=True):
    """What a login gives (`protocols.md` 2.2)."""

    username: str
    cert: str
    tls_cert: str
    host_signers: list[HostSigner]
    expires: datetime
    roles: list[str] = []
    logins: list[str] = []


class LoginRequest(Request, frozen=True, kw_only=True):
    """A proxy passes on what a person proved. `client_addr` is the person's, as the proxy saw it."""

    user: str
    password: str
    otp_token: str
    public_key: str
    ttl: float
    client_addr: str
    compatibility: str = "standard"
    route_to_cluster: str = ""


# --- users


class AddUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]
    traits: dict[str, list[str]] = {}
    ttl: float = 3600


class UpdateUserRequest(Request, frozen=True, kw_only=True):
    name: str
    roles: list[str]


class ResetUserRequest(Request, frozen=True, kw_only=True):
    name: str
    ttl: float = 8 * 3600


class UnlockUserRequest(Request, frozen=True, kw_only=True):
    name: str


class UnlockedUser(Message, frozen=True, kw_only=True):
    was_locked: bool


class UserToken(Message, frozen=True, kw_only=True):
    """An invitation or a reset: the secret of its link is shown once, here."""

    token: str
    user: str
    url: str
    expires: datetime


class UserTokenRequest(Request, frozen=True, kw_only=True):
    token: str


class UserTokenInfo(Message, frozen=True, kw_only=True):
    """What the page behind the link shows."""

    user: str
    kind: str  # invite, reset
    cluster: str
    expires: datetime
    second_factor: str  # off, otp
    totp_secret: str = ""
    totp_url: str = ""


class FinishUserTokenRequest(Request, frozen=True, kw_only=True):
    token: str
    password: str
    otp_token: str = ""
    client_addr: str = ""


# --- join tokens


class AddTokenRequest(Request, frozen=True, kw_only=True):
    roles: list[str]
    ttl: float = 3600
    value: str = ""
    labels: dict[str, str] = {}
    single_use: bool = False


class JoinToken(Message, frozen=True, kw_only=True):
    """A join token just made: the only time that its secret is shown."""

    token: str
    id: str
    roles: list[str]
    expires: datetime
    ca_pins: list[str]
    auth_servers: list[str]
    labels: dict[str, str] = {}
    single_use: bool = False


class JoinTokenInfo(Message, frozen=True, kw_only=True):
    """A join token as it is listed: by its public id."""

    id: str
    roles: list[str]
    expires: datetime | None
    static: bool = False
    labels: dict[str, str] = {}


# --- resources


class ListRequest(Request, frozen=True, kw_only=True):
    """A page of a kind, ordered by name."""

    start_key: str = ""
    limit: int = 1000
    with_secrets: bool = False


class GetRequest(Request, frozen=True, kw_only=True):
    name: str
    with_secrets: bool = False


class Page(Message, frozen=True, kw_only=True):
    items: list[Document]
    next_key: str = ""
    logins: list[list[str]] = []  # of nodes, for a user: the logins that it may use on each, in the order of `items`


class ExplainRequest(Request, frozen=True, kw_only=True):
    """Whether a user may log in as `login` on `host`: a UUID, a name, `name.cluster` or an address."""

    user: str
    login: str
    host: str
    cluster: str = ""  # of the certificate; empty: this one


class ExplainReason(Message, frozen=True, kw_only=True):
    """One thing that refuses the session; codes as in denials on record, and `ambiguous`."""

    code: str
    reason: str


class ExplainPart(Message, frozen=True, kw_only=True):
    """One term of a permit, and the roles (or settings) that it comes from."""

    name: str
    value: str
    sources: list[str]


class Explanation(Message, frozen=True, kw_only=True):
    """A permit with its parts, or everything that refuses it."""

    allowed: bool
    user: str
    login: str
    host: str  # as asked
    node_id: str = ""
    hostname: str = ""
    roles: list[str] = []  # those that let the user in
    parts: list[ExplainPart] = []
    reasons: list[ExplainReason] = []
    told: str = ""  # what the user reads
    hint: str = ""


class One(Message, frozen=True, kw_only=True):
    item: Document


class StoreRequest(Request, frozen=True, kw_only=True):
    """Writes a resource; an existing one only with `force`."""

    item: Document
    force: bool = False


class ExpelRequest(Request, frozen=True, kw_only=True):
    """Removes a node; its certificates are refused until it joins anew unless `keep_identity`."""

    name: str
    keep_identity: bool = False


class HeartbeatRequest(Request, frozen=True, kw_only=True):
    """A service announces itself. The host must be the caller."""

    item: Document


class WatchRequest(Request, frozen=True, kw_only=True):
    """Everything of some kinds, then every change, one JSON value a line (`WatchLine`)."""

    kinds: list[str]
    start: int = 0


class WatchLine(Message, frozen=True, kw_only=True):
    """A line of a watch: first one snapshot, then changes; an empty change is a sign of life."""

    revision: int
    snapshot: bool = False
    put: list[WatchItem] = []
    deleted: list[str] = []


class WatchItem(Message, frozen=True, kw_only=True):
    key: str
    value: Document
    revision: int
    expires: datetime | None = None


# --- audit and recordings


class IntakeReply(Message, frozen=True, kw_only=True):
    """How far auth holds the chain of an emitter's epoch: the next sequence number that it wants."""

    next_seq: int
    head: str = ""
    checkpoint: str = ""  # auth's last one, number:hash


class IntakeRequest(Request, frozen=True, kw_only=True):
    """A run of chained event lines of one emitter, in order."""

    emitter: str
    epoch: int
    lines: list[str]


class SearchEventsRequest(Request, frozen=True, kw_only=True):
    start: datetime | None = None
    end: datetime | None = None
    types: list[str] = []
    user: str = ""
    host: str = ""
    login: str = ""
    sid: str = ""
    limit: int = 500
    start_key: str = ""
    oldest_first: bool = False


class EventsPage(Message, frozen=True, kw_only=True):
    """Event lines as they are stored, so that they can be verified."""

    lines: list[str]
    next_key: str = ""


class VerifyReply(Message, frozen=True, kw_only=True):
    """What the verifier found over auth's own store."""

    ok: bool
    events: int
    emitters: int
    checkpoints: int
    recordings: int
    problems: list[str] = []  # each names its place, in order of the log
    checkpoint_key: str = ""  # the public key that checkpoints are signed with, PEM


class RecordingRequest(Request, frozen=True, kw_only=True):
    sid: str


class RecordingOffset(Message, frozen=True, kw_only=True):
    """How many bytes of a recording auth holds."""

    offset: int
    complete: str = ""  # hex hash of the stored recording; empty while it is not complete


class AppendRecordingRequest(Request, frozen=True, kw_only=True):
    sid: str
    offset: int


class CompleteRecordingRequest(Request, frozen=True, kw_only=True):
    sid: str
    sha256: str  # hex of the recording's last hash


class RecordingInfo(Message, frozen=True, kw_only=True):
    sid: str
    started: datetime
    user: str
    login: str
    node: str
    hostname: str
    interactive: bool
    command: str
    size: int


class ListRecordingsRequest(Request, frozen=True, kw_only=True):
    """Recordings by id, after `start_key`."""

    start_key: str = ""
    limit: int = 100


class RecordingsPage(Message, frozen=True, kw_only=True):
    items: list[RecordingInfo]
    next_key: str = ""


class ErrorReply(Message, frozen=True, kw_only=True):
    """How auth refuses: the kind of `errors.py`, its sentence and the next command."""

    code: str
    message: str
    hint: str = ""
