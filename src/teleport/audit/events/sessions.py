"""Events of SSH sessions and what runs in them (`reference/audit-events.md` 3, rows 2xxx and 3xxx)."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType, field
from msgspec.structs import force_setattr

from teleport.audit.codes import SCP_DOWNLOAD
from teleport.audit.events.base import ServerEvent

UPLOAD_INDEX = 2147483647  # `ei` of session.upload
DATA_INDEX = 2147483646  # `ei` of session.data


class PodEvent(ServerEvent, frozen=True, kw_only=True):
    """Something in a session, which may be one in a pod of a Kubernetes cluster: only then these fields are there.

    `server_id` is the daemon that led there and recorded it, `login` the user that the cluster was told.
    """

    kubernetes_cluster: str | UnsetType = UNSET  # name of the Kubernetes cluster
    kubernetes_users: list[str] | UnsetType = UNSET  # user that the cluster was told
    kubernetes_groups: list[str] | UnsetType = UNSET  # groups that the cluster was told; not known of lost sessions
    kubernetes_pod_name: str | UnsetType = UNSET  # the pod's name
    kubernetes_pod_namespace: str | UnsetType = UNSET  # its namespace in the Kubernetes cluster
    kubernetes_container_name: str | UnsetType = UNSET  # container as it was asked for, empty: the pod's first


class SessionStart(PodEvent, frozen=True, kw_only=True, tag="session.start"):
    """A shell or a command begins."""

    size: str = ""  # terminal's size W:H, empty without a terminal
    initial_command: list[str] = field(default_factory=list)  # command, empty for a shell
    session_recording: str = ""  # recording mode
    interactive: bool = False  # whether it has a terminal
    cert_serial: str = ""  # serial number of the certificate that was shown
    with_mfa: str | UnsetType = UNSET  # UUID of the second factor that was proved for it; absent when none was
    mfa_lease: str | UnsetType = UNSET  # name of the lease that stood for the second factor; absent when none did


class SessionRejected(ServerEvent, frozen=True, kw_only=True, tag="session.rejected"):
    """A limit was hit."""

    reason: str = ""  # which limit: max_connections or max_sessions
    max: int = 0  # the limit


class SessionJoin(PodEvent, frozen=True, kw_only=True, tag="session.join"):
    """Somebody joins a running session."""

    mode: str = ""  # observer, peer or moderator
    granted_by: str = ""  # role that allows it, empty in a session of one's own


class SessionLeave(PodEvent, frozen=True, kw_only=True, tag="session.leave"):
    """A party left a session that goes on."""

    mode: str = ""  # observer, peer or moderator


class SessionHeld(ServerEvent, frozen=True, kw_only=True, tag="session.held"):
    """A session stands still, or goes on again: people who have to be in it are missing, or have come."""

    held: bool = False  # whether it stands still from here on
    started: bool = False  # whether its program had been started
    missing: list[str] = field(default_factory=list)  # what roles ask for and is missing


class Resize(PodEvent, frozen=True, kw_only=True, tag="resize"):
    """The terminal changed its size."""

    size: str = ""  # W:H


class SessionEnd(PodEvent, frozen=True, kw_only=True, tag="session.end"):
    """A session ended. Unique by session and host: a later one, as after auth wrote `node lost`, is a supplement."""

    enhanced_recording: bool = False  # whether the kernel's view was recorded too
    interactive: bool = False  # whether it had a terminal
    participants: list[str] = field(default_factory=list)  # users that took part
    session_start: datetime | UnsetType = UNSET  # when it began
    session_stop: datetime | UnsetType = UNSET  # when it ended
    session_recording: str = ""  # recording mode
    initial_command: list[str] = field(default_factory=list)  # command, empty for a shell
    reason: str = ""  # why it ended when not by itself, such as: node lost
    recording_hash: str = ""  # last hash of the recording, hex; empty when there is none
    supplement: bool | UnsetType = UNSET  # true, after `hash`: auth had an end of this session on this host before


class SessionConflict(ServerEvent, frozen=True, kw_only=True, tag="session.conflict"):
    """A host, `server_id`, tells of a session that others claim too. What each tells is kept beside the others'."""

    claim: str = ""  # what it told: session.start, session.end, recording or running
    told_by: str = ""  # UUID of the host that told it: the server itself, or a proxy
    others: list[str] = field(default_factory=list)  # UUIDs of the hosts that had claimed this session before
    others_left_out: int = 0  # of more than a hundred such hosts, how many `others` does not name


class SessionUpload(PodEvent, frozen=True, kw_only=True, tag="session.upload"):
    """Auth holds the whole recording."""

    ei: int = UPLOAD_INDEX  # always 2147483647
    url: str = ""  # where it is stored
    size: int = 0  # bytes
    recording_hash: str = ""  # last hash of the recording, hex


class SessionData(PodEvent, frozen=True, kw_only=True, tag="session.data"):
    """A connection ended; how much went over it."""

    ei: int = DATA_INDEX  # always 2147483646
    tx: int = 0  # bytes sent to the client
    rx: int = 0  # bytes received from the client


