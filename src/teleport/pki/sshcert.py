"""SSH certificates of users and hosts: issuing. Verifying is `pki.sshverify`, whose names are given here too.

What is issued is verified again before it leaves, so that nothing is issued that would be refused. Fields:
`certificates.md` 2 and 4; lifetimes: `ours.md`.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from teleport.errors import BadRequest
from teleport.identity import NO_TRAITS, RemoteOrigin, SystemRole
from teleport.pki import names, sshsig
from teleport.pki.keys import PrivateKey, PublicKey
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import (
    HOST,
    MAX_CERTIFICATE_BYTES,
    USER,
    CertificateBody,
    SSHCertificate,
    encode_signed,
    flag,
    parse_certificate,
    value,
)
from teleport.pki.sshverify import (
    CLIENT_IP,
    HOST_AUTHORITY,
    HOST_ROLE,
    IMPERSONATOR,
    LOGIN_EXPIRES,
    LOGIN_SERIAL,
    MFA,
    MFA_TARGET,
    ORIGIN,
    PERMIT_AGENT_FORWARDING,
    PERMIT_PORT_FORWARDING,
    PERMIT_PTY,
    PERMIT_X11_FORWARDING,
    RECORDED_BY,
    REQUESTS,
    ROLES,
    ROUTE,
    SOURCE_PIN,
    TRAITS,
    CheckedUserCert,
    check_parsed_user_cert,
    check_user_cert,
    verify_host_cert,
    verify_user_cert,
)
from teleport.pki.sshwire import string
from teleport.pki.trust import BACKDATE, AuthorityKind, TrustedSSHAuthority, check_cluster_name

__all__ = [
    "CheckedUserCert",
    "HostCertRequest",
    "UserCertRequest",
    "check_user_cert",
    "host_principals",
    "issue_host_cert",
    "issue_user_cert",
    "new_serial",
    "verify_host_cert",
    "verify_user_cert",
]

HOST_LIFETIME = timedelta(days=90)
MIN_USER_TTL = timedelta(minutes=1)
SOURCE_ADDRESS = "source-address"  # PROTOCOL.certkeys of OpenSSH: addresses that the certificate holds from


@dataclass(frozen=True, slots=True)
class UserCertRequest:
    """What a user's SSH certificate shall say. The decision that it may say so has been taken before."""

    public_key: PublicKey
    user: str
    logins: tuple[str, ...]  # none: the certificate gets a placeholder that fits no login
    roles: tuple[str, ...]
    ttl: timedelta
    traits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_TRAITS)
    route_to_cluster: str = ""
    active_requests: tuple[str, ...] = ()
    mfa_device: str = ""
    mfa_target: str = ""  # the one target for which `mfa_device` was proved
    login_expires: datetime | None = None  # the end of the login that a certificate of one session came from
    login_serial: str = ""  # likewise: the serial number of the login's certificate
    client_ip: str = ""  # the address seen at the second factor; information only
    source_ip: str = ""  # the certificate holds from this address only
    impersonator: str = ""
    recorded_by: str = ""  # the proxy that holds the key, for a user who is connected to it, and records
    origin: RemoteOrigin | None = None  # of a user of another cluster; only where a proxy records
    permit_port_forwarding: bool = False
    permit_agent_forwarding: bool = False
    permit_x11_forwarding: bool = False
    serial: int = 0  # 64 bits; 0: one of its own
    for_sshd: bool = False  # says `source_ip` as OpenSSH does, too; our own services refuse such a certificate


@dataclass(frozen=True, slots=True)
class HostCertRequest:
    """What a host's SSH certificate shall say; `principals` come from `host_principals`."""

    public_key: PublicKey
    host_id: str
    role: SystemRole
    principals: tuple[str, ...]
    ttl: timedelta = HOST_LIFETIME
    serial: int = 0  # 64 bits; 0: one of its own


