"""Events of Kubernetes access."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, field

from teleport.audit.events.base import ServerEvent


class KubeRequest(ServerEvent, frozen=True, kw_only=True, tag="kube.request"):
    """A call to the API server of a Kubernetes cluster, on record before it is answered; a stream (a watch, a log) when
    it begins. `server_id` is the daemon that relayed or refused it."""

    verb: str = ""  # as Kubernetes calls it, such as list or watch; of a path that is no resource the method
    request_path: str = ""  # decoded, without the query; of a stream into a pod with it, as it holds the command
    resource_api_group: str = ""  # empty for the core group
    resource_kind: str = ""  # resource and subresource, such as pods/log
    resource_name: str = ""  # empty when it concerns many
    resource_namespace: str = ""  # namespace in the Kubernetes cluster
    response_code: int = 0  # HTTP status that was answered; 0: the connection ended before, the call may have been done
    kubernetes_cluster: str = ""  # name of the Kubernetes cluster
    kubernetes_users: list[str] = field(default_factory=list)  # user that the cluster was told
    kubernetes_groups: list[str] = field(default_factory=list)  # groups that the cluster was told
    success: bool = True  # whether it was answered by the API server
    error: str = ""  # why not
    with_mfa: str | UnsetType = UNSET  # UUID of the second factor that was proved for it; absent when none was
