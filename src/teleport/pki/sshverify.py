"""Verifying SSH certificates of users and hosts: the one place that decides whether a certificate is believed.

Strict (threats T01 to T05, T07): right type, signed by a plain key of a known authority with an accepted algorithm,
valid now and not for ever, at least one principal and each a plain name, no critical option that the caller does not
enforce. The cluster is the authority's. Fields: `certificates.md` 2 and 4.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from teleport.clock import how_long
from teleport.identity import NO_TRAITS, HostIdentity, RemoteOrigin, SystemRole, UserIdentity, remote_user_name
from teleport.pki import names, sshsig
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshformat import (
    HOST,
    MAX_PRINCIPALS,
    USER,
    CertificateBody,
    SSHCertificate,
    parse_certificate,
    value_text,
)
from teleport.pki.sshwire import WireError
from teleport.pki.trust import BACKDATE, AuthorityKind, TrustedSSHAuthority, login_end

FOREVER = 2**64 - 1  # PROTOCOL.certkeys: no end; never issued, never believed
LAST_SECOND = 253402300799  # the last second of the year 9999: what `datetime` can say

PERMIT_PTY = "permit-pty"
PERMIT_PORT_FORWARDING = "permit-port-forwarding"
PERMIT_AGENT_FORWARDING = "permit-agent-forwarding"
PERMIT_X11_FORWARDING = "permit-X11-forwarding"
PERMITS = (PERMIT_PTY, PERMIT_PORT_FORWARDING, PERMIT_AGENT_FORWARDING, PERMIT_X11_FORWARDING)
ROLES = "teleport-roles"
TRAITS = "teleport-traits"
ROUTE = "teleport-route-to-cluster"
REQUESTS = "teleport-active-requests"
MFA = "mfa-verified"
MFA_TARGET = "teleport-mfa-target"  # ours: the one target for which `mfa-verified` counts
LOGIN_EXPIRES = "teleport-login-expires"  # ours: the end of the login, in Unix seconds, in certificates of one session
LOGIN_SERIAL = "teleport-login-serial"  # ours: the serial number of the login's certificate, likewise
RECORDED_BY = "teleport-recorded-by"  # ours: UUID of the proxy that records the sessions of this certificate
ORIGIN = "teleport-origin"  # ours: who the user is in another cluster, where this one's proxy records; JSON
CLIENT_IP = "client-ip"
IMPERSONATOR = "impersonator"
SOURCE_PIN = "teleport-source-pin"  # ours: checked at proxy and node against the client's true address (trap T-4)
FORCE_COMMAND = "force-command"  # a critical option
ENFORCED = frozenset({FORCE_COMMAND})  # the critical options that nodes of this version enforce on every channel
HOST_ROLE = "x-teleport-role"
HOST_AUTHORITY = "x-teleport-authority"


_NO_ROLE = "ask an administrator for a role, then tsh login"
_TYPE_WORD = {USER: "user", HOST: "host"}


@dataclass(frozen=True, slots=True)
class CheckedUserCert:
    """A user certificate that was verified, with what does not belong to the person."""

    identity: UserIdentity
    public_key: PublicKey  # the caller still has to prove that it holds the private half
    permits: frozenset[str]  # of PERMITS
    critical_options: Mapping[str, str]  # only options that the caller said it enforces
    client_ip: str


def _signer(cert: SSHCertificate, authorities: Sequence[TrustedSSHAuthority], kind: AuthorityKind) -> str:
    """The cluster whose authority signed `cert`; the signature is checked. Raises `CertificateRefused`."""
    for authority in authorities:
        for key in authority.keys:
            if authority.kind is kind and key.blob == cert.signer:
                sshsig.verify(key, cert.signed, cert.signature)
                return authority.cluster
    here = " and ".join(sorted({authority.cluster for authority in authorities if authority.kind is kind}))
    hint = f"tsh login to {here or 'this cluster'}; tsh status shows where you are logged in"
    if kind is AuthorityKind.HOST:
        hint = "check that the address is one of the cluster's; after a rotation of its authority: tsh login"
    try:
        known = PublicKey.from_blob(cert.signer)
    except CertificateRefused as error:
        detail = error.detail or error.message
        raise CertificateRefused(
            error.reason, "The certificate's signer is no authority.", detail=detail, hint=hint
        ) from error
    raise CertificateRefused(
        Refusal.UNKNOWN_AUTHORITY,
        f"The certificate was not signed by a {kind} authority that is trusted here.",
        detail=f"signed by {known.fingerprint()}",
        hint=hint,
    )


def _check_times(body: CertificateBody, now: datetime, hint: str) -> datetime:
    """The end of the certificate's life, `now` lying in it: valid after <= now < valid before."""
    if body.valid_before > LAST_SECOND or body.valid_after == 0:
        raise CertificateRefused(
            Refusal.UNLIMITED, "The certificate is unlimited in time, which none of this cluster is.", hint=hint
        )
    if body.valid_before <= body.valid_after:
        raise CertificateRefused(Refusal.MALFORMED, "The certificate ends before it begins.", hint=hint)
    at = now.timestamp()
    clock = f"the clock here says {now:%Y-%m-%d %H:%M:%S} UTC"
    if at < body.valid_after:
        begins = datetime.fromtimestamp(body.valid_after, UTC)
        raise CertificateRefused(
            Refusal.NOT_YET_VALID,
            f"The certificate is not valid before {begins:%Y-%m-%d %H:%M:%S} UTC, and {clock}: this clock or that of "
            f"the host which signed it is off by {how_long(body.valid_after - at)} or more.",
            hint="check the clocks of both hosts (timedatectl)",
        )
    expires = datetime.fromtimestamp(body.valid_before, UTC)
    if at >= body.valid_before:
        raise CertificateRefused(
            Refusal.EXPIRED, f"The certificate expired at {expires:%Y-%m-%d %H:%M:%S} UTC; {clock}.", hint=hint
        )
    return expires


