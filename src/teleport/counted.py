"""What this process has counted since it started, for `/metrics`: counters, and histograms of how long something took.

They are of the process, as loggers are, so whoever counts names one of these and is handed nothing; nothing is decided
by them. Names are those of `operations.md` 4 where it has one, else they begin with `teleport_`; the text format is
Prometheus' 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). Labels are values of tables in the
code, never what a client says: their number is bounded. Pure code counts nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)  # bounds of most histograms


class Counter:
    """A number that only grows; with a `label`, one for each of its values."""

    __slots__ = ("label", "meaning", "name", "of", "values")

    def __init__(self, name: str, meaning: str, of: str, label: str = "", known: Sequence[str] = ()) -> None:
        """`of` says which service counts; `known` are values of the label that are shown as 0 from the start."""
        self.name, self.meaning, self.of, self.label = name, meaning, of, label
        self.values: dict[str, float] = dict.fromkeys(known if label else ("",), 0)

    def add(self, value: str = "", by: float = 1) -> None:
        """Counts; `value` of the label. To be called in the loop's thread."""
        self.values[value] = self.values.get(value, 0) + by


class Histogram:
    """How often something was at most so large, for each of some bounds."""

    __slots__ = ("bounds", "counts", "meaning", "name", "of", "sum")

    def __init__(self, name: str, meaning: str, of: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.meaning, self.of, self.bounds = name, meaning, of, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # of each range alone; the last is above all bounds
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the seconds that the block takes, however it ends."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - began)


# --- every daemon

EMITTED = Counter("teleport_audit_emit_events", "Audit events that this daemon made durable, by type.", "all", "event")
NOT_EMITTED = Counter(
    "audit_failed_emit_events", "Audit events that could not be made durable: what they tell of failed, too.", "all"
)
REFUSED = Counter(
    "teleport_connections_refused_total",
    "Connections and requests that a limit refused: connections or rate of one address (address), people (users), "
    "connections on which nothing was proved (unproved).",
    "all",
    "limit",
    ("address", "users", "unproved"),
)
CACHE_EVENTS = Counter("teleport_cache_events", "Changes that the caches of this daemon took in.", "all")
CACHE_LOST = Counter("teleport_cache_source_lost_total", "How often a cache lost its source, by cache.", "all", "cache")
RECORDING_UPLOADS = Counter(
    "teleport_recording_uploads_total",
    "Recordings that this host brought to auth, or tried to, by what came of it.",
    "all",
    "outcome",
    ("uploaded", "retry", "broken"),
)
DISK_FAILED = Counter("audit_failed_disk_monitoring", "How often disks and folders could not be looked at.", "all")
ALL: Final[tuple[Counter | Histogram, ...]] = (
    EMITTED,
    NOT_EMITTED,
    REFUSED,
    CACHE_EVENTS,
    CACHE_LOST,
    RECORDING_UPLOADS,
    DISK_FAILED,
)

# --- auth

LOGINS = Counter("user_login_total", "Logins that succeeded.", "auth")
FAILED_LOGINS = Counter("failed_login_attempts_total", "Logins that failed.", "auth")
API_REQUESTS = Counter("teleport_auth_api_requests_total", "Calls to the auth API, by route.", "auth", "route")
API_FAILED = Counter(
    "teleport_auth_api_failed_requests_total",
    "Calls to the auth API that were not answered as asked, by kind of error; failed: auth's log says why.",
    "auth",
    "error",
    ("failed", "access_denied", "limit_exceeded"),
)
API_SECONDS = Histogram("teleport_auth_api_seconds", "Seconds of calls to the auth API, without streams.", "auth")
GENERATED = Counter("auth_generate_requests_total", "Requests for certificates.", "auth")
GENERATE_THROTTLED = Counter(
    "auth_generate_requests_throttled_total", "Requests for certificates that a limit refused.", "auth"
)
GENERATE_SECONDS = Histogram("auth_generate_seconds", "Seconds of requests for certificates.", "auth")
HEARTBEATS = Counter(
    "heartbeat_connections_received_total", "Announcements of hosts that this auth server heard.", "auth"
)
TOO_MANY_SESSIONS = Counter(
    "user_max_concurrent_sessions_hit_total", "Connections that max_connections of a role refused.", "auth"
)
OPERATIONS: Final[tuple[str, ...]] = ("read", "write", "batch_read", "batch_write")
BACKEND_REQUESTS: Final[dict[str, Counter]] = {
    one: Counter(f"backend_{one}_requests_total", f"Calls to the storage: {one.replace('_', ' ')}.", "auth")
    for one in OPERATIONS
}
BACKEND_SECONDS: Final[dict[str, Histogram]] = {
    one: Histogram(f"backend_{one}_seconds", f"Seconds of calls to the storage: {one.replace('_', ' ')}.", "auth")
    for one in OPERATIONS
}
BACKEND_FAILED = Counter(
    "teleport_backend_failed_requests_total",
    "Calls to the storage that failed, other than because a key was, or was not, as a caller expected.",
    "auth",
)
WATCHER_EVENTS = Counter("watcher_events", "Changes that watches of the storage were told of.", "auth")
WATCHER_SIZES = Counter("watcher_event_sizes", "Bytes of values in those changes.", "auth")
S3_REQUESTS = Counter("s3_requests_total", "Requests to S3, by operation.", "auth with S3", "operation")
S3_FAILED = Counter(
    "teleport_s3_failed_requests_total", "Requests to S3 that failed, by what was wrong.", "auth with S3", "kind"
)
S3_SECONDS = Histogram("s3_requests_seconds", "Seconds of requests to S3.", "auth with S3")
AUTH: Final[tuple[Counter | Histogram, ...]] = (
    *(LOGINS, FAILED_LOGINS, API_REQUESTS, API_FAILED, API_SECONDS),
    *(GENERATED, GENERATE_THROTTLED, GENERATE_SECONDS, HEARTBEATS, TOO_MANY_SESSIONS),
    *BACKEND_REQUESTS.values(),
    *BACKEND_SECONDS.values(),
    *(BACKEND_FAILED, WATCHER_EVENTS, WATCHER_SIZES),
)
S3: Final[tuple[Counter | Histogram, ...]] = (S3_REQUESTS, S3_FAILED, S3_SECONDS)

# --- proxy

TO_NODE = Counter("teleport_connect_to_node_attempts_total", "Connections to hosts that the proxy began.", "proxy")
TO_NODE_FAILED = Counter(
    "failed_connect_to_node_attempts_total", "Connections to hosts that could not be made.", "proxy"
)
PROXY: Final[tuple[Counter | Histogram, ...]] = (TO_NODE, TO_NODE_FAILED)
