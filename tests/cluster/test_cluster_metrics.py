"""`/metrics` of real daemons: what happens is counted, and nothing is shown that the catalogue does not have."""

from __future__ import annotations

import re
import urllib.request

from teleport.daemon.monitoring.catalogue import catalogue
from teleport.testing.cluster import LOOPBACK, NODE, Cluster, Host, Person, at, wait_until

SAMPLE = re.compile(r'^(?P<name>[a-z_0-9]+)(\{(?P<label>[a-z_]+)="[^"]*"\})? [-+0-9.e]+(Inf)?$')


def text(host: Host) -> str:
    with urllib.request.urlopen(f"http://{at(host.diag_port, LOOPBACK)}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def values(host: Host) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text(host).splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_everything_that_is_shown_is_in_the_catalogue(cluster: Cluster) -> None:
    """And all of the catalogue by a daemon with all services, but for S3's, those of traces and a node's tunnels."""
    known = {sample: one for one in catalogue() for sample in one.samples}
    shown = set()
    for line in text(cluster).splitlines():
        if line.startswith("#"):
            shown.add(line.split()[2])
            continue
        match = SAMPLE.match(line)
        assert match, line
        one = known[match["name"]]
        assert match["label"] == ("le" if match["name"].endswith("_bucket") else one.label or None), line
    absent = {one.name for one in catalogue() if one.name not in shown}
    elsewhere = {one.name for one in catalogue() if one.of == "auth with S3" or one.name.startswith("teleport_trace_")}
    assert absent == elsewhere | {"reversetunnel_connected_proxies"}


def test_what_people_do_is_counted(cluster: Cluster, alice: Person, login: str) -> None:
    before = values(cluster)
    alice.tsh("ssh", f"{login}@{NODE}", "true").ok()
    cluster.tctl("get", "nodes").ok()
    where = (f"--proxy={cluster.web_address}", "--user=nobody-there", f"--ca-pin={cluster.ca_pin()}")
    refused = alice.tsh("login", *where, stdin="certainly not this one\n000000\n")
    assert refused.status == 5
    wait_until(
        "it is on record",
        lambda: values(cluster)["failed_login_attempts_total"] > before["failed_login_attempts_total"],
    )
    after = values(cluster)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("teleport_connect_to_node_attempts_total") >= 1
    assert grown("failed_connect_to_node_attempts_total") == 0
    assert grown('teleport_audit_emit_events{event="session.start"}') == 1
    assert grown('teleport_auth_api_requests_total{route="login"}') >= 1
    assert grown("teleport_auth_api_seconds_count") >= 1
    assert grown("backend_batch_write_requests_total") >= 1
    assert after["user_login_total"] >= 1
    assert after["teleport_ready"] == 1
    assert after["process_state"] == 0
    assert after['teleport_registered_servers{type="node"}'] == 1
    assert after['teleport_lost_servers{type="node"}'] == 0
    assert after["audit_failed_emit_events"] == 0
    assert after['teleport_authority_not_after{type="host"}'] > 2e9
    wait_until("all is delivered", lambda: values(cluster)["teleport_audit_spool_events"] == 0, 30.0)