class Exec(PodEvent, frozen=True, kw_only=True, tag="exec"):
    """A command was run."""

    command: str = ""  # as asked for
    exit_code: str = field(default="", name="exitCode")  # exit status as text, empty when it did not start
    exit_error: str = field(default="", name="exitError")  # why it failed: signal or refusal

    def failed(self) -> bool:
        return bool(self.exit_error) or self.exit_code not in ("", "0")


class Subsystem(ServerEvent, frozen=True, kw_only=True, tag="subsystem"):
    """A subsystem was asked for."""

    name: str = ""  # subsystem's name
    exit_error: str = field(default="", name="exitError")  # why it failed

    def failed(self) -> bool:
        return bool(self.exit_error)


class Sftp(ServerEvent, frozen=True, kw_only=True, tag="sftp"):
    """Something was done to a file over SFTP, or was refused or failed. Reads and writes: once, when it is closed."""

    action: str = ""  # read, write, remove, rename, mkdir, rmdir, setstat, symlink or link; of refusals also stat, list
    path: str = ""  # which file, whole, after links were followed
    target: str = ""  # new name, where a link leads, or attributes that were set
    direction: str = ""  # download or upload, which stands for every change; look: names and attributes
    size: int = 0  # bytes moved
    sha256: str = ""  # hash of what moved, hex; empty where there is none
    hash_reason: str = ""  # why there is no hash, or that it is of the whole file
    error: str = ""  # why it was refused or failed

    def failed(self) -> bool:
        return bool(self.error)


class Scp(ServerEvent, frozen=True, kw_only=True, tag="scp"):
    """A file was moved by the protocol of scp, or was refused or failed.

    Of downloads the codes are T3004I and T3004E.
    """

    path: str = ""  # which file, whole, after links were followed
    size: int = field(default=0, name="len")  # bytes moved
    action: str = "upload"  # upload or download
    exit_code: str = field(default="", name="exitCode")  # 0 when the file was moved, else 1
    command: str = ""  # command of the client
    operation: str = ""  # read, write, or of folders mkdir and setstat
    sha256: str = ""  # hash of what moved, hex; empty where there is none
    hash_reason: str = ""  # why there is no hash, or that it is of the whole file
    error: str = ""  # why it was refused or failed

    def __post_init__(self) -> None:
        if not self.code and self.action == "download":
            force_setattr(self, "code", SCP_DOWNLOAD.failed if self.failed() else SCP_DOWNLOAD.ok)
        super().__post_init__()

    def failed(self) -> bool:
        return bool(self.error)


class Rsync(ServerEvent, frozen=True, kw_only=True, tag="rsync"):
    """rsync has moved files, or failed. Which ones is known to rsync alone."""

    action: str = ""  # upload or download
    paths: list[str] = field(default_factory=list)  # targets or sources, as the client named them
    command: str = ""  # command of the client
    exit_code: str = field(default="", name="exitCode")  # exit status as text, empty when it was ended
    sha256: str = ""  # always empty
    hash_reason: str = ""  # why: rsync
    error: str = ""  # why it failed

    def failed(self) -> bool:
        return bool(self.error)


class Port(ServerEvent, frozen=True, kw_only=True, tag="port"):
    """A port forward was asked for."""

    addr: str = ""  # where to, as the client said it
    success: bool = True  # whether it was made
    error: str = ""  # why not
    kind: str = ""  # type of its channel, or of the request for a listener: tcpip-forward, ...
    resolved: str = ""  # address and port, or socket, that it leads to
    origin: str = ""  # who connected, as the client says; of a listener's connection, as this host saw it
    connection: str = ""  # id of the client's connection, the same in all events of its forwards

    def failed(self) -> bool:
        return not self.success


class ClientDisconnect(ServerEvent, frozen=True, kw_only=True, tag="client.disconnect"):
    """We ended a connection: idle, expired, locked, no longer permitted."""

    reason: str = ""  # why


class AuthFailed(ServerEvent, frozen=True, kw_only=True, tag="auth"):
    """An SSH authentication or a local decision on access failed."""

    success: bool = False  # always false
    error: str = ""  # why


class SessionRequestDenied(ServerEvent, frozen=True, kw_only=True, tag="session.request_denied"):
    """A channel or a request in a connection was refused."""

    request: str = ""  # type of the channel or request
    reason: str = ""  # why


class RecordingSpoolFull(ServerEvent, frozen=True, kw_only=True, tag="recording.spool_full"):
    """Recordings that auth has not taken yet use the quota of a node: from now on it starts no session."""

    reason: str = ""  # how much is used, and which key limits it


class RecordingGap(ServerEvent, frozen=True, kw_only=True, tag="recording.gap"):
    """A part of a recording is lost, or a session went on without one where the policy lets it."""

    reason: str = ""  # what failed
    first_chunk: int = 0  # first chunk that is missing
    chunks: int = 0  # how many; 0 when unknown
