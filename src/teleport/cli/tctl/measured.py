"""The numbers of a daemon, out of what `/metrics` answers, and the pages that `tctl top` makes of them.

Values in, values out. The text is Prometheus' format 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/) as our daemons write it: at most one label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from teleport.cli.render import how_long

MOST_EVENTS: Final = 12  # types of audit events on a page
_SAMPLE: Final = re.compile(r'([A-Za-z_:][\w:]*)(?:\{\w+="((?:[^"\\]|\\.)*)"\})? (\S+)')
_ESCAPES: Final = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
STATES: Final = {0: "ok", 1: "recovering", 2: "degraded", 3: "starting"}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a daemon said at one moment."""

    at: float  # seconds since 1970
    values: Mapping[str, Mapping[str, float]] = field(repr=False)  # by name and by the value of the label

    @classmethod
    def parse(cls, text: str, at: float) -> Sample:
        """Lines that are none of the format are left out."""
        values: dict[str, dict[str, float]] = {}
        for line in text.splitlines():
            match = None if line.startswith("#") else _SAMPLE.fullmatch(line)
            if match is None:
                continue
            label = re.sub(r'\\[\\"n]', lambda one: _ESCAPES[one[0]], match[2] or "")
            try:
                values.setdefault(match[1], {})[label] = float(match[3])
            except ValueError:
                continue
        return cls(at, values)

    def one(self, name: str, label: str = "") -> float | None:
        return self.values.get(name, {}).get(label)

    def all(self, name: str) -> Mapping[str, float]:
        return self.values.get(name, {})

    def sum(self, name: str) -> float | None:
        found = self.values.get(name)
        return sum(found.values()) if found else None

    def quantile(self, name: str, part: float) -> float | None:
        """The value below which `part` of what a histogram counted lies, as far as its bounds tell; None when it
        counted nothing, infinite when it lies above all bounds."""
        buckets = sorted((float(bound), count) for bound, count in self.all(f"{name}_bucket").items())
        total = buckets[-1][1] if buckets else 0
        if not total:
            return None
        below, so_far = 0.0, 0.0
        for bound, count in buckets:
            if count >= part * total:
                return bound if bound == inf else below + (bound - below) * (part * total - so_far) / (count - so_far)
            below, so_far = bound, count
        return inf


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a page."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    parts: tuple[Part, ...]


def pages(now: Sample, before: Sample | None) -> list[Page]:
    """All pages; rates are those since `before`, which must be of the same run of the daemon to count."""
    if before is not None and now.one("process_start_time_seconds") != before.one("process_start_time_seconds"):
        before = None
    told = _Telling(now, before)
    return [
        Page("Common", told.common()),
        Page("Backend", told.backend()),
        Page("Cache", told.cache()),
        Page("Sessions", told.sessions()),
        Page("Audit", told.audit()),
    ]