def _check_common(
    cert: SSHCertificate, authorities: Sequence[TrustedSSHAuthority], kind: AuthorityKind, now: datetime
) -> tuple[CertificateBody, str, datetime]:
    """What holds for both kinds: form, type, signer, signature, times, key. Gives body, cluster and end."""
    body = cert.body
    wanted = USER if kind is AuthorityKind.USER else HOST
    if body.type != wanted:
        found = _TYPE_WORD.get(body.type, "unknown")
        raise CertificateRefused(
            Refusal.WRONG_TYPE, f"A {found} certificate was shown where a {kind} certificate is meant."
        )
    cluster = _signer(cert, authorities, kind)
    expires = _check_times(body, now, "tsh login" if kind is AuthorityKind.USER else "restart the host's service")
    body.public_key.crypto()
    if not body.principals:
        raise CertificateRefused(Refusal.NO_PRINCIPALS, "The certificate names nobody that it is valid for.")
    if len(body.principals) > MAX_PRINCIPALS:
        raise CertificateRefused(Refusal.BAD_PRINCIPAL, f"The certificate names more than {MAX_PRINCIPALS} principals.")
    return body, cluster, expires


def _extension(body: CertificateBody, name: str) -> str:
    """The text of an extension; empty when it is absent. Raises `CertificateRefused` when it is malformed."""
    if name not in body.extensions:
        return ""
    try:
        return value_text(body.extensions[name])
    except WireError as error:
        raise CertificateRefused(
            Refusal.MALFORMED, f"The certificate's {name} is malformed.", detail=str(error)
        ) from error


def _malformed(name: str) -> CertificateRefused:
    return CertificateRefused(Refusal.MALFORMED, f"The certificate's {name} is malformed.")


def _json_extension(body: CertificateBody, name: str) -> object:
    text = _extension(body, name)
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(name) from error


