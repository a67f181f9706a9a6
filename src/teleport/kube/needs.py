"""What the Kubernetes service asks of the daemon that runs it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Protocol

from teleport.authz.decision import AccessDenial
from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.authz.kube_resources import KubeCall
from teleport.identity import UserIdentity
from teleport.kube.credentials import KubeCluster

Context = Callable[[], ssl.SSLContext]
"""The TLS context of the next connection; it asks for a client certificate of the user authorities that count now."""


class Rules(Protocol):
    """Who somebody is, and what they may do now."""

    def verify_user_tls(self, certificate: bytes) -> UserIdentity:
        """Whose certificate (DER) it is. Raises `AccessDenied` for what is not let in, whatever TLS said."""
        ...

    def permit_kube(
        self,
        identity: UserIdentity,
        cluster: KubeCluster | None,
        name: str,
        client_address: str,
        act_as: ActAs,
        call: KubeCall | None = None,
    ) -> KubeAccessPermit | AccessDenial:
        """The decision of `authz.kube`, for what is left of the identity. `name` is what was asked for, empty when
        nothing was; `cluster` None: there is none of that name; `call` None: whether anything may be asked there."""
        ...
