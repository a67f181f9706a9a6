"""The inventory of live certificates: what auth keeps of each one that it issued, until that ends.

A record is made from the `cert.create` event, in the transaction that puts that on record (`auth.state`): there is no
certificate of ours without the event, and so none without the record. The backend forgets it at the certificate's end.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.audit.events import CertCreate
from teleport.backend.interface import PutOp
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.store.records import Record

ISSUED: Final = "certs/"  # user/<serial>, host/<serial>
LAST_USE: Final = "cert-use/"  # likewise; of its own, so that use does not change the record


class IssuedCert(Record, frozen=True, kw_only=True):
    """One issue: an SSH and a TLS certificate of the same serial number, for the same key."""

    type: str  # user or host
    serial: str
    subject: str  # user name or host UUID
    issued: datetime
    expires: datetime
    roles: list[str] = msgspec.field(default_factory=list)
    system_roles: list[str] = msgspec.field(default_factory=list)
    logins: list[str] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(default_factory=list)
    traits: dict[str, list[str]] = msgspec.field(default_factory=dict)
    key_fingerprint: str = ""
    addr: str = ""  # where it was asked for from
    by: str = ""  # who asked, when that is not the subject
    factor: str = ""
    mfa_device: str = ""
    mfa_target: str = ""
    source_ip: str = ""
    route_to_cluster: str = ""
    renewed_from: str = ""
    revoked: datetime | None = None  # last ended so; its lock may have been lifted since
    signed_by: str = ""  # SHA256:... of the SSH key of the authority that signed

    @property
    def key(self) -> str:
        return issued_key(self.type, self.serial)

    def user(self, cluster: str) -> UserIdentity:
        """What a user certificate says, as far as decisions look at it."""
        return UserIdentity(
            name=self.subject,
            cluster=cluster,
            roles=tuple(self.roles),
            logins=tuple(self.logins),
            expires=self.expires,
            traits={name: tuple(values) for name, values in self.traits.items()},
            route_to_cluster=self.route_to_cluster,
            source_ip=self.source_ip,
            mfa_device=self.mfa_device,
            mfa_target=self.mfa_target,
            serial=self.serial,
            # the event's time; what it says begins at a whole second, at the latest at the next one
            issued=self.issued.replace(microsecond=0) + timedelta(seconds=bool(self.issued.microsecond)),
        )

    def host(self, cluster: str) -> HostIdentity:
        """What a host certificate says."""
        role = SystemRole(self.system_roles[0]) if self.system_roles else SystemRole.NODE
        return HostIdentity(self.subject, cluster, role, self.expires, self.serial)


class LastUse(Record, frozen=True, kw_only=True):
    """When a certificate was last seen at work, to ten minutes or so."""

    when: datetime


def issued_key(kind: str, serial: str) -> str:
    return f"{ISSUED}{kind}/{serial}"


def last_use_key(kind: str, serial: str) -> str:
    return f"{LAST_USE}{kind}/{serial}"


def issued_write(event: CertCreate) -> PutOp | None:
    """What puts the certificate of which `event` tells into the inventory; None for one without serial or end, and for
    those of servers outside of the cluster, which nobody here is shown."""
    if event.cert_type not in ("user", "host") or not event.serial or isinstance(event.valid_until, msgspec.UnsetType):
        return None
    record = IssuedCert(
        type=event.cert_type,
        serial=event.serial,
        subject=event.subject,
        issued=event.time,
        expires=event.valid_until,
        roles=event.roles,
        system_roles=event.system_roles,
        logins=event.logins,
        names=event.names,
        traits=event.traits,
        key_fingerprint=event.key_fingerprint,
        addr=event.addr,
        by=event.user if event.user.removesuffix(f".{event.cluster_name}") != event.subject else "",
        factor=event.factor,
        mfa_device=event.mfa_device,
        mfa_target=event.mfa_target,
        source_ip=event.source_ip,
        route_to_cluster=event.route_to_cluster,
        renewed_from=event.renewed_from,
        signed_by=event.signed_by,
    )
    return PutOp(record.key, record.encode(), event.valid_until)
