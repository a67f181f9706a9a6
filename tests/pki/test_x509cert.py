"""TLS certificates: what is issued, who they make of their bearer, and what openssl and ssl say."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import PublicKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import (
    HostTLSRequest,
    UserTLSRequest,
    auth_server_name,
    identity_from_tls,
    issue_host_tls,
    issue_user_tls,
    new_tls_authority,
    pem_of,
    self_signed_web_pair,
    trusted_tls_authority,
)
from teleport.pki.x509subject import UserSubject, decode_user, encode_user

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CLUSTER = "example.com"
HOST_ID = "3f2c7f0e-6f2b-4d7f-9d3c-8f2f6f0c1a55"
USER_CA_KEY, HOST_CA_KEY, KEY = generate_p256(), generate_p256(), generate_p256()
YESTERDAY = NOW - timedelta(days=1)
USER_CA = new_tls_authority(CLUSTER, USER_CA_KEY, YESTERDAY)
HOST_CA = new_tls_authority(CLUSTER, HOST_CA_KEY, YESTERDAY)
TRUSTED = (
    trusted_tls_authority(AuthorityKind.USER, CLUSTER, USER_CA),
    trusted_tls_authority(AuthorityKind.HOST, CLUSTER, HOST_CA),
)
SUBJECT = UserSubject(
    name="alice@example.com",
    cluster=CLUSTER,
    roles=("access", "editor"),
    logins=("root", "ubuntu"),
    traits={"team": ("a b", "ü")},
    route_to_cluster="leaf",
    kube_users=("ku",),
    kube_groups=("system:masters", "dev"),
    kube_cluster="kc",
    mfa_device="device-1",
    client_ip="192.0.2.7",
    source_ip="192.0.2.9",
    impersonator="bot",
    active_requests=("0001", "0002"),
)


def user_cert(public: PublicKey = KEY.public, subject: UserSubject = SUBJECT, now: datetime = NOW) -> bytes:
    return issue_user_tls(UserTLSRequest(public, subject, timedelta(hours=12)), USER_CA, USER_CA_KEY, now)


def host_cert(role: SystemRole = SystemRole.NODE, names: tuple[str, ...] = ()) -> bytes:
    return issue_host_tls(HostTLSRequest(KEY.public, HOST_ID, role, names), HOST_CA, HOST_CA_KEY, CLUSTER, NOW)


def refusal(blob: bytes, *, now: datetime = NOW, usage: str = "") -> Refusal:
    with pytest.raises(CertificateRefused) as caught:
        identity_from_tls(blob, TRUSTED, now, usage=usage)
    return caught.value.reason


def builder(subject: x509.Name | None = None) -> x509.CertificateBuilder:
    """What a careless user authority would sign."""
    ca = x509.load_der_x509_certificate(USER_CA)
    return (
        x509.CertificateBuilder()
        .subject_name(encode_user(SUBJECT) if subject is None else subject)
        .issuer_name(ca.subject)
        .public_key(KEY.crypto().public_key())
        .serial_number(5)
        .not_valid_before(NOW - timedelta(minutes=1))
        .not_valid_after(NOW + timedelta(hours=1))
    )


CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def sealed(build: x509.CertificateBuilder, *, client: bool = True) -> bytes:
    if client:
        build = build.add_extension(CLIENT, critical=False)
    key = USER_CA_KEY.crypto()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return build.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def pair(oid: str, text: str) -> x509.Name:
    """The good subject with one attribute more."""
    more = x509.RelativeDistinguishedName([x509.NameAttribute(x509.ObjectIdentifier(oid), text)])
    return x509.Name([*encode_user(SUBJECT).rdns, more])


def test_a_user_certificate_says_back_what_was_asked() -> None:
    blob = user_cert()
    parsed = x509.load_der_x509_certificate(blob)
    assert identity_from_tls(blob, TRUSTED, NOW) == UserIdentity(
        name="alice@example.com",
        cluster=CLUSTER,
        roles=("access", "editor"),
        logins=("root", "ubuntu"),
        expires=NOW + timedelta(hours=12),
        traits={"team": ("a b", "ü")},
        route_to_cluster="leaf",
        source_ip="192.0.2.9",
        mfa_device="device-1",
        active_requests=("0001", "0002"),
        impersonator="bot",
        kube_cluster="kc",
        serial=str(parsed.serial_number),
        issued=NOW,
    )
    assert decode_user(parsed.subject) == SUBJECT


def test_the_subject_stands_where_operators_expect_it() -> None:
    """`certificates.md` 3."""
    subject = x509.load_der_x509_certificate(user_cert(subject=replace(SUBJECT, usage=("usage:kube",)))).subject
    found: dict[str, list[str]] = {}
    for attribute in subject:
        found.setdefault(attribute.oid.dotted_string, []).append(str(attribute.value))
    assert found == {
        NameOID.COMMON_NAME.dotted_string: ["alice@example.com"],
        NameOID.ORGANIZATION_NAME.dotted_string: ["access", "editor"],
        NameOID.ORGANIZATIONAL_UNIT_NAME.dotted_string: ["usage:kube"],
        NameOID.LOCALITY_NAME.dotted_string: ["root", "ubuntu"],
        NameOID.STATE_OR_PROVINCE_NAME.dotted_string: ["system:masters", "dev"],
        NameOID.STREET_ADDRESS.dotted_string: ["leaf"],
        NameOID.POSTAL_CODE.dotted_string: ['{"team":["a b","ü"]}'],
        "1.3.9999.1.1": ["ku"],
        "1.3.9999.1.2": ["system:masters", "dev"],
        "1.3.9999.1.3": ["kc"],
        "1.3.9999.1.7": [CLUSTER],
        "1.3.9999.1.8": ["device-1"],
        "1.3.9999.1.9": ["192.0.2.7"],
        "1.3.9999.2.7": ["bot"],
        "1.3.9999.2.8": ["0001", "0002"],
        "1.3.9999.2.15": ["192.0.2.9"],
    }


@pytest.mark.parametrize("key", [generate_ed25519(), generate_rsa()], ids=["ed25519", "rsa"])
def test_other_kinds_of_key_are_certified(key: object) -> None:
    public = key.public  # type: ignore[attr-defined]
    assert isinstance(identity_from_tls(user_cert(public), TRUSTED, NOW), UserIdentity)


@pytest.mark.parametrize("role", list(SystemRole))
def test_a_host_certificate_says_back_what_was_asked(role: SystemRole) -> None:
    blob = host_cert(role, ("Public.test", "10.0.0.5"))
    parsed = x509.load_der_x509_certificate(blob)
    found = identity_from_tls(blob, TRUSTED, NOW)
    assert found == HostIdentity(HOST_ID, CLUSTER, role, NOW + timedelta(days=90), str(parsed.serial_number))
    sans = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = sans.get_values_for_type(x509.DNSName)
    assert [str(ip) for ip in sans.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    assert names[:2] == [f"{HOST_ID}.{CLUSTER}", "public.test"]
    assert ("teleport.cluster.local" in names) is (role not in {SystemRole.NODE, SystemRole.ADMIN})
    assert (auth_server_name(CLUSTER) in names) is (role is SystemRole.AUTH)
    usages = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_long_cluster_name_fits_names_that_must_be_short() -> None:
    """A CN has at most 64 bytes and a DNS label 63."""
    cluster = "teleport-production.department.example.com"
    assert auth_server_name("main") == "6d61696e.teleport.cluster.local"
    assert len(auth_server_name(cluster).split(".")[0]) <= 63
    assert auth_server_name(cluster) != auth_server_name(cluster + "x")
    ca = new_tls_authority(cluster, HOST_CA_KEY, NOW)
    request = HostTLSRequest(KEY.public, HOST_ID, SystemRole.AUTH)
    blob = issue_host_tls(request, ca, HOST_CA_KEY, cluster, NOW)
    found = identity_from_tls(blob, (trusted_tls_authority(AuthorityKind.HOST, cluster, ca),), NOW)
    assert isinstance(found, HostIdentity)
    assert (found.host_id, found.cluster) == (HOST_ID, cluster)


@pytest.mark.parametrize(
    "names",
    [
        ("*.example.com",),
        ("a b",),
        (auth_server_name(CLUSTER),),
        ("teleport.cluster.local",),
        ("X.Teleport.Cluster.Local",),
    ],
    ids=str,
)
def test_a_host_gets_no_wildcard_and_no_internal_name(names: tuple[str, ...]) -> None:
    """T14: a proxy or node with auth's name could answer in its place."""
    with pytest.raises(BadRequest):
        host_cert(SystemRole.PROXY, names)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a" * 65},
        {"name": "a\nb"},
        {"roles": ()},
        {"logins": ("*",)},
        {"logins": ("",)},
        {"logins": ("-x",)},
        {"usage": ("usage:all",)},
        {"source_ip": "10.0.0.0/8"},
        {"cluster": "other"},
        {"traits": {"x": ("y" * 200_000,)}},
        {"traits": {"x": ("\ud800",)}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_what_reading_would_refuse_is_not_issued(change: dict[str, object]) -> None:
    subject = replace(SUBJECT, **change)  # type: ignore[arg-type]
    own = subject.cluster == CLUSTER
    ca = USER_CA if own else new_tls_authority("third", USER_CA_KEY, NOW)
    if not own:
        subject = replace(subject, name="")
    with pytest.raises(BadRequest):
        issue_user_tls(UserTLSRequest(KEY.public, subject, timedelta(hours=1)), ca, USER_CA_KEY, NOW)


def test_what_is_no_authority_signs_nothing() -> None:
    with pytest.raises(BadRequest):
        issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), b"no certificate", USER_CA_KEY, NOW)
    with pytest.raises(BadRequest):  # the key is not the certificate's
        issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), USER_CA, HOST_CA_KEY, NOW)
    with pytest.raises(BadRequest):
        issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), GOOD, KEY, NOW)


