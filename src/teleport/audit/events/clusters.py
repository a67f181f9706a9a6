"""Events about clusters that trust each other; those from T9320 on are ours."""

from __future__ import annotations

from msgspec import field

from teleport.audit.events.base import ResourceEvent


class TrustedClusterCreate(ResourceEvent, frozen=True, kw_only=True, tag="trusted_cluster.create"):
    """Users of another cluster may come in from now on. `name` is that cluster."""

    enabled: bool = False  # whether the trust is in force
    web_proxy_addr: str = ""  # where the other cluster is reached
    role_map: dict[str, list[str]] = field(default_factory=dict)  # roles there, and the roles here that they give
    fingerprints: list[str] = field(default_factory=list)  # of its user authority's SSH keys, SHA256:...


class TrustedClusterUpdate(ResourceEvent, frozen=True, kw_only=True, tag="trusted_cluster.update"):
    """The trust in another cluster was taken away or given back."""

    enabled: bool = False  # whether it is in force


class TrustedClusterDelete(ResourceEvent, frozen=True, kw_only=True, tag="trusted_cluster.delete"):
    """Users of another cluster come in no more."""


class TrustedClusterTokenCreate(ResourceEvent, frozen=True, kw_only=True, tag="trusted_cluster_token.create"):
    """A token was made by which another cluster may trust this one. `name` is its public id."""

    for_cluster: str = ""  # the one cluster that it is for; empty: whichever comes


class RemoteClusterCreate(ResourceEvent, frozen=True, kw_only=True, tag="remote_cluster.create"):
    """Another cluster proved a token: its hosts are reached from here; or it did not. `name` is what it says it is."""

    success: bool = True  # whether it was taken
    error: str = ""  # why not
    token: str = ""  # public id of the token
    addr: str = ""  # where it came from
    labels: dict[str, str] = field(default_factory=dict)  # of the token
    fingerprints: list[str] = field(default_factory=list)  # of its host authority's SSH keys, SHA256:...

    def failed(self) -> bool:
        return not self.success


class RemoteClusterUpdate(ResourceEvent, frozen=True, kw_only=True, tag="remote_cluster.update"):
    """What is known of another cluster was changed, or it said that it trusts this one no more."""

    removed: bool = False  # whether it said goodbye
    labels: dict[str, str] = field(default_factory=dict)  # that it has now


class RemoteClusterDelete(ResourceEvent, frozen=True, kw_only=True, tag="remote_cluster.delete"):
    """Hosts of another cluster are reached no more."""


class ClusterAuthorityUpdate(ResourceEvent, frozen=True, kw_only=True, tag="cluster_authority.update"):
    """Another cluster's authority has other keys than before, as a statement says that a key known of it signed."""

    authority: str = ""  # user or host
    fingerprints: list[str] = field(default_factory=list)  # of its SSH keys, SHA256:...
    former: list[str] = field(default_factory=list)  # of those that it had before


class ClusterStatementRefused(ResourceEvent, frozen=True, kw_only=True, tag="cluster_statement.refused"):
    """What was said in the name of another cluster was not believed. `name` is the cluster."""

    error: str = ""  # why
    addr: str = ""  # where it came from; empty when this cluster asked for it
