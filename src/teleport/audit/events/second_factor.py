"""Events about second factors that are proved for one session, and about leases of them."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from teleport.audit.events.base import ResourceEvent, StatusEvent
from teleport.audit.events.users import MfaDevice


class SessionMfa(StatusEvent, frozen=True, kw_only=True, tag="session.mfa"):
    """Somebody proved a second factor for one session, for calls to the auth API or for a lease, or failed to."""

    purpose: str = ""  # session, join (of a session in a pod), api or lease
    server_id: str = ""  # host UUID of the server that the session is for
    kubernetes_cluster: str = ""  # Kubernetes cluster that the session is for
    addr: str = ""  # where the request came from, as far as auth knows
    mfa_device: MfaDevice | UnsetType = UNSET  # second factor used; absent when it failed


class MfaLeaseCreated(ResourceEvent, frozen=True, kw_only=True, tag="mfa_lease.created"):
    """A key that is used from one address needs no second factor for a while."""

    key_fingerprint: str = ""  # SSH key, SHA256:...
    client_addr: str = ""  # address that it holds for
    mfa_device: MfaDevice | UnsetType = UNSET  # second factor used


class MfaLeaseDeleted(ResourceEvent, frozen=True, kw_only=True, tag="mfa_lease.deleted"):
    """A lease was taken away; what depended on it ended."""

    lease_user: str = ""  # whose lease it was
    key_fingerprint: str = ""  # SSH key, SHA256:...
    client_addr: str = ""  # address that it held for