def test_a_lifetime_out_of_bounds_is_not_issued() -> None:
    with pytest.raises(BadRequest):
        issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(seconds=59)), USER_CA, USER_CA_KEY, NOW)
    with pytest.raises(BadRequest):
        issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(days=3_000_000)), USER_CA, USER_CA_KEY, NOW)
    request = HostTLSRequest(KEY.public, HOST_ID, SystemRole.NODE, ttl=timedelta(days=91))
    with pytest.raises(BadRequest):
        issue_host_tls(request, HOST_CA, HOST_CA_KEY, CLUSTER, NOW)


# --- who it is --------------------------------------------------------------------------------------------------


def test_the_issuing_key_says_what_kind_it_is() -> None:
    """T02: a host's subject signed by the user authority is no host, and the reverse."""
    request = HostTLSRequest(KEY.public, HOST_ID, SystemRole.AUTH)
    by_user_authority = issue_host_tls(request, USER_CA, USER_CA_KEY, CLUSTER, NOW)
    assert isinstance(identity_from_tls(by_user_authority, TRUSTED, NOW), UserIdentity)
    by_host_authority = issue_user_tls(
        UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), HOST_CA, HOST_CA_KEY, NOW
    )
    assert refusal(by_host_authority) is Refusal.MALFORMED  # two roles
    one_role = UserTLSRequest(KEY.public, replace(SUBJECT, roles=("Auth",)), timedelta(hours=1))
    assert refusal(issue_user_tls(one_role, HOST_CA, HOST_CA_KEY, NOW)) is Refusal.BAD_NAME


