"""`teleport start --bootstrap`: a cluster out of what `tctl get all --with-secrets` printed."""

from __future__ import annotations

import getpass
from pathlib import Path

from teleport.testing.cluster import NODE, Cluster, Person

ME = getpass.getuser()
ROLE = """kind: role
version: v4
metadata: {name: dev}
spec: {allow: {logins: ['{{internal.logins}}'], node_labels: {env: test}}}
---
kind: cluster_networking_config
version: v2
metadata: {name: cluster-networking-config}
spec: {keep_alive_count_max: 9}
"""


def test_users_log_in_to_the_cluster_of_before_and_its_pin_is_the_same(tmp_path: Path) -> None:
    before = Cluster(tmp_path / "before", message_of_the_day="of the file")
    with before:
        before.tctl("create", "-f", stdin=ROLE).ok()
        ann = before.add_person("ann", roles=["dev", "access"], logins=[ME])
        before.tctl("lock", "--user=nobody-there", "--message=kept").ok()
        secret = before.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
        state = before.tctl("get", "all", "--with-secrets").ok().stdout
        pin = before.ca_pin()
    assert "argon2" in state
    assert "PRIVATE KEY" in state
    file = tmp_path / "state.yaml"
    file.write_text(state)
    file.chmod(0o644)

    after = Cluster(tmp_path / "after")
    after.daemon._arguments.append(f"--bootstrap={file}")
    with after:
        assert "may be read by others" in after.daemon.log()
        assert "1 of the kind token are left out" in after.daemon.log()
        assert after.ca_pin() == pin
        again = Person(after, "ann", ann.home)
        again.totp_secret, again._last_period = ann.totp_secret, ann._last_period + 1
        again.log_in()
        assert again.ssh(f"{ME}@{NODE}.{after.name}", "echo here").stdout == "here\n"
        assert after.tctl("tokens", "ls", "--format=json").json() == []
        assert secret not in after.daemon.log()
        (lock,) = after.tctl("get", "locks", "--format=json").json()
        assert lock["spec"]["message"] == "kept"
        (cap, netconfig) = after.tctl("get", "cap,netconfig", "--format=json").json()
        assert netconfig["spec"] == {"keep_alive_count_max": 9}
        assert "message_of_the_day" not in cap["spec"], "the file of that server said it, this one's does not"
        (made,) = [one for one in after.events("--type=user.create") if one["name"] == "ann"]
        assert made["updated_by"] == "teleport start --bootstrap"
        after.daemon.stop()
        file.write_text("nothing: that can be read")
        after.daemon.start()
        assert f"--bootstrap is ignored: the storage holds the cluster {after.name} already" in after.daemon.log()
        assert after.ca_pin() == pin
