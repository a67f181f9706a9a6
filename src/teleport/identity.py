"""Who a caller is, whichever certificate said so.

An `Identity` is read from a verified certificate (X.509 or SSH) and is all that decisions look at. It is never
built from what a peer merely claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

MFA_API = "api"  # the target of a second factor that was proved for a call to the auth API
MFA_KUBE = "kube:"  # begins the target of one that was proved for a Kubernetes cluster, whose name follows
NO_TRAITS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class SystemRole(StrEnum):
    """What a host certificate may be used for (`certificates.md` 4)."""

    ADMIN = "Admin"
    AUTH = "Auth"
    PROXY = "Proxy"
    NODE = "Node"
    KUBE = "Kube"
    APP = "App"
    DB = "Db"


REMOTE_PREFIX = "remote-"  # with which the names of users of other clusters begin


def remote_user_name(user: str, cluster: str) -> str:
    """What a user of another cluster is called here, in roles' conditions, locks, events and lists."""
    return f"{REMOTE_PREFIX}{user}-{cluster}"


@dataclass(frozen=True, slots=True)
class RemoteOrigin:
    """Who somebody is in the cluster that they come from: what their certificate says."""

    cluster: str  # whose authority signed
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """A person or a program that logged in, as its certificate says."""

    name: str
    cluster: str  # whose authority signed the certificate, from the issuing key, never from the subject alone
    roles: tuple[str, ...]
    logins: tuple[str, ...]
    expires: datetime
    traits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_TRAITS)
    route_to_cluster: str = ""
    source_ip: str = ""  # when not empty the certificate holds from this address only
    mfa_device: str = ""  # a second factor that was proved for one session
    mfa_target: str = ""  # for what: a host's UUID, `MFA_KUBE` and a name, or `MFA_API`; elsewhere it is nothing
    login_expires: datetime | None = None  # of a certificate for one session: the end of the login it came from
    login_serial: str = ""  # likewise: the serial number of the login's certificate
    active_requests: tuple[str, ...] = ()
    impersonator: str = ""
    serial: str = ""  # decimal, as ssh-keygen -L prints it; the SSH and TLS certificates of one issue share it
    issued: datetime | None = None  # whole seconds
    recorded_by: str = ""  # UUID of the proxy that ends the user's connection, and records what it begins with this
    force_command: str = ""  # a session of this certificate runs this, whatever was asked for
    denying: tuple[
        str, ...
    ] = ()  # roles that the user was given since: what they deny counts, what they allow does not
    kube_cluster: str = ""  # the Kubernetes cluster that the certificate is for; empty: none was chosen
    origin: RemoteOrigin | None = None  # of a user of another cluster, who was mapped to what stands here


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """A daemon of this cluster acting in one system role."""

    host_id: str  # the host's UUID
    cluster: str
    role: SystemRole
    expires: datetime
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A caller that showed no certificate."""


Identity = UserIdentity | HostIdentity | Anonymous
