"""Leases of a second factor: for a while, a key that is used from one address counts as if it had been asked for.

Auth makes them when a proxy hands it a code; nodes and proxies watch them. A lease is no credential: it says something
about a key whose holder proves it with every connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from teleport.resources.metadata import Finding, Metadata, Moment, Value, shown, text_findings
from teleport.resources.names import canonical_address


def lease_name(user: str, key: str, client_address: str) -> str:
    """The name of the one lease that a user can have for a key and an address."""
    return hashlib.sha256("\0".join((user, key, client_address)).encode()).hexdigest()[:16]


class MfaLeaseSpec(Value, frozen=True, kw_only=True):
    user: str
    key: str  # fingerprint of the SSH key, SHA256:...
    client_address: str  # as the proxy saw it
    device: str = ""  # the second factor that was proved
    granted: Moment
    expires: Moment


class MfaLease(Value, frozen=True, kw_only=True):
    kind: Literal["mfa_lease"] = "mfa_lease"
    version: Literal["v1"] = "v1"
    metadata: Metadata
    spec: MfaLeaseSpec

    @property
    def name(self) -> str:
        return self.metadata.name

    def in_force(self, now: datetime) -> bool:
        """Whether it holds at `now`."""
        return now < self.spec.expires and (self.metadata.expires is None or now < self.metadata.expires)

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        spec = self.spec
        for field in ("user", "key", "device"):
            yield from text_findings(("spec", field), getattr(spec, field), 256)
        if canonical_address(spec.client_address) != spec.client_address or not spec.client_address:
            yield Finding(("spec", "client_address"), shown(spec.client_address), "an IP address in its usual spelling")
        if self.metadata.name != lease_name(spec.user, spec.key, spec.client_address):
            yield Finding(("metadata", "name"), shown(self.metadata.name), "the name that user, key and address give")
