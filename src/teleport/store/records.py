"""What auth keeps that is no resource: secrets of users, links, which certificates of a host count.

Stored as JSON with msgspec; fields are only appended, with defaults. Key layout: docs/architecture.md.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import force_setattr

from teleport.api.messages.certificates import UserCerts
from teleport.api.messages.sessions import TrackedSession

USERS = "users/"
USER_SECRETS = "users-secret/"
ROLES = "roles/"
TOKENS = "tokens/"
NODES = "nodes/"
PROXIES = "proxies/"
AUTH_SERVERS = "auth_servers/"
KUBE_SERVICES = "kube_services/"
AUTHORITIES = "authorities/"
LOCKS = "locks/"
MFA_LEASES = "mfa_leases/"
TRUSTED_CLUSTERS = "trusted_clusters/"
REMOTE_CLUSTERS = "remote_clusters/"
CLUSTER_LINKS = "auth/cluster-links/"  # <cluster>: how the exchange of authorities with it stands
CONNECTION_PLACES = "semaphores/connection/"  # <user>: places among the user's connections
SESSION_TRACKERS = "session_trackers/"  # <host>/<epoch>: what a process of a node tells of its sessions
CLUSTER = "cluster/"
USER_TOKENS = "user-tokens/"
HOSTS = "hosts/"
GIVEN_ROLES = "auth/given-roles"  # written whenever a user is given roles
NOBODY = "auth/nobody"  # written where a user would be, so that an unknown one costs the same
LEASE_APPROVALS = "auth/lease-approvals/"
BROWSER_LOGINS = "auth/browser-logins/"
FACTOR_CHALLENGES = "auth/factor-challenges/"
AGENTLESS_NAMES = "auth/agentless-names/"  # keys with which proxies show the name of a registered host
AGENTLESS_PROOFS = "auth/agentless-proofs/"  # connections for which a certificate was signed
KEY_DOMAIN = "auth/key-domain"  # the domain of the first security key, when no setting named one
WEB_CERTIFICATES = "web_certificates/"  # what proxies hear of certificates by ACME (`m.WebCertState`)
ACME_ACCOUNTS = "auth/acme-accounts/"
ACME_TURNS = "auth/acme-turns/"  # which proxy orders
ACME_PAIRS = "auth/acme-pairs/"  # private keys of proxies, with their chains
WEB_SESSIONS = "web_sessions/"  # <id>: that there is such a session of a browser; proxies watch it
WEB_SESSION_SECRETS = "auth/web-sessions/"  # <id>: what takes it up, and its sealed key
PASSKEY_USERS = "auth/passkey-users/"  # <hash of a user handle>: whose passkeys know it
PASSKEY_KEY = "auth/passkey-key"  # by which auth knows challenges to passkeys as its own
PASSKEYS_ASKED = "auth/passkeys-asked/"  # challenges to passkeys that were answered, until they are too old
INVENTED_CREDENTIALS = "auth/invented-credentials"  # the key by which users without hardware keys seem to have some

PREFIX_OF_KIND = {
    "user": USERS,
    "role": ROLES,
    "token": TOKENS,
    "node": NODES,
    "proxy": PROXIES,
    "auth_server": AUTH_SERVERS,
    "kube_service": KUBE_SERVICES,
    "cert_authority": AUTHORITIES,
    "lock": LOCKS,
    "mfa_lease": MFA_LEASES,
    "trusted_cluster": TRUSTED_CLUSTERS,
    "remote_cluster": REMOTE_CLUSTERS,
    "host_cert": HOSTS,
    "web_certificate": WEB_CERTIFICATES,
    "cluster_name": CLUSTER,
    "cluster_auth_preference": CLUSTER,
    "cluster_networking_config": CLUSTER,
    "session_recording_config": CLUSTER,
    "cluster_audit_config": CLUSTER,
    "web_session": WEB_SESSIONS,
}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A stored value. Reprs never show one: several hold secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


class TrackerRecord(Record, frozen=True, kw_only=True):
    """What one process of a node told of its sessions; it lapses unless it is told again."""

    host_id: str
    sessions: list[TrackedSession] = []


class HeldPlace(Record, frozen=True, kw_only=True):
    """A counted connection."""

    id: str
    host_id: str
    expires: datetime


class HeldPlaces(Record, frozen=True, kw_only=True):
    """The counted connections of one user."""

    places: list[HeldPlace] = []


class FactorDevice(Record, frozen=True, kw_only=True):
    """A second factor of a user: an authenticator program or a hardware key."""

    id: str  # UUID
    name: str
    kind: str  # totp, webauthn
    added: datetime | None = None
    last_used: datetime | None = None
    totp_secret: str = ""
    totp_last_period: int = 0  # of the last code that was taken
    credential_id: str = ""  # base64url, as all of WebAuthn here
    public_key: str = ""  # a COSE key (RFC 9052 section 7) in CBOR
    sign_count: int = 0
    rp_id: str = ""
    aaguid: str = ""
    passwordless: bool = False  # a passkey: it checks its owner by itself, and is asked without a name


class LoginPlace(Record, frozen=True, kw_only=True):
    """An address from which a user has logged in, and failures from there since (`auth.lockout`)."""

    place: str
    last: datetime
    failures: list[datetime] = []
    locked_until: datetime | None = None

    def locked(self, now: datetime) -> bool:
        return self.locked_until is not None and now < self.locked_until


class UserSecret(Record, frozen=True, kw_only=True):
    """What proves a local user, and how often somebody failed to.

    The authenticator program that records of before had in fields of its own is read as a device called `otp`.
    """

    password_hash: str = ""
    totp_secret: str = ""  # of before there were devices
    totp_last_period: int = 0  # likewise
    failures: list[datetime] = []
    locked_until: datetime | None = None
    devices: Sequence[FactorDevice] = ()
    user_handle: str = ""  # by which hardware keys know the user, base64url
    places: list[LoginPlace] = []

    def __post_init__(self) -> None:
        if self.totp_secret:
            device = FactorDevice(
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"totp:{self.totp_secret}")),
                name="otp",
                kind="totp",
                totp_secret=self.totp_secret,
                totp_last_period=self.totp_last_period,
            )
            force_setattr(self, "devices", [device, *self.devices])
            force_setattr(self, "totp_secret", "")
            force_setattr(self, "totp_last_period", 0)

    def locked(self, now: datetime) -> bool:
        return self.locked_until is not None and now < self.locked_until


class FactorChallengeRecord(Record, frozen=True, kw_only=True):
    """A question to a user's devices, or a device about to be registered; kept under the hash of its id."""

    user: str
    purpose: str
    expires: datetime
    challenge: str = ""  # base64url
    rp_id: str = ""
    totp_secret: str = ""
    user_handle: str = ""
    device_name: str = ""
    proved_by: str = ""  # what a registration rests on: id of a device, or hash of what proves the password
    passwordless: bool = False  # of a passkey about to be registered