def test_another_clusters_authority_cannot_speak_for_this_one() -> None:
    """T-3: the subject names the root, the key is the leaf's."""
    leaf_key = generate_p256()
    leaf_ca = new_tls_authority(CLUSTER, leaf_key, NOW)
    blob = issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), leaf_ca, leaf_key, NOW)
    assert refusal(blob) is Refusal.UNKNOWN_AUTHORITY
    leaf = trusted_tls_authority(AuthorityKind.USER, "leaf", leaf_ca)
    with pytest.raises(CertificateRefused) as caught:
        identity_from_tls(blob, (*TRUSTED, leaf), NOW)
    assert caught.value.reason is Refusal.WRONG_CLUSTER


def test_a_certificate_holds_only_in_its_time() -> None:
    """T04."""
    blob = user_cert()
    assert refusal(blob, now=NOW - timedelta(minutes=1, seconds=1)) is Refusal.NOT_YET_VALID
    assert identity_from_tls(blob, TRUSTED, NOW + timedelta(hours=12, seconds=-1))
    assert refusal(blob, now=NOW + timedelta(hours=12)) is Refusal.EXPIRED
    assert refusal(blob, now=NOW + timedelta(days=3651)) is Refusal.AUTHORITY_EXPIRED


def test_an_authority_is_nobody() -> None:
    """T01: a CA certificate, or a leaf that may sign, is no one's own; what it signs is worth nothing."""
    assert refusal(USER_CA) in {Refusal.IS_AUTHORITY, Refusal.UNKNOWN_AUTHORITY}
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    middle = sealed(builder().add_extension(constraints, critical=True))
    assert refusal(middle) is Refusal.IS_AUTHORITY
    with pytest.raises(BadRequest):
        trusted_tls_authority(AuthorityKind.USER, CLUSTER, middle)
    with pytest.raises(BadRequest):
        trusted_tls_authority(AuthorityKind.USER, CLUSTER, user_cert())
    key = KEY.crypto()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    below = builder().add_extension(CLIENT, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert refusal(below) is Refusal.UNKNOWN_AUTHORITY


def test_a_usage_limited_certificate_serves_nothing_else() -> None:
    blob = user_cert(subject=replace(SUBJECT, usage=("usage:kube", "usage:db")))
    assert refusal(blob) is Refusal.WRONG_USAGE
    assert refusal(blob, usage="usage:apps") is Refusal.WRONG_USAGE
    assert identity_from_tls(blob, TRUSTED, NOW, usage="usage:kube")
    assert identity_from_tls(user_cert(), TRUSTED, NOW, usage="usage:kube")  # not limited: good for all


def test_a_certificate_for_servers_is_no_clients() -> None:
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert refusal(sealed(builder().add_extension(server, critical=False), client=False)) is Refusal.WRONG_USAGE
    assert refusal(sealed(builder(), client=False)) is Refusal.WRONG_USAGE


SUBJECTS = {
    "two names": (pair("2.5.4.3", "root"), Refusal.MALFORMED),
    "two clusters": (pair("1.3.9999.1.7", CLUSTER), Refusal.MALFORMED),
    "two pins": (pair("1.3.9999.2.15", "192.0.2.9"), Refusal.MALFORMED),
    "any login": (pair("2.5.4.7", "*"), Refusal.BAD_PRINCIPAL),
    "login list": (pair("2.5.4.7", "root,ubuntu"), Refusal.BAD_PRINCIPAL),
    "unknown usage": (pair("2.5.4.11", "anything"), Refusal.WRONG_USAGE),
    "no cluster": (encode_user(replace(SUBJECT, cluster="")), Refusal.WRONG_CLUSTER),
    "other cluster": (encode_user(replace(SUBJECT, cluster="other")), Refusal.WRONG_CLUSTER),
    "no roles": (encode_user(replace(SUBJECT, roles=())), Refusal.NO_ROLES),
    "no name": (encode_user(replace(SUBJECT, name="")), Refusal.BAD_NAME),
    "traits no JSON": (x509.Name([*encode_user(replace(SUBJECT, traits={})).rdns, *pair("2.5.4.17", "{").rdns[-1:]]),
                       Refusal.MALFORMED),
    "empty": (x509.Name([]), Refusal.WRONG_CLUSTER),
}  # fmt: skip


@pytest.mark.parametrize(("subject", "expected"), SUBJECTS.values(), ids=SUBJECTS)
def test_a_well_signed_subject_is_still_checked(subject: x509.Name, expected: Refusal) -> None:
    """T03."""
    assert refusal(sealed(builder(subject))) is expected


def test_unknown_attributes_and_extensions_are_ignored_and_unknown_restrictions_refuse() -> None:
    """T05."""
    assert identity_from_tls(sealed(builder(pair("1.3.9999.7.7", "x"))), TRUSTED, NOW)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.9999.99"), b"\x05\x00")
    assert identity_from_tls(sealed(builder().add_extension(unknown, critical=False)), TRUSTED, NOW)
    assert refusal(sealed(builder().add_extension(unknown, critical=True))) is Refusal.CRITICAL_OPTION
    limits = x509.NameConstraints(permitted_subtrees=[x509.DNSName("x.test")], excluded_subtrees=None)
    assert refusal(sealed(builder().add_extension(limits, critical=True))) is Refusal.CRITICAL_OPTION


def test_a_weak_key_or_signature_is_refused() -> None:
    """T07."""
    weak = rsa.generate_private_key(65537, 1024).public_key()
    build = builder()
    build._public_key = weak
    assert refusal(sealed(build)) is Refusal.WEAK_KEY
    big = generate_rsa()
    ca_key = big.crypto()
    assert isinstance(ca_key, rsa.RSAPrivateKey)
    ca = new_tls_authority(CLUSTER, big, NOW)
    trusted = (trusted_tls_authority(AuthorityKind.USER, CLUSTER, ca),)
    for digest, good in ((hashes.SHA256(), True), (hashes.SHA512(), True), (hashes.SHA224(), False)):
        blob = builder().add_extension(CLIENT, critical=False).sign(ca_key, digest).public_bytes(Encoding.DER)
        if good:
            assert identity_from_tls(blob, trusted, NOW)
        else:
            with pytest.raises(CertificateRefused):
                identity_from_tls(blob, trusted, NOW)


GOOD = user_cert()


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the library's word on a serial number below 1
@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), bits=st.integers(1, 255))
def test_no_changed_byte_is_believed(at: int, bits: int) -> None:
    with pytest.raises(CertificateRefused):
        identity_from_tls(GOOD[:at] + bytes([GOOD[at] ^ bits]) + GOOD[at + 1 :], TRUSTED, NOW)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_a_peer_sends_is_answered_with_a_refusal(blob: bytes) -> None:
    for sent in (blob, GOOD + blob if blob else b"", GOOD[: len(blob)], b"-----BEGIN CERTIFICATE-----\n" + blob):
        with pytest.raises(CertificateRefused):
            identity_from_tls(sent, TRUSTED, NOW)