def host_principals(host_id: str, nodename: str, cluster: str, additional: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of a host's certificate, in the order of `certificates.md` 4, canonical, each once.

    `additional` are hosts of public_addr, advertise_ip and listen addresses, an unspecified address (0.0.0.0) having
    been replaced by the one that auth saw. Raises `BadRequest` for a name that is none.
    """
    wanted = [f"{host_id}.{cluster}", host_id]
    wanted += [f"{nodename}.{cluster}", nodename] if nodename else []
    wanted += ["localhost", "127.0.0.1", "::1", *additional]
    found = tuple(dict.fromkeys(names.canonical_host(name) for name in wanted))
    for name in found:
        problem = names.host_name_problem(name) or ("names no one host" if name in {"0.0.0.0", "::"} else "")  # noqa: S104  # refused, not bound
        if problem:
            raise BadRequest(f"{name!r} cannot be a name of host {host_id}: it {problem}.", hint="check public_addr")
    return found


def _issue(body: CertificateBody, authority: PrivateKey) -> bytes:
    signed = encode_signed(body, authority.public)
    blob = signed + string(sshsig.sign(authority, signed))
    if len(blob) > MAX_CERTIFICATE_BYTES:
        raise BadRequest(
            f"The certificate for {body.key_id} would have {len(blob)} bytes, more than {MAX_CERTIFICATE_BYTES}.",
            hint="give the user fewer traits or roles",
        )
    return blob


def new_serial() -> int:
    """A serial number for the certificates of one issue: random, 64 bits, never 0 (RFC 5280 section 4.1.2.2)."""
    return int.from_bytes(os.urandom(8), "big") or 1


def _check_address(address: str, user: str) -> None:
    try:
        canonical = str(ipaddress.ip_address(address))
    except ValueError:
        canonical = ""
    if canonical != address:
        raise BadRequest(f"The source pin of {user!r} must be one IP address in its usual spelling, not {address!r}.")


def _not_issued(owner: str, error: Exception) -> BadRequest:
    """Why nothing was issued, from what verifying or encoding said."""
    if isinstance(error, CertificateRefused):
        return BadRequest(f"A certificate for {owner!r} cannot be issued: {error.message}", hint=error.hint)
    why = "a text is not Unicode" if isinstance(error, UnicodeError) else "its time lies outside the calendar"
    return BadRequest(f"A certificate for {owner!r} cannot be issued: {why}.")


def _json(content: object) -> bytes:
    return value(json.dumps(content, separators=(",", ":"), ensure_ascii=False))


def _user_extensions(request: UserCertRequest) -> dict[str, bytes]:
    extensions = {PERMIT_PTY: flag(), ROLES: _json({"version": "v1", "roles": list(request.roles)})}
    for name, allowed in (
        (PERMIT_PORT_FORWARDING, request.permit_port_forwarding),
        (PERMIT_AGENT_FORWARDING, request.permit_agent_forwarding),
        (PERMIT_X11_FORWARDING, request.permit_x11_forwarding),
    ):
        if allowed:
            extensions[name] = flag()
    if request.traits:
        extensions[TRAITS] = _json({name: list(values) for name, values in request.traits.items()})
    if request.active_requests:
        extensions[REQUESTS] = _json({"access_requests": list(request.active_requests)})
    if request.origin is not None:
        origin = request.origin
        extensions[ORIGIN] = _json({"cluster": origin.cluster, "name": origin.name, "roles": list(origin.roles)})
    for name, text in (
        (ROUTE, request.route_to_cluster),
        (MFA, request.mfa_device),
        (MFA_TARGET, request.mfa_target),
        (LOGIN_EXPIRES, str(int(request.login_expires.timestamp())) if request.login_expires else ""),
        (LOGIN_SERIAL, request.login_serial),
        (CLIENT_IP, request.client_ip),
        (IMPERSONATOR, request.impersonator),
        (SOURCE_PIN, request.source_ip),
        (RECORDED_BY, request.recorded_by),
    ):
        if text:
            extensions[name] = value(text)
    return extensions


def issue_user_cert(request: UserCertRequest, authority: PrivateKey, cluster: str, now: datetime) -> SSHCertificate:
    """Signs a user certificate with the active key of `cluster`'s user authority.

    Raises `BadRequest` when the request asks for something that would be refused on use.
    """
    check_cluster_name(cluster)
    if request.ttl < MIN_USER_TTL:
        raise BadRequest(f"A certificate for {request.user!r} must live at least a minute, not {request.ttl}.")
    for login in request.logins:
        problem = names.name_problem(login)
        if problem:
            raise BadRequest(f"{login!r} cannot be a login of {request.user!r}: it {problem}.", hint="tctl get roles")
    if request.source_ip:
        _check_address(request.source_ip, request.user)
    serial = request.serial or new_serial()
    principals = tuple(dict.fromkeys(request.logins)) or (f"{names.NO_LOGIN_PREFIX}{serial:016x}",)
    try:
        body = CertificateBody(
            public_key=request.public_key,
            nonce=os.urandom(32),
            serial=serial,
            type=USER,
            key_id=request.origin.name if request.origin is not None else request.user,
            principals=principals,
            valid_after=int((now - BACKDATE).timestamp()),
            valid_before=int((now + request.ttl).timestamp()),
            critical_options={},
            extensions=_user_extensions(request),
        )
        cert = parse_certificate(_issue(body, authority))
        own = TrustedSSHAuthority(AuthorityKind.USER, cluster, (authority.public,))
        identity = check_parsed_user_cert(cert, (own,), now).identity
    except (CertificateRefused, ValueError, OverflowError) as error:
        raise _not_issued(request.user, error) from error
    asked = (tuple(dict.fromkeys(request.logins)), request.roles, dict(request.traits), request.source_ip)
    marks = (request.mfa_device, request.mfa_target, request.recorded_by, request.origin)
    said = (identity.logins, identity.roles, dict(identity.traits), identity.source_ip)
    if asked != said or marks != (
        identity.mfa_device,
        identity.mfa_target,
        identity.recorded_by,
        identity.origin,
    ):
        raise BadRequest(f"A certificate for {request.user!r} would not say what was asked for; it is not issued.")
    if request.for_sshd and request.source_ip:
        restricted = replace(body, critical_options={SOURCE_ADDRESS: value(request.source_ip)})
        return parse_certificate(_issue(restricted, authority))
    return cert


def issue_host_cert(request: HostCertRequest, authority: PrivateKey, cluster: str, now: datetime) -> SSHCertificate:
    """Signs a host certificate with the active key of `cluster`'s host authority; 90 days at most.

    Raises `BadRequest` when the request asks for something that would be refused on use.
    """
    check_cluster_name(cluster)
    if not timedelta(0) < request.ttl <= HOST_LIFETIME:
        raise BadRequest(f"A host certificate lives up to {HOST_LIFETIME.days} days, not {request.ttl}.")
    try:
        body = CertificateBody(
            public_key=request.public_key,
            nonce=os.urandom(32),
            serial=request.serial or new_serial(),
            type=HOST,
            key_id=request.host_id,
            principals=tuple(dict.fromkeys(request.principals)),
            valid_after=int((now - BACKDATE).timestamp()),
            valid_before=int((now + request.ttl).timestamp()),
            critical_options={},
            extensions={HOST_ROLE: value(request.role), HOST_AUTHORITY: value(cluster)},
        )
        blob = _issue(body, authority)
        own = TrustedSSHAuthority(AuthorityKind.HOST, cluster, (authority.public,))
        verify_host_cert(blob, (own,), now, hostname=None)
    except (CertificateRefused, ValueError, OverflowError) as error:
        raise _not_issued(request.host_id, error) from error
    return parse_certificate(blob)
