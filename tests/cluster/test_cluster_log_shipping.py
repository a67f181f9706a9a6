"""A daemon's log at a real rsyslog, through its death, a restart by HUP and one by KILL."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.cluster.cluster_restarting import Restarting
from tests.cluster.test_cluster_data_directory import strangers
from tests.copies.test_copies_syslog import Lab, needs_rsyslog

from teleport.testing.cluster import LOOPBACK, wait_until
from teleport.testing.processes import BIN, plain_environment, run


def said(lab: Lab, pid: int) -> list[str]:
    """What that process has said there."""
    found = [re.match(r"<\d+>1 (\S+) (\S+) teleport (\d+) (\S+) - (.*)", line) for line in lab.server.messages()]
    return [one[5] for one in found if one is not None and int(one[3]) == pid]


@needs_rsyslog
def test_what_is_logged_while_the_receiver_is_away_arrives_from_each_process(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    cert, key = lab.client
    cluster = Restarting(tmp_path / "cluster")
    receiver = {"name": "siem", "url": f"syslog+tls://{LOOPBACK}:{lab.server.port}", "ca_file": str(lab.ca)}
    cluster.config["teleport"]["log"] = {"ship": [receiver | {"cert_file": str(cert), "key_file": str(key)}]}
    cluster.write()
    ports = run(BIN / "teleport", "ports", "-c", cluster.config_path, environment=plain_environment(tmp_path))
    assert f"{LOOPBACK}" in ports.ok().stdout
    assert "siem (syslog)" in ports.stdout
    with lab.server, cluster:
        wait_until("the pid file", cluster.pid_file.exists, 30)
        first = cluster.serving()
        wait_until("the first process is heard", lambda: said(lab, first) != [], 30)
        lab.server.kill()
        cluster.signal(signal.SIGHUP)
        cluster.wait_log("log lines do not arrive at siem")
        second = cluster.wait_successor()
        assert cluster.daemon.ended() == 0
        assert said(lab, second) == []
        assert strangers(cluster.data_dir, {"auth", "proxy", "node"}) == []

        lab.server.start()
        wait_until("the second one is heard", lambda: said(lab, second) != [], 90)
        wait_until(
            "and what the first one could not bring",
            lambda: any("the new process is ready" in one for one in said(lab, first)),
            90,
        )
