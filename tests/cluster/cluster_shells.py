"""Sessions that are open while something happens to what they rest on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from teleport.testing.cluster import NODE, Person

PROMISED = 2.0  # seconds until a lock ends an open session ...
SLACK = 5  # ... times this, on a busy machine

# for ssh to a host that nothing is known of, without any configuration
ANY_HOST = (
    *("-F", "none", "-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
)


@dataclass
class OpenShell:
    """A session that runs, and would for a while."""

    client: subprocess.Popen[str]

    def ends(self) -> str:
        """Waits for its end; what ssh said."""
        _, said = self.client.communicate(timeout=PROMISED * SLACK)
        assert self.client.returncode == 255
        return said


@contextlib.contextmanager
def open_shell(
    person: Person, login: str, *, host: str = NODE, cluster: str = "", lasts: int = 60
) -> Iterator[OpenShell]:
    """`lasts`: seconds after which it would end by itself."""
    client = subprocess.Popen(
        person.ssh_arguments(f"{login}@{host}.{cluster or person.cluster.name}", f"echo in; exec sleep {lasts}"),
        env=person.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "in\n"
            yield OpenShell(client)
        finally:
            client.kill()