class PasskeyUser(Record, frozen=True, kw_only=True):
    """Whose user handle it is. It counts as long as that user's own record says the same."""

    user: str


class PasskeyKey(Record, frozen=True, kw_only=True):
    """The key of the tags in challenges to passkeys."""

    key: str  # hex


class PasskeyAsked(Record, frozen=True, kw_only=True):
    """A challenge to passkeys that was answered, rightly or not."""

    expires: datetime


class LeaseApprovalRecord(Record, frozen=True, kw_only=True):
    """A link by which a hardware key approves a lease; kept under the hash of its secret."""

    certificate: str  # that was proved to the proxy, an OpenSSH line
    client_addr: str
    challenge_id: str
    challenge: str  # what the hardware key is asked, JSON
    expires: datetime


class BrowserLoginRecord(Record, frozen=True, kw_only=True):
    """A login that tsh has begun and a browser answers; kept under the hash of its id."""

    public_key: str
    ttl: float
    client_addr: str
    code: str
    expires: datetime
    route_to_cluster: str = ""
    tries: int = 0  # wrong codes
    certs: UserCerts | None = None  # once it was answered


class WebSessionMark(Record, frozen=True, kw_only=True):
    """That a browser's session goes on: nothing of it is secret."""

    user: str
    expires: datetime


