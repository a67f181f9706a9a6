"""What a daemon with a diagnostics listener measures of itself, put together. Without one nothing of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from teleport.clock import Clock
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.monitoring import process_metrics, service_metrics
from teleport.daemon.monitoring.diag import Readiness
from teleport.daemon.monitoring.looking import Looking
from teleport.daemon.monitoring.metrics import Metrics
from teleport.daemon.restarts.leaving import Doors
from teleport.daemon.tasks import Tasks
from teleport.identity import SystemRole
from teleport.store.cache import Cache


def begin(
    metrics: Metrics,
    tasks: Tasks,
    config: Config,
    host: Host,
    readiness: Readiness,
    doors: Doors,
    caches: list[Cache],
    held: Mapping[SystemRole, Credentials],
    clock: Clock,
) -> None:
    """Of every daemon, whatever it runs; `caches` and `held` may grow afterwards."""
    service_metrics.of_every(metrics, readiness, doors, caches, held, clock)
    process_metrics.add(metrics)
    tasks.start(process_metrics.measure_lag(), "lag of the event loop")
    looking = Looking(*_folders(config, host))
    looking.add(metrics)
    tasks.start(looking.run(), "disks")


def _folders(config: Config, host: Host) -> tuple[dict[str, Path], str, dict[str, list[Path]]]:
    places = {"data_dir": host.data_dir}
    leaving: dict[str, list[Path]] = {}
    uploads = [(config.node, "upload"), (config.proxy, "upload-proxy")]
    if any(service is not None for service, _ in uploads):
        leaving["auth"] = [host.log_dir / folder for service, folder in uploads if service is not None]
    if config.auth is None:
        return places, "data_dir", leaving
    places |= {"audit log": config.storage.events_path, "recordings": config.storage.recordings_path}
    if config.storage.recordings_s3 is not None:
        leaving["s3"] = [config.storage.recordings_path]
    return places, "audit log", leaving
