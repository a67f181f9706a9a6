"""Two clusters that trust each other, written into their storage as if they had been established: for tests of what
comes after. How it is established is tested with `auth.clusters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from teleport.auth.state import ClusterState
from teleport.backend.interface import DeleteOp, PutOp
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, TrustedClusterSpec
from teleport.store import records

ACCESS = (RoleMapping(remote="access", local=("access",)),)


async def establish(
    root: ClusterState,
    leaf: ClusterState,
    role_map: Sequence[RoleMapping] = ACCESS,
    *,
    proxy: str = "127.0.0.1:3080",
    labels: Mapping[str, str] | None = None,
    enabled: bool = True,
) -> None:
    """The leaf lets in the root's users; the root reaches the leaf's hosts."""
    spec = TrustedClusterSpec(enabled=enabled, web_proxy_addr=proxy, role_map=tuple(role_map))
    trusted = TrustedCluster(metadata=Metadata(name=root.cluster), spec=spec)
    writes = [PutOp(records.TRUSTED_CLUSTERS + root.cluster, to_json(trusted))]
    for kind in ("user", "host"):
        authority = (await root.authority(kind)).without_secrets()
        writes.append(PutOp(records.authority_key(kind, root.cluster), to_json(authority)))
    await leaf.commit(writes, events=[])
    remote = RemoteCluster(metadata=Metadata(name=leaf.cluster, labels=dict(labels or {})))
    host = (await leaf.authority("host")).without_secrets()
    await root.commit(
        [
            PutOp(records.REMOTE_CLUSTERS + leaf.cluster, to_json(remote)),
            PutOp(records.authority_key("host", leaf.cluster), to_json(host)),
        ],
        events=[],
    )


async def distrust(leaf: ClusterState, root: str) -> None:
    """The leaf lets nobody of the root in any more."""
    keys = (records.TRUSTED_CLUSTERS + root, records.authority_key("user", root), records.authority_key("host", root))
    await leaf.commit([DeleteOp(key, missing_ok=True) for key in keys], events=[])
