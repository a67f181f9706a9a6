"""Spans of this daemon, where the configuration asks for them: made, kept for a moment, and sent to a collector.

Imported only then: a daemon without `tracing_service` loads nothing of it.
"""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from typing import Final

from teleport import __version__, spans
from teleport.daemon.config.values import TracingConfig
from teleport.daemon.host import Host
from teleport.daemon.monitoring.metrics import Gauge, Metrics
from teleport.daemon.tasks import Tasks
from teleport.transport.trace_export import Destination, Exporter

WAITING: Final = Gauge("teleport_trace_spans_waiting", "Spans that wait for the collector, where traces are sent.")
DROPPED: Final = Gauge(
    "teleport_trace_spans_dropped_total", "Spans that were not sent: too many waited, or none took them.", counts=True
)


class Tracing:
    """Begun with the daemon, before anything that could be traced."""

    def __init__(self, config: TracingConfig, host: Host, nodename: str, metrics: Metrics) -> None:
        # names are OpenTelemetry's (semantic conventions, "Resource")
        self._about = {"service.instance.id": host.host_id, "service.version": __version__, "host.name": nodename}
        to = Destination(config.url, config.ca_files, config.keypairs)
        self.exporter = Exporter(to, lambda: self._about)
        self._tracer = spans.Tracer(config.rate, self.exporter.put, time.time_ns, os.urandom)
        metrics.add(WAITING, lambda: self.exporter.waiting)
        metrics.add(DROPPED, lambda: self.exporter.dropped)

    def begin(self, tasks: Tasks, stack: AsyncExitStack) -> None:
        """From here on spans are made; until `stack` is left. What waits is sent as the last task ends."""
        tasks.start(self.exporter.run(), "spans")
        spans.install(self._tracer)
        stack.callback(spans.install, None)

    def of_cluster(self, cluster: str) -> None:
        """The host has learned to which cluster it belongs."""
        self._about["service.namespace"] = cluster