def _text_tuple(content: object, name: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise _malformed(name)
    return tuple(content)


def _roles(body: CertificateBody) -> tuple[str, ...]:
    content = _json_extension(body, ROLES)
    if content is None:
        raise CertificateRefused(Refusal.NO_ROLES, "The certificate names no role.", hint=_NO_ROLE)
    if not isinstance(content, dict) or content.get("version") != "v1":
        raise _malformed(ROLES)
    roles = _text_tuple(content.get("roles"), ROLES)
    if not roles:
        raise CertificateRefused(Refusal.NO_ROLES, "The certificate names no role.", hint=_NO_ROLE)
    if any(names.role_problem(role) for role in roles):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate names a role that cannot exist.")
    return roles


def _traits(body: CertificateBody) -> Mapping[str, tuple[str, ...]]:
    content = _json_extension(body, TRAITS)
    if content is None:
        return NO_TRAITS
    if not isinstance(content, dict):
        raise _malformed(TRAITS)
    return MappingProxyType({name: _text_tuple(values, TRAITS) for name, values in content.items()})


def _requests(body: CertificateBody) -> tuple[str, ...]:
    content = _json_extension(body, REQUESTS)
    if content is None:
        return ()
    if not isinstance(content, dict):
        raise _malformed(REQUESTS)
    return _text_tuple(content.get("access_requests", []), REQUESTS)


def _origin(body: CertificateBody, cluster: str) -> RemoteOrigin | None:
    """Who the user of another cluster is, for whom a proxy of this one was given the certificate; None for users of
    this one."""
    content = _json_extension(body, ORIGIN)
    if content is None:
        return None
    if not isinstance(content, dict) or not _extension(body, RECORDED_BY):
        raise _malformed(ORIGIN)
    of, name = content.get("cluster"), content.get("name")
    if not isinstance(of, str) or names.cluster_problem(of) or of == cluster or name != body.key_id:
        raise _malformed(ORIGIN)
    return RemoteOrigin(of, body.key_id, _text_tuple(content.get("roles"), ORIGIN))


def _source_pin(body: CertificateBody) -> str:
    """The one address that the certificate holds from; empty when it holds from any.

    A pin that is there but says nothing usable refuses the certificate: a restriction is never read as none.
    """
    if SOURCE_PIN not in body.extensions:
        return ""
    try:
        return str(ipaddress.ip_address(_extension(body, SOURCE_PIN)))
    except ValueError as error:
        raise _malformed(SOURCE_PIN) from error


def _critical(body: CertificateBody, enforced: Collection[str]) -> Mapping[str, str]:
    for name in body.critical_options:
        if name not in enforced:
            raise CertificateRefused(
                Refusal.CRITICAL_OPTION,
                f"The certificate carries the restriction {name[:64]!a}, which is not enforced here, so it is not "
                "accepted.",
                detail=ascii(name[:128]),
                hint="use a certificate without it: tsh login",
            )
    try:
        return MappingProxyType({name: value_text(data) for name, data in body.critical_options.items()})
    except WireError as error:
        raise CertificateRefused(
            Refusal.MALFORMED, "The certificate's restrictions are malformed.", detail=str(error)
        ) from error


def check_user_cert(
    blob: bytes,
    authorities: Sequence[TrustedSSHAuthority],
    now: datetime,
    *,
    enforced_critical_options: Collection[str] = (),
) -> CheckedUserCert:
    """Verifies a user certificate and gives everything it says.

    `enforced_critical_options` are those that the caller enforces itself on every channel; any other one refuses the
    certificate, force-command and source-address included. Raises `CertificateRefused`.
    """
    return check_parsed_user_cert(parse_certificate(blob), authorities, now, enforced_critical_options)


def check_parsed_user_cert(
    cert: SSHCertificate,
    authorities: Sequence[TrustedSSHAuthority],
    now: datetime,
    enforced_critical_options: Collection[str] = (),
) -> CheckedUserCert:
    """`check_user_cert` for a certificate that `sshformat.parse_certificate` read."""
    body, cluster, expires = _check_common(cert, authorities, AuthorityKind.USER, now)
    if names.user_name_problem(body.key_id):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate's user name cannot exist.")
    for principal in body.principals:
        if names.name_problem(principal) and not names.is_placeholder(principal):
            raise CertificateRefused(
                Refusal.BAD_PRINCIPAL,
                "The certificate is made out to a login that cannot exist.",
                detail=ascii(principal[:128]),
            )
    options = _critical(body, enforced_critical_options)
    forced = options.get(FORCE_COMMAND)
    if forced is not None and (not forced.strip() or "\0" in forced):
        raise CertificateRefused(Refusal.MALFORMED, "The certificate forces a command that cannot be run.")
    permits = frozenset(name for name in PERMITS if name in body.extensions)
    if any(body.extensions[name] for name in permits):
        raise CertificateRefused(Refusal.MALFORMED, "A permission of the certificate carries data.")
    origin = _origin(body, cluster)
    identity = UserIdentity(
        name=body.key_id if origin is None else remote_user_name(body.key_id, origin.cluster),
        origin=origin,
        cluster=cluster,
        roles=_roles(body),
        logins=tuple(name for name in body.principals if not names.is_placeholder(name)),
        expires=expires,
        traits=_traits(body),
        route_to_cluster=_extension(body, ROUTE),
        source_ip=_source_pin(body),
        mfa_device=_extension(body, MFA),
        mfa_target=_extension(body, MFA_TARGET),
        login_expires=login_end(_extension(body, LOGIN_EXPIRES)),
        login_serial=_extension(body, LOGIN_SERIAL),
        active_requests=_requests(body),
        impersonator=_extension(body, IMPERSONATOR),
        serial=str(body.serial),
        issued=datetime.fromtimestamp(body.valid_after, UTC) + BACKDATE,
        recorded_by=_extension(body, RECORDED_BY),
        force_command=options.get(FORCE_COMMAND, ""),
    )
    return CheckedUserCert(identity, body.public_key, permits, options, _extension(body, CLIENT_IP))


def last_moment(certificate: bytes, now: datetime) -> datetime:
    """`now`, or the last second in which a certificate (SSH blob) was in force, if that is over. Raises
    `CertificateRefused` for what is none."""
    end = parse_certificate(certificate).body.valid_before
    return now if now.timestamp() < end else datetime.fromtimestamp(max(end - 1, 0), UTC)


def verify_user_cert(
    blob: bytes,
    authorities: Sequence[TrustedSSHAuthority],
    now: datetime,
    *,
    enforced_critical_options: Collection[str] = (),
) -> UserIdentity:
    """Who the user is that `blob` certifies, as `check_user_cert`. Raises `CertificateRefused`."""
    return check_user_cert(blob, authorities, now, enforced_critical_options=enforced_critical_options).identity


def verify_host_cert(
    blob: bytes, authorities: Sequence[TrustedSSHAuthority], now: datetime, *, hostname: str | None
) -> HostIdentity:
    """Which host `blob` certifies. Raises `CertificateRefused`.

    `hostname`, when not None, must be one of the certificate's principals. None is for callers that ask for the
    host's role and not for its name.
    """
    body, cluster, expires = _check_common(parse_certificate(blob), authorities, AuthorityKind.HOST, now)
    _critical(body, ())
    for principal in body.principals:
        if names.host_name_problem(principal):
            raise CertificateRefused(
                Refusal.BAD_PRINCIPAL,
                "The certificate is made out to a host name that cannot exist.",
                detail=ascii(principal[:128]),
            )
    if names.host_id_problem(body.key_id):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate's host id cannot exist.")
    if _extension(body, HOST_AUTHORITY) != cluster:
        raise CertificateRefused(Refusal.WRONG_CLUSTER, "The host certificate names another cluster than its signer's.")
    try:
        role = SystemRole(_extension(body, HOST_ROLE))
    except ValueError as error:
        raise CertificateRefused(Refusal.NO_ROLES, "The host certificate names no role that exists.") from error
    if hostname is not None and names.canonical_host(hostname) not in body.principals:
        raise CertificateRefused(
            Refusal.WRONG_HOST,
            f"The host certificate is not made out to {hostname!a}.",
            detail=", ".join(body.principals)[:512],
        )
    return HostIdentity(body.key_id, cluster, role, expires, str(body.serial))