class WebSessionRecord(Record, frozen=True, kw_only=True):
    """A browser's session (`pki.web_secret`). What is here takes nothing up and opens nothing."""

    user: str
    proof_hash: str  # SHA-256 of the proof, hex
    public_key: str  # OpenSSH line
    sealed_key: str
    created: datetime
    expires: datetime
    used: datetime
    serial: str  # of the certificate that was made last
    roles: list[str] = []
    source_ip: str = ""
    factor: str = ""
    addr: str = ""
    user_agent: str = ""


class ClusterLink(Record, frozen=True, kw_only=True):
    """How the exchange of authorities with another cluster stands. Nobody watches it: it is written every minute."""

    taken: int = 0  # when the last statement that was believed was issued, in milliseconds, by the other's clock
    sent: int = 0  # when the last one of ours was, by ours
    holds: list[str] = []  # fingerprints of our authorities' SSH keys that the other cluster says it believes
    exchanged: datetime | None = None
    problem: str = ""  # why the last try failed
    heard: datetime | None = None  # when a proxy last held a tunnel of that cluster
    turning: bool = False  # a rotation is under way there
    changes: float = 0.0  # of its keys that count against it, at `changed`; they are forgiven with time
    changed: datetime | None = None


class InventedCredentials(Record, frozen=True, kw_only=True):
    """The secret from which the credentials of users who have none are made, hex."""

    key: str


class KeyDomain(Record, frozen=True, kw_only=True):
    """The domain to which security keys are bound."""

    rp_id: str


class UserTokenRecord(Record, frozen=True, kw_only=True):
    """An invitation or reset link; kept under the hash of its secret."""

    user: str
    kind: str  # invite, reset
    totp_secret: str
    created: datetime
    expires: datetime
    failures: int = 0


class HostRecord(Record, frozen=True, kw_only=True):
    """A host that joined, and as what. Certificates issued before `valid_from` are refused, and those for a role before
    its time in `role_valid_from`: that is what expelling a host and joining anew do."""

    host_id: str
    node_name: str = ""
    roles: list[str] = []
    joined: datetime | None = None
    valid_from: datetime | None = None
    expelled: bool = False
    labels: dict[str, str] = {}  # of its token, in records from before `role_labels`
    role_valid_from: dict[str, datetime] = {}
    role_labels: dict[str, dict[str, str]] = {}  # that the token with which it joined as that role forces on it
    role_request: dict[str, str] = {}  # SHA-256 of the request with which it joined as that role: it may be repeated


class AcmeAccount(Record, frozen=True, kw_only=True):
    """The account of this cluster at a directory."""

    key: str  # PEM
    url: str = ""  # once the directory has made it


class AcmeTurn(Record, frozen=True, kw_only=True):
    """Which proxy orders a certificate of a name; it lapses."""

    host_id: str
    until: datetime


class AcmePair(Record, frozen=True, kw_only=True):
    """What was issued, PEM."""

    chain: str
    key: str


def acme_key(prefix: str, directory: str, name: str = "") -> str:
    """Where something of a directory, or of one name there, is kept; directories are URLs."""
    return prefix + hashlib.sha256(directory.encode()).hexdigest()[:16] + (f"/{name}" if name else "")


def secret_key(prefix: str, secret: str) -> str:
    """Where a record is kept that only the holder of `secret` may find."""
    return prefix + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def authority_key(kind: str, cluster: str) -> str:
    return f"{AUTHORITIES}{kind}/{cluster}"
