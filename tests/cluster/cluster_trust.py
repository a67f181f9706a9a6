"""Two clusters of real daemons that trust each other: users of the root reach hosts of the leaf."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from teleport.testing.cluster import LOOPBACK, Cluster, Person, at, wait_until

ROOT, LEAF = "root.test", "leaf.test"

TRUSTED = """kind: trusted_cluster
version: v2
metadata: {{name: {name}}}
spec:
  enabled: {enabled}
  token: {token}
  web_proxy_addr: '{web}'
  tunnel_addr: '{tunnel}'
  ca_pins: ['{pin}']
  role_map: {role_map}
"""


@dataclass
class Trusting:
    """A root and a leaf."""

    root: Cluster
    leaf: Cluster

    def trust(self, role_map: Mapping[str, Sequence[str]], *labels: str) -> None:
        """The leaf comes to trust the root, as their administrators do it."""
        token = self.root.folder / "trust-token"
        token.unlink(missing_ok=True)
        self.root.tctl("tokens", "add", "--type=trusted_cluster", f"--out={token}", *labels).ok()
        mappings = ", ".join(f"{{remote: '{one}', local: [{', '.join(local)}]}}" for one, local in role_map.items())
        text = TRUSTED.format(
            name=ROOT,
            enabled="true",
            token=token.read_text().strip(),
            web=at(self.root.web_port, LOOPBACK),
            tunnel=at(self.root.tunnel_port, LOOPBACK),
            pin=self.root.ca_pin(),
            role_map=f"[{mappings}]",
        )
        self.leaf.tctl("create", "-", stdin=text).ok()

    def listed(self, person: Person) -> dict[str, str]:
        """The clusters that somebody may go to, with their status."""
        found = person.tsh("clusters", "--format=json").ok().json()
        return {one["cluster_name"]: one["status"] for one in found}

    def wait_online(self, person: Person) -> None:
        wait_until("the leaf's tunnel stands", lambda: self.listed(person).get(LEAF) == "online")


@contextlib.contextmanager
def trusting(folder: Path) -> Iterator[Trusting]:
    """Both clusters, strangers to each other so far."""
    with Cluster(folder / "root", name=ROOT) as root, Cluster(folder / "leaf", name=LEAF) as leaf:
        yield Trusting(root, leaf)
