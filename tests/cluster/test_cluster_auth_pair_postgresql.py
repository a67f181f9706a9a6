"""Two auth servers over PostgreSQL with a standby: either auth server, and the primary, may be killed."""

from __future__ import annotations

import getpass
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from tests.cluster.cluster_auth_servers import NODE_NAME, AuthPair
from tests.cluster.cluster_shells import open_shell

from teleport.testing import postgresql
from teleport.testing.cluster import Host, wait_until
from teleport.testing.postgresql import PostgresqlServer

ME = getpass.getuser()

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@pytest.mark.timeout(300)
def test_any_auth_server_and_the_primary_may_be_killed(tmp_path: Path) -> None:
    """What was acknowledged is there after the standby took over: commits waited for it."""
    with PostgresqlServer("max_wal_senders=4") as primary, PostgresqlServer() as standby:
        standby.kill()
        shutil.rmtree(standby.data)
        standby.base_backup(primary, "-R")
        standby.start()
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (primary, standby))
        pair = AuthPair(
            tmp_path,
            f"postgresql://{postgresql.SUPERUSER}@{hosts}/postgres?sslmode=disable",
            authentication={"type": "local", "second_factor": "off"},
        )
        target = f"{ME}@{NODE_NAME}.{pair.name}"
        with pair.served():
            ann = pair.add_person("ann", logins=[ME])
            ann.log_in()
            for letter, left in (("a", pair.other), ("b", pair)):
                ended = pair.auth_of(letter)
                with open_shell(ann, ME, host=NODE_NAME) as shell:
                    ended.daemon.kill()
                    assert ann.ssh(target, f"echo without-{letter}").stdout == f"without-{letter}\n"
                    ann.log_in()
                    left.tctl("users", "add", f"while-{letter}-is-dead", "--roles=access", f"--logins={ME}").ok()
                    assert shell.client.poll() is None
                ended.daemon.start()
            with open_shell(ann, ME, host=NODE_NAME) as shell:
                primary.kill()
                standby.promote()
                ann.log_in()
                assert ann.ssh(target, "echo after").stdout == "after\n"
                assert shell.client.poll() is None
            pair.tctl("users", "add", "after", "--roles=access", f"--logins={ME}").ok()
            for host in (pair, pair.other):

                def names(host: Host = host) -> set[str]:
                    return {row["metadata"]["name"] for row in host.tctl("get", "users", "--format=json").json()}

                assert {"ann", "while-a-is-dead", "while-b-is-dead", "after"} <= names()
                wait_until("the events are there", partial(_tells_of, host, {"ann", "after"}))
                host.tctl("audit", "verify").ok()


def _tells_of(host: Host, names: set[str]) -> bool:
    """Whether `tctl audit ls` of this auth server tells that they were made."""
    told = host.tctl("audit", "ls", "--format=json", "--type=user.create").ok().stdout.splitlines()
    return names <= {json.loads(line)["name"] for line in told}
