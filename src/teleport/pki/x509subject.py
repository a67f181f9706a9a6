"""What the subject of a TLS certificate says about a user or a host, to and from X.509 names (`certificates.md` 3, 4).

Names written here put every value into an RDN of its own, so that order is kept; reading takes values wherever they
stand. Unknown attributes are ignored, as are unknown SSH extensions: they never widen anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from teleport.identity import NO_TRAITS
from teleport.pki.refusal import CertificateRefused, Refusal

if TYPE_CHECKING:
    from cryptography.x509 import Name

_PRIVATE = "1.3.9999"
KUBE_USER = f"{_PRIVATE}.1.1"
KUBE_GROUP = f"{_PRIVATE}.1.2"
KUBE_CLUSTER = f"{_PRIVATE}.1.3"
ORIGIN_CLUSTER = f"{_PRIVATE}.1.7"
MFA_DEVICE = f"{_PRIVATE}.1.8"
CLIENT_IP = f"{_PRIVATE}.1.9"
IMPERSONATOR = f"{_PRIVATE}.2.7"
ACTIVE_REQUEST = f"{_PRIVATE}.2.8"  # not in the target version; the number that later versions use
SOURCE_PIN = f"{_PRIVATE}.2.15"  # likewise
MFA_TARGET = f"{_PRIVATE}.9.1"  # ours: the one target for which the device was proved
LOGIN_EXPIRES = f"{_PRIVATE}.9.2"  # ours: the end of the login, Unix seconds, in certificates of one session
LOGIN_SERIAL = f"{_PRIVATE}.9.3"  # ours: the serial number of the login's certificate, likewise

_CN, _O, _OU, _L, _ST = "2.5.4.3", "2.5.4.10", "2.5.4.11", "2.5.4.7", "2.5.4.8"
_STREET, _POSTAL_CODE = "2.5.4.9", "2.5.4.17"

USAGES = frozenset({"usage:kube", "usage:apps", "usage:db"})


@dataclass(frozen=True, slots=True)
class UserSubject:
    """Everything that a user's certificate may say; what is empty is not written."""

    name: str
    cluster: str  # of origin
    roles: tuple[str, ...]
    logins: tuple[str, ...] = ()
    usage: tuple[str, ...] = ()  # of USAGES; none: not limited
    traits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_TRAITS)
    route_to_cluster: str = ""
    kube_users: tuple[str, ...] = ()
    kube_groups: tuple[str, ...] = ()
    kube_cluster: str = ""
    mfa_device: str = ""
    client_ip: str = ""
    source_ip: str = ""
    impersonator: str = ""
    active_requests: tuple[str, ...] = ()
    mfa_target: str = ""
    login_expires: str = ""  # Unix seconds
    login_serial: str = ""


@dataclass(frozen=True, slots=True)
class HostSubject:
    """What a host's certificate says."""

    common_name: str
    cluster: str
    role: str


def _name(pairs: list[tuple[str, str]]) -> Name:
    from cryptography import x509

    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in pairs if text]
    return x509.Name([x509.RelativeDistinguishedName([attribute]) for attribute in attributes])


def encode_user(subject: UserSubject) -> Name:
    """The X.509 name. Raises `ValueError` for a name too long to be a CN."""
    pairs = [(_CN, subject.name)]
    pairs += [(_O, role) for role in subject.roles]
    pairs += [(_OU, usage) for usage in subject.usage]
    pairs += [(_L, login) for login in subject.logins]
    pairs += [(_ST, group) for group in subject.kube_groups]
    pairs += [(_STREET, subject.route_to_cluster)]
    if subject.traits:
        traits = {name: list(values) for name, values in subject.traits.items()}
        pairs.append((_POSTAL_CODE, json.dumps(traits, separators=(",", ":"), ensure_ascii=False)))
    pairs += [(KUBE_USER, user) for user in subject.kube_users]
    pairs += [(KUBE_GROUP, group) for group in subject.kube_groups]
    pairs += [
        (KUBE_CLUSTER, subject.kube_cluster),
        (ORIGIN_CLUSTER, subject.cluster),
        (MFA_DEVICE, subject.mfa_device),
        (CLIENT_IP, subject.client_ip),
        (IMPERSONATOR, subject.impersonator),
        (SOURCE_PIN, subject.source_ip),
        (MFA_TARGET, subject.mfa_target),
        (LOGIN_EXPIRES, subject.login_expires),
        (LOGIN_SERIAL, subject.login_serial),
    ]
    pairs += [(ACTIVE_REQUEST, request) for request in subject.active_requests]
    return _name(pairs)


def encode_host(subject: HostSubject) -> Name:
    """The X.509 name."""
    return _name([(_CN, subject.common_name), (_O, subject.role), (ORIGIN_CLUSTER, subject.cluster)])


def encode_authority(cluster: str) -> Name:
    """The X.509 name of an authority: CN = O = cluster."""
    return _name([(_CN, cluster), (_O, cluster)])


def _malformed(what: str) -> CertificateRefused:
    return CertificateRefused(Refusal.MALFORMED, f"The certificate's subject has a malformed {what}.")


def _values(name: Name, oid: str) -> tuple[str, ...]:
    found = tuple(attribute.value for attribute in name if attribute.oid.dotted_string == oid)
    if not all(isinstance(text, str) for text in found):
        raise _malformed(oid)
    return tuple(str(text) for text in found)


def _one(name: Name, oid: str) -> str:
    found = _values(name, oid)
    if len(found) > 1:
        raise _malformed(oid)  # two values: which one counts would depend on the reader
    return found[0] if found else ""


def _traits(text: str) -> Mapping[str, tuple[str, ...]]:
    if not text:
        return NO_TRAITS
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed("trait list") from error
    if not isinstance(content, dict):
        raise _malformed("trait list")
    for values in content.values():
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise _malformed("trait list")
    return MappingProxyType({key: tuple(values) for key, values in content.items()})


def decode_user(name: Name) -> UserSubject:
    """Raises `CertificateRefused` when a single value stands twice or the traits are malformed."""
    return UserSubject(
        name=_one(name, _CN),
        cluster=_one(name, ORIGIN_CLUSTER),
        roles=_values(name, _O),
        logins=_values(name, _L),
        usage=_values(name, _OU),
        traits=_traits(_one(name, _POSTAL_CODE)),
        route_to_cluster=_one(name, _STREET),
        kube_users=_values(name, KUBE_USER),
        kube_groups=tuple(dict.fromkeys(_values(name, KUBE_GROUP) + _values(name, _ST))),
        kube_cluster=_one(name, KUBE_CLUSTER),
        mfa_device=_one(name, MFA_DEVICE),
        client_ip=_one(name, CLIENT_IP),
        source_ip=_one(name, SOURCE_PIN),
        impersonator=_one(name, IMPERSONATOR),
        active_requests=_values(name, ACTIVE_REQUEST),
        mfa_target=_one(name, MFA_TARGET),
        login_expires=_one(name, LOGIN_EXPIRES),
        login_serial=_one(name, LOGIN_SERIAL),
    )


def decode_host(name: Name) -> HostSubject:
    """Raises `CertificateRefused` when a value stands twice."""
    return HostSubject(_one(name, _CN), _one(name, ORIGIN_CLUSTER), _one(name, _O))
