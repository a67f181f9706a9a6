"""Who calls the auth API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from teleport.auth.watching import Watching
from teleport.identity import Anonymous, HostIdentity, Identity, UserIdentity


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as auth itself has proof, and from where."""

    identity: Identity
    address: str  # of the TLS connection's other end, or what a proxy vouched for; "" when unknown
    local_actor: Mapping[str, str] = field(default_factory=dict)  # what the host's own tctl says of its Unix user
    certificate: bytes = field(default=b"", repr=False)  # what proved the identity, DER
    vouched_by: tuple[str, ...] = ()  # addresses of the proxies that relay it, as the next one sees them
    through: str = ""  # the other cluster whose proxy says the address: only its users come that way
    watching: Watching | None = field(default=None, repr=False, compare=False)  # in which it says what it asks

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def name(self) -> str:
        """How the caller is named in events and logs."""
        match self.identity:
            case UserIdentity(name=name):
                return name
            case HostIdentity(host_id=host_id, cluster=cluster):
                return f"{host_id}.{cluster}"
            case Anonymous():
                return ""