# --- what others say --------------------------------------------------------------------------------------------


def test_openssl_verifies_what_is_issued(tmp_path: Path) -> None:
    (tmp_path / "user-ca").write_bytes(pem_of(USER_CA))
    (tmp_path / "host-ca").write_bytes(pem_of(HOST_CA))
    (tmp_path / "user").write_bytes(pem_of(GOOD))
    (tmp_path / "host").write_bytes(pem_of(host_cert(SystemRole.AUTH)))

    def verify(ca: str, cert: str, *more: str) -> int:
        command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), *more]
        return subprocess.run([*command, "-CAfile", tmp_path / ca, tmp_path / cert], check=False).returncode

    assert verify("user-ca", "user", "-purpose", "sslclient") == 0
    assert verify("host-ca", "host", "-purpose", "sslclient") == 0
    assert verify("host-ca", "host", "-purpose", "sslserver", "-verify_hostname", auth_server_name(CLUSTER)) == 0
    assert verify("host-ca", "host", "-purpose", "sslserver", "-verify_hostname", "other") != 0
    assert verify("user-ca", "user", "-purpose", "sslserver") != 0
    assert verify("user-ca", "host") != 0


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes | None:
    """A TLS handshake in memory; gives the client's certificate as the server saw it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = [0, 1]
    for _ in range(20):
        for end in list(waiting):
            try:
                ends[end].do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return ends[1].getpeercert(binary_form=True)


def context(protocol: int, cert: bytes, ca: bytes, folder: Path) -> ssl.SSLContext:
    found = ssl.SSLContext(protocol)
    path = folder / "chain"
    path.write_bytes(pem_of(cert) + KEY.pkcs8_pem().reveal())
    found.load_cert_chain(path)
    found.load_verify_locations(cadata=pem_of(ca).decode())
    found.verify_mode = ssl.CERT_REQUIRED
    return found


def test_a_real_handshake_carries_the_identity(tmp_path: Path) -> None:
    """Server and user prove themselves to each other; only the auth server has auth's name."""
    now = datetime.now(UTC)
    user_ca, host_ca = new_tls_authority(CLUSTER, USER_CA_KEY, now), new_tls_authority(CLUSTER, HOST_CA_KEY, now)
    user = issue_user_tls(UserTLSRequest(KEY.public, SUBJECT, timedelta(hours=1)), user_ca, USER_CA_KEY, now)
    auth, proxy = (
        issue_host_tls(HostTLSRequest(KEY.public, HOST_ID, role), host_ca, HOST_CA_KEY, CLUSTER, now)
        for role in (SystemRole.AUTH, SystemRole.PROXY)
    )
    client = context(ssl.PROTOCOL_TLS_CLIENT, user, host_ca, tmp_path)
    server = context(ssl.PROTOCOL_TLS_SERVER, auth, user_ca, tmp_path)
    seen = handshake(server, client, auth_server_name(CLUSTER))
    assert seen is not None
    found = identity_from_tls(seen, (trusted_tls_authority(AuthorityKind.USER, CLUSTER, user_ca),), now)
    assert isinstance(found, UserIdentity)
    assert found.name == "alice@example.com"
    impostor = context(ssl.PROTOCOL_TLS_SERVER, proxy, user_ca, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(impostor, client, auth_server_name(CLUSTER))


def test_the_web_pair_serves_its_names(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    cert = self_signed_web_pair(["Proxy.example.com", "127.0.0.1", "::1"], KEY, now)
    parsed = x509.load_der_x509_certificate(cert)
    assert parsed.not_valid_after_utc - now <= timedelta(days=825)
    server = context(ssl.PROTOCOL_TLS_SERVER, cert, cert, tmp_path)
    server.verify_mode = ssl.CERT_NONE
    client = ssl.create_default_context(cadata=pem_of(cert).decode())
    for name in ("proxy.example.com", "127.0.0.1", "::1"):
        handshake(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "other.example.com")
    with pytest.raises(BadRequest):
        self_signed_web_pair([], KEY, now)
