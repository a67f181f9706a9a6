"""Who shows a TLS certificate: the issuing *key* says of which cluster and kind, the subject may only agree.

A user authority never makes a host and the reverse; a CA certificate is nobody's own; a certificate limited to one
usage is refused for every other (threats T01, T02, T04, T07; trap T-3). TLS libraries have checked less than this.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from teleport.errors import BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki import names
from teleport.pki.keys import PublicKey
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.trust import BACKDATE, AuthorityKind, TrustedTLSAuthority, check_cluster_name, login_end
from teleport.pki.x509subject import UserSubject, decode_host, decode_user

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MAX_CERTIFICATE_BYTES = 64 * 1024
_SIGNATURES = frozenset({"sha256", "sha384", "sha512"})


def load_certificate(data: bytes) -> Certificate:
    """One certificate, DER or PEM, not believed yet. Raises `CertificateRefused` when it is malformed."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    if len(data) > 2 * MAX_CERTIFICATE_BYTES:
        raise CertificateRefused(Refusal.TOO_LARGE, "The certificate is too large.")
    try:
        parsed = x509.load_pem_x509_certificate(data) if _is_pem(data) else x509.load_der_x509_certificate(data)
        version = parsed.version
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CertificateRefused(Refusal.MALFORMED, "This is not an X.509 certificate.", detail=str(error)) from error
    if version is not x509.Version.v3:
        raise CertificateRefused(Refusal.MALFORMED, "X.509 certificates before version 3 are not accepted.")
    signature = parsed.signature
    if parsed.public_bytes(Encoding.DER)[-len(signature) - 1] != 0:  # unused bits (X.690 8.6.2): a second spelling
        raise CertificateRefused(Refusal.MALFORMED, "The certificate's signature is not made of whole bytes.")
    if parsed.serial_number <= 0:  # RFC 5280 section 4.1.2.2; the library still reads such, with a warning
        raise CertificateRefused(Refusal.MALFORMED, "The certificate's serial number is not positive.")
    return parsed


def _is_pem(data: bytes) -> bool:
    return data.lstrip().startswith(b"-----")


def certificate_key(certificate: Certificate) -> PublicKey:
    """The certified public key. Raises `CertificateRefused` when it is weak or of a kind that is not accepted."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(Refusal.WEAK_KEY, "The certificate's key is of no accepted kind.") from error
    return PublicKey.from_crypto(key)  # type: ignore[arg-type]  # other kinds are refused there


def _check_signature(certificate: Certificate, key: PublicKey) -> bool:
    """Whether `key` signed `certificate`, with an algorithm that is accepted for such a key."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

    public = key.crypto()
    try:
        digest = certificate.signature_hash_algorithm
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(certificate.signature, certificate.tbs_certificate_bytes)
            return True
        if digest is None or digest.name not in _SIGNATURES:
            return False
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(digest))
        else:
            public.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), digest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def pem_of(text: str) -> str:
    """The first certificate in a PEM text, as it is always written, and nothing else of it. Raises
    `CertificateRefused`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return load_certificate(text.encode("ascii", "replace")).public_bytes(Encoding.PEM).decode()


def one_pem(text: str) -> str:
    """As `pem_of`, of a text that is one certificate and nothing else: what is compared, stored and handed on as text
    must not say more than what was looked at. Raises `CertificateRefused`."""
    found = pem_of(text)
    if text.strip() != found.strip():
        raise CertificateRefused(Refusal.MALFORMED, "This is not one certificate in PEM and nothing else.")
    return found


def trusted_tls_authority(kind: AuthorityKind, cluster: str, certificate: bytes) -> TrustedTLSAuthority:
    """An authority's certificate, DER or PEM, as an anchor. Raises `BadRequest` or `CertificateRefused`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    check_cluster_name(cluster)
    parsed = load_certificate(certificate)
    key = certificate_key(parsed)
    try:
        constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise BadRequest(f"The {kind} authority of {cluster} is not a CA certificate.") from error
    if not constraints.ca or not _check_signature(parsed, key):
        raise BadRequest(f"The {kind} authority of {cluster} is not a self-signed CA certificate.")
    der = parsed.public_bytes(Encoding.DER)
    return TrustedTLSAuthority(kind, cluster, der, key, parsed.not_valid_before_utc, parsed.not_valid_after_utc)


def _issuer(certificate: Certificate, authorities: Sequence[TrustedTLSAuthority], now: datetime) -> TrustedTLSAuthority:
    expired: TrustedTLSAuthority | None = None
    for authority in authorities:
        if authority.kind is AuthorityKind.JWT or not _check_signature(certificate, authority.key):
            continue
        if authority.not_before <= now < authority.not_after:
            return authority
        expired = authority
    if expired is not None:
        raise CertificateRefused(
            Refusal.AUTHORITY_EXPIRED,
            f"The {expired.kind} authority of {expired.cluster} is not valid now.",
            hint="tctl auth rotate",
        )
    raise CertificateRefused(
        Refusal.UNKNOWN_AUTHORITY, "The certificate was not signed by an authority that is trusted here."
    )


