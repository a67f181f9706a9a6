"""The catalogue has what daemons show, and its names are such as Prometheus takes."""

from __future__ import annotations

import re

from teleport import counted
from teleport.counted import Counter, Histogram
from teleport.daemon.monitoring.catalogue import catalogue


def test_names_and_labels_are_those_of_prometheus() -> None:
    for one in catalogue():
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", one.name), one.name
        assert re.fullmatch(r"[a-z_]*", one.label), one.name
        assert one.meaning.endswith("."), one.name
        assert "\n" not in one.meaning
        assert one.of in {"all", "auth", "auth with S3", "proxy", "node"}, one.name


def test_all_that_is_counted_is_shown_by_the_service_that_counts_it() -> None:
    """None stands outside the lists that services show, and none in two of them."""
    shown = {"all": counted.ALL, "auth": counted.AUTH, "auth with S3": counted.S3, "proxy": counted.PROXY}
    there: list[object] = []
    for one in vars(counted).values():
        there += one.values() if isinstance(one, dict) else [one]
    found = {one.name: one.of for one in there if isinstance(one, Counter | Histogram)}
    assert sorted(found.items()) == sorted((one.name, of) for of, those in shown.items() for one in those)


def test_names_of_the_reference_are_kept() -> None:
    """Those of `operations.md` 4 that have a meaning here."""
    wanted = """audit_percentage_disk_space_used audit_failed_disk_monitoring audit_failed_emit_events
    auth_generate_requests_total auth_generate_requests_throttled_total auth_generate_seconds user_login_total
    heartbeat_connections_received_total backend_read_requests_total backend_write_requests_total
    backend_batch_read_requests_total backend_batch_write_requests_total backend_read_seconds backend_write_seconds
    backend_batch_read_seconds backend_batch_write_seconds watcher_events watcher_event_sizes proxy_ssh_sessions_total
    failed_connect_to_node_attempts_total failed_login_attempts_total proxy_missing_ssh_tunnels
    server_interactive_sessions_total user_max_concurrent_sessions_hit_total process_state
    reversetunnel_connected_proxies trusted_clusters remote_clusters teleport_build_info s3_requests_total
    s3_requests_seconds teleport_audit_emit_events teleport_registered_servers teleport_cache_events
    teleport_reverse_tunnels_connected teleport_connect_to_node_attempts_total process_cpu_seconds_total
    process_open_fds process_max_fds process_resident_memory_bytes process_virtual_memory_bytes
    process_start_time_seconds"""
    assert set(wanted.split()) - {one.name for one in catalogue()} == set()