class _Telling:
    def __init__(self, now: Sample, before: Sample | None) -> None:
        self._now, self._before = now, before

    def common(self) -> tuple[Part, ...]:
        now = self._now
        started = now.one("process_start_time_seconds")
        state = now.one("process_state")
        rows = [
            ("State", STATES.get(int(state), "unknown") if state is not None else "-"),
            ("Version", ", ".join(now.all("teleport_build_info")) or "-"),
            ("Python", ", ".join(now.all("python_info")) or "-"),
            ("Runs for", how_long(now.at - started) if started is not None else "-"),
            ("Processor", _percent(self._rate("process_cpu_seconds_total"))),
            ("Memory", _bytes(now.one("process_resident_memory_bytes"))),
            ("Descriptors", f"{_number(now.one('process_open_fds'))} of {_number(now.one('process_max_fds'))}"),
            (
                "Threads, tasks",
                f"{_number(now.one('process_threads'))}, {_number(now.one('teleport_event_loop_tasks'))}",
            ),
            ("Loop is late, p99", _seconds(now.quantile("teleport_event_loop_lag_seconds", 0.99))),
            ("Full collections", _number(now.one("python_gc_collections_total", "2"))),
        ]
        components = [
            (name, STATES.get(int(one), "unknown")) for name, one in now.all("teleport_component_state").items()
        ]
        ends = [
            (what, how_long(end - now.at) if end > now.at else "ENDED")
            for name, words in (
                ("teleport_host_certificate_not_after", "certificate of {}"),
                ("teleport_authority_not_after", "{} authority"),
                ("teleport_web_certificate_not_after", "web certificate {}"),
            )
            for label, end in now.all(name).items()
            for what in [words.format(label)]
        ]
        disks = [(place, _bytes(free)) for place, free in now.all("teleport_disk_free_bytes").items()]
        return _parts(
            (("Daemon", ""), rows),
            (("Part", "State"), components),
            (("Open connections", ""), self._labelled("teleport_connections_open")),
            (("Refused by limits", "All", "a second"), self._counted("teleport_connections_refused_total")),
            (("Ends in", ""), ends),
            (("Free disk", ""), disks),
        )

    def backend(self) -> tuple[Part, ...]:
        if not self._now.all("backend_read_requests_total"):
            return ()
        header = ("Calls to the storage", "All", "a second", "p50", "p90", "p99")
        rows = [
            self._timed(one.replace("_", " "), f"backend_{one}_requests_total", f"backend_{one}_seconds")
            for one in ("read", "batch_read", "write", "batch_write")
        ]
        rows.append(("failed", *self._count("teleport_backend_failed_requests_total"), "", "", ""))
        api = [
            self._timed("calls", "teleport_auth_api_requests_total", "teleport_auth_api_seconds"),
            self._timed("certificates", "auth_generate_requests_total", "auth_generate_seconds"),
        ]
        failed = self._counted("teleport_auth_api_failed_requests_total")
        routes = sorted(self._now.all("teleport_auth_api_requests_total").items(), key=lambda one: -one[1])
        top = [self._count_of("teleport_auth_api_requests_total", name) for name, _ in routes[:MOST_EVENTS]]
        s3 = [self._timed("requests", "s3_requests_total", "s3_requests_seconds")]
        if not self._now.all("s3_requests_seconds_bucket"):
            s3 = []
        return _parts(
            (header, rows),
            (("Auth API", *header[1:]), api),
            (("Refused or failed", "All", "a second"), failed),
            (("Route", "All", "a second"), top),
            (("S3", *header[1:]), s3),
        )

    def cache(self) -> tuple[Part, ...]:
        now = self._now
        caches = [
            (
                name,
                _number(size),
                _seconds(now.one("teleport_cache_age_seconds", name)),
                _number(now.one("teleport_cache_source_lost_total", name) or 0),
            )
            for name, size in now.all("teleport_cache_items").items()
        ]
        changes = [
            ("taken in by caches", *self._count("teleport_cache_events")),
            ("told to watches", *self._count("watcher_events")),
            ("bytes of these", *self._count("watcher_event_sizes")),
            ("announcements of hosts", *self._count("heartbeat_connections_received_total")),
        ]
        lost = now.all("teleport_lost_servers")
        servers = [
            (kind, _number(count), _number(lost.get(kind)))
            for kind, count in now.all("teleport_registered_servers").items()
        ]
        return _parts(
            (("Cache", "Items", "Heard ago", "Source lost"), caches),
            (("Changes", "All", "a second"), [one for one in changes if one[1] != "-"]),
            (("Services", "Here", "Lost"), servers),
        )

    def sessions(self) -> tuple[Part, ...]:
        now = self._now
        gauges = [
            ("sessions with a terminal here", "server_interactive_sessions_total"),
            ("all sessions here", "teleport_node_sessions"),
            ("SSH connections at the proxy", "proxy_ssh_sessions_total"),
            ("tunnels of this node", "reversetunnel_connected_proxies"),
            ("nodes without a tunnel here", "proxy_missing_ssh_tunnels"),
        ]
        counters = [
            ("connections to hosts", "teleport_connect_to_node_attempts_total"),
            ("that failed", "failed_connect_to_node_attempts_total"),
            ("logins", "user_login_total"),
            ("failed logins", "failed_login_attempts_total"),
            ("requests for certificates", "auth_generate_requests_total"),
            ("refused by max_connections", "user_max_concurrent_sessions_hit_total"),
        ]
        tunnels = [
            *self._labelled("teleport_reverse_tunnels_connected"),
            *self._labelled("remote_clusters"),
            *self._labelled("trusted_clusters"),
        ]
        rotations = {0: "", 1: "goes on by itself", 2: "waits for a person"}
        rotating = [
            (kind, rotations.get(int(one), "?"), how_long(now.one("teleport_rotation_age_seconds", kind) or 0))
            for kind, one in now.all("teleport_rotation_state").items()
            if one
        ]
        return _parts(
            (("Now", ""), [(words, _number(now.one(name))) for words, name in gauges if now.one(name) is not None]),
            (
                ("Counted", "All", "a second"),
                [(words, *self._count(name)) for words, name in counters if now.one(name) is not None],
            ),
            (("Tunnels", ""), tunnels),
            (("Rotation", "", "for"), rotating),
        )

    def audit(self) -> tuple[Part, ...]:
        now = self._now
        waiting = [
            ("events here that auth lacks", _number(now.one("teleport_audit_spool_events"))),
            ("for", _seconds(now.one("teleport_audit_spool_behind_seconds"))),
            ("events that wait for the log", _number(now.one("teleport_audit_events_waiting"))),
            ("log held up for", _seconds(now.one("teleport_audit_store_held_seconds"))),
            ("events that failed", _number(now.one("audit_failed_emit_events"))),
            ("disk of the log is full to", _percent((now.one("audit_percentage_disk_space_used") or 0) / 100)),
        ]
        recordings = [
            (to, _number(count), _seconds(now.one("teleport_recordings_waiting_oldest_seconds", to)))
            for to, count in now.all("teleport_recordings_waiting").items()
        ]
        copies = [(name, _seconds(one)) for name, one in now.all("teleport_audit_copy_failing_seconds").items()]
        events = sorted(now.all("teleport_audit_emit_events").items(), key=lambda one: -one[1])
        top = [self._count_of("teleport_audit_emit_events", name) for name, _ in events[:MOST_EVENTS]]
        return _parts(
            (("Audit log", ""), waiting),
            (("Recordings on their way to", "Wait", "Oldest"), recordings),
            (("Uploads", "All", "a second"), self._counted("teleport_recording_uploads_total")),
            (("Copies to", "fail for"), copies),
            (("Events", "All", "a second"), top),
        )

    # numbers

    def _rate(self, name: str, label: str = "") -> float | None:
        now, before = self._now.one(name, label), self._before.one(name, label) if self._before is not None else None
        if now is None or self._before is None or self._now.at <= self._before.at:
            return None
        return max(0.0, now - (before or 0.0)) / (self._now.at - self._before.at)

    def _count(self, name: str, label: str = "") -> tuple[str, str]:
        return _number(self._now.one(name, label)), _number(self._rate(name, label))

    def _count_of(self, name: str, label: str) -> tuple[str, str, str]:
        return (label, *self._count(name, label))

    def _counted(self, name: str) -> list[tuple[str, str, str]]:
        return [self._count_of(name, label) for label in self._now.all(name)]

    def _labelled(self, name: str) -> list[tuple[str, str]]:
        return [(label, _number(value)) for label, value in self._now.all(name).items()]

    def _timed(self, words: str, counter: str, histogram: str) -> tuple[str, ...]:
        """A row of calls: how many, how many a second, and how long they take since the daemon started."""
        now, before = self._now, self._before
        total = now.sum(counter)
        rate = None
        if before is not None and total is not None and now.at > before.at:
            rate = max(0.0, total - (before.sum(counter) or 0)) / (now.at - before.at)
        quantiles = (_seconds(now.quantile(histogram, part)) for part in (0.5, 0.9, 0.99))
        return (words, _number(total), _number(rate), *quantiles)


def _parts(*found: tuple[tuple[str, ...], Iterable[Sequence[str]]]) -> tuple[Part, ...]:
    return tuple(Part(header, rows) for header, one in found if (rows := tuple(tuple(row) for row in one)))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def _seconds(value: float | None) -> str:
    """As a person reads it: milliseconds below a second."""
    if value is None:
        return "-"
    if value == inf:
        return "> all"
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s" if value < 120 else how_long(value)