def _check_leaf(certificate: Certificate, now: datetime, hint: str) -> None:
    """Time, key, and extensions of a certificate whose signature has been checked."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if now < certificate.not_valid_before_utc:
        raise CertificateRefused(
            Refusal.NOT_YET_VALID,
            f"The certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC.",
            hint="check the clocks of both machines",
        )
    if now >= certificate.not_valid_after_utc:
        raise CertificateRefused(
            Refusal.EXPIRED,
            f"The certificate expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC.",
            hint=hint,
        )
    certificate_key(certificate)
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateRefused(
            Refusal.MALFORMED, "The certificate's extensions are malformed.", detail=str(error)
        ) from error
    usages: frozenset[x509.ObjectIdentifier] = frozenset()
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise CertificateRefused(Refusal.IS_AUTHORITY, "The certificate of an authority is nobody's own.")
            case x509.KeyUsage(key_cert_sign=True):
                raise CertificateRefused(
                    Refusal.IS_AUTHORITY, "The certificate may sign others, so it is nobody's own."
                )
            case x509.ExtendedKeyUsage() as listed:
                usages = frozenset(listed)
            case x509.UnrecognizedExtension() if extension.critical:
                raise CertificateRefused(
                    Refusal.CRITICAL_OPTION,
                    "The certificate carries a restriction that is not known here.",
                    detail=extension.oid.dotted_string,
                )
            case x509.NameConstraints() | x509.PolicyConstraints() | x509.InhibitAnyPolicy() if extension.critical:
                raise CertificateRefused(
                    Refusal.CRITICAL_OPTION,
                    "The certificate carries a restriction that is not enforced here.",
                    detail=extension.oid.dotted_string,
                )
            case _:
                pass
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise CertificateRefused(Refusal.WRONG_USAGE, "The certificate is not made for clients.")


def _user(
    subject: UserSubject, authority: TrustedTLSAuthority, issued: datetime, expires: datetime, serial: str, usage: str
) -> UserIdentity:
    if names.user_name_problem(subject.name):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate's user name cannot exist.")
    if not subject.roles:
        raise CertificateRefused(Refusal.NO_ROLES, "The certificate names no role.", hint="tsh login")
    if any(names.role_problem(role) for role in subject.roles):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate names a role that cannot exist.")
    for login in subject.logins:
        if names.name_problem(login) and not names.is_placeholder(login):
            raise CertificateRefused(Refusal.BAD_PRINCIPAL, "The certificate names a login that cannot exist.")
    if subject.usage and (not usage or usage not in subject.usage):
        raise CertificateRefused(
            Refusal.WRONG_USAGE, "The certificate is limited to another use.", detail=", ".join(subject.usage)[:256]
        )
    if subject.source_ip:
        try:
            ipaddress.ip_address(subject.source_ip)
        except ValueError as error:
            raise CertificateRefused(Refusal.MALFORMED, "The certificate's source pin is malformed.") from error
    return UserIdentity(
        name=subject.name,
        cluster=authority.cluster,
        roles=subject.roles,
        logins=tuple(login for login in subject.logins if not names.is_placeholder(login)),
        expires=expires,
        traits=subject.traits,
        route_to_cluster=subject.route_to_cluster,
        source_ip=subject.source_ip,
        mfa_device=subject.mfa_device,
        mfa_target=subject.mfa_target,
        login_expires=login_end(subject.login_expires),
        login_serial=subject.login_serial,
        active_requests=subject.active_requests,
        impersonator=subject.impersonator,
        kube_cluster=subject.kube_cluster,
        serial=serial,
        issued=issued,
    )


def last_moment(certificate: bytes) -> datetime:
    """The last second in which a certificate (DER) is in force. Raises `CertificateRefused` for what is none."""
    return load_certificate(certificate).not_valid_after_utc - timedelta(seconds=1)


def identity_from_tls(
    certificate: bytes, authorities: Sequence[TrustedTLSAuthority], now: datetime, *, usage: str = ""
) -> UserIdentity | HostIdentity:
    """Who the client is that proved `certificate` (DER) in a TLS handshake. Raises `CertificateRefused`.

    `usage` is the use that the caller serves (one of `x509subject.USAGES`); a certificate limited to usages is
    accepted only where that use is named.
    """
    parsed = load_certificate(certificate)
    authority = _issuer(parsed, authorities, now)
    hint = "tsh login" if authority.kind is AuthorityKind.USER else ""
    _check_leaf(parsed, now, hint)
    expires, serial = parsed.not_valid_after_utc, str(parsed.serial_number)
    try:
        if authority.kind is AuthorityKind.USER:
            user = decode_user(parsed.subject)
            _same_cluster(user.cluster, authority)
            return _user(user, authority, parsed.not_valid_before_utc + BACKDATE, expires, serial, usage)
        host = decode_host(parsed.subject)
    except ValueError as error:
        raise CertificateRefused(Refusal.MALFORMED, "The certificate's subject is malformed.") from error
    _same_cluster(host.cluster, authority)
    host_id = host.common_name.removesuffix(f".{authority.cluster}")
    if names.host_id_problem(host_id):
        raise CertificateRefused(Refusal.BAD_NAME, "The certificate's host id cannot exist.")
    try:
        role = SystemRole(host.role)
    except ValueError as error:
        raise CertificateRefused(Refusal.NO_ROLES, "The host certificate names no role that exists.") from error
    return HostIdentity(host_id, authority.cluster, role, expires, serial)


def _same_cluster(claimed: str, authority: TrustedTLSAuthority) -> None:
    if claimed != authority.cluster:
        raise CertificateRefused(
            Refusal.WRONG_CLUSTER,
            "The certificate names another cluster than its signer's.",
            detail=ascii(claimed[:128]),
        )
