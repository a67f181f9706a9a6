"""SSH certificates: what is issued, what is believed, and what OpenSSH says of both."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import SSHCertificate as PycaCertificate
from cryptography.hazmat.primitives.serialization import load_ssh_public_identity
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import AccessDenied, BadRequest
from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki import sshsig
from teleport.pki.keys import KeyKind, PrivateKey, PublicKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshcert import (
    HostCertRequest,
    UserCertRequest,
    check_user_cert,
    host_principals,
    issue_host_cert,
    issue_user_cert,
    verify_host_cert,
    verify_user_cert,
)
from teleport.pki.sshformat import (
    HOST,
    USER,
    CertificateBody,
    encode_signed,
    parse_certificate,
    parse_certificate_line,
    value,
)
from teleport.pki.sshwire import string
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CLUSTER = "example.com"
HOST_ID = "3f2c7f0e-6f2b-4d7f-9d3c-8f2f6f0c1a55"
USER_CA, HOST_CA, OTHER_CA = generate_ed25519(), generate_ed25519(), generate_ed25519()
USER_KEY = generate_p256()
RSA_KEY = generate_rsa()
TRUSTED = (
    TrustedSSHAuthority(AuthorityKind.USER, CLUSTER, (USER_CA.public,)),
    TrustedSSHAuthority(AuthorityKind.HOST, CLUSTER, (HOST_CA.public,)),
)
ROLES = value('{"version":"v1","roles":["access"]}')


def user_request(public_key: PublicKey = USER_KEY.public) -> UserCertRequest:
    return UserCertRequest(
        public_key=public_key,
        user="alice@example.com",
        logins=("root", "ubuntu"),
        roles=("access", "editor"),
        ttl=timedelta(hours=12),
        traits={"logins": ("root",), "team": ("a b", "ü")},
        route_to_cluster="leaf.example.com",
        active_requests=("0001", "0002"),
        mfa_device="device-1",
        client_ip="192.0.2.7",
        source_ip="192.0.2.9",
        impersonator="bot",
        permit_port_forwarding=True,
    )


def host_request() -> HostCertRequest:
    return HostCertRequest(
        generate_ed25519().public, HOST_ID, SystemRole.NODE, host_principals(HOST_ID, "Node-1", CLUSTER, ["10.0.0.5"])
    )


def body(**changes: object) -> CertificateBody:
    """A good user certificate's body, with changes."""
    good = CertificateBody(
        public_key=USER_KEY.public,
        nonce=bytes(32),
        serial=7,
        type=USER,
        key_id="alice",
        principals=("root",),
        valid_after=int(NOW.timestamp()) - 60,
        valid_before=int(NOW.timestamp()) + 3600,
        critical_options={},
        extensions={"permit-pty": b"", "teleport-roles": ROLES},
    )
    return replace(good, **changes)  # type: ignore[arg-type]  # the tests name real fields


def host_body(**changes: object) -> CertificateBody:
    extensions = {"x-teleport-role": value("Node"), "x-teleport-authority": value(CLUSTER)}
    fixed: dict[str, object] = {"type": HOST, "key_id": HOST_ID, "principals": (HOST_ID,), "extensions": extensions}
    return body(**{**fixed, **changes})


def sealed(content: CertificateBody, signer: PrivateKey = USER_CA) -> bytes:
    """The certificate as a careless or hostile authority would sign it."""
    signed = encode_signed(content, signer.public)
    return signed + string(sshsig.sign(signer, signed))


def refusal(blob: bytes, *, now: datetime = NOW, trusted: tuple[TrustedSSHAuthority, ...] = TRUSTED) -> Refusal:
    with pytest.raises(CertificateRefused) as caught:
        verify_user_cert(blob, trusted, now)
    assert isinstance(caught.value, AccessDenied)
    assert caught.value.message.endswith(".")
    return caught.value.reason


def host_refusal(blob: bytes, hostname: str | None = None) -> Refusal:
    with pytest.raises(CertificateRefused) as caught:
        verify_host_cert(blob, TRUSTED, NOW, hostname=hostname)
    return caught.value.reason


def keygen(*arguments: str) -> str:
    done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


# --- what is issued ---------------------------------------------------------------------------------------------


def test_a_user_certificate_says_back_what_was_asked() -> None:
    cert = issue_user_cert(user_request(), USER_CA, CLUSTER, NOW)
    found = check_user_cert(cert.blob, TRUSTED, NOW)
    assert found.identity == UserIdentity(
        name="alice@example.com",
        cluster=CLUSTER,
        roles=("access", "editor"),
        logins=("root", "ubuntu"),
        expires=NOW + timedelta(hours=12),
        traits={"logins": ("root",), "team": ("a b", "ü")},
        route_to_cluster="leaf.example.com",
        source_ip="192.0.2.9",
        mfa_device="device-1",
        active_requests=("0001", "0002"),
        impersonator="bot",
        serial=str(cert.body.serial),
        issued=NOW,
    )
    assert found.public_key == USER_KEY.public
    assert found.permits == {"permit-pty", "permit-port-forwarding"}
    assert found.client_ip == "192.0.2.7"
    assert cert.body.valid_after == NOW.timestamp() - 60
    assert not cert.body.critical_options


def test_a_host_certificate_says_back_what_was_asked() -> None:
    cert = issue_host_cert(host_request(), HOST_CA, CLUSTER, NOW)
    for name in (HOST_ID, f"{HOST_ID}.{CLUSTER}", "node-1", "NODE-1.example.com", "localhost", "::1", "0:0::1"):
        found = verify_host_cert(cert.blob, TRUSTED, NOW, hostname=name)
        assert found == HostIdentity(HOST_ID, CLUSTER, SystemRole.NODE, NOW + timedelta(days=90), str(cert.body.serial))
    assert host_refusal(cert.blob, "node-2") is Refusal.WRONG_HOST
    assert host_refusal(cert.blob, "") is Refusal.WRONG_HOST


def test_certificates_differ_in_serial_and_nonce() -> None:
    certs = [issue_user_cert(user_request(), USER_CA, CLUSTER, NOW).body for _ in range(5)]
    assert len({cert.serial for cert in certs}) == len({cert.nonce for cert in certs}) == 5


@pytest.mark.parametrize("kind", list(KeyKind))
def test_every_accepted_kind_of_key_is_certified(kind: KeyKind, tmp_path: Path) -> None:
    """Older clients bring RSA keys, others keys of a security device; OpenSSH reads each certificate."""
    public = public_of(kind, tmp_path)
    cert = issue_user_cert(user_request(public), USER_CA, CLUSTER, NOW)
    assert parse_certificate_line(cert.line("c")) == cert
    assert check_user_cert(cert.blob, TRUSTED, NOW).public_key == public
    path = tmp_path / "cert.pub"
    path.write_text(cert.line() + "\n")
    shown = keygen("-L", "-f", str(path))
    assert f"Public key: {shown_kind(kind)}-CERT {public.fingerprint()}" in shown
    assert f"Signing CA: ED25519 {USER_CA.public.fingerprint()} (using ssh-ed25519)" in shown
    assert 'Key ID: "alice@example.com"' in shown
    assert f"Serial: {cert.body.serial}" in shown


def public_of(kind: KeyKind, tmp_path: Path) -> PublicKey:
    if kind is KeyKind.SK_ED25519:
        return PublicKey.from_blob(string(kind.encode()) + generate_ed25519().public.fields() + string(b"ssh:"))
    if kind is KeyKind.SK_P256:
        return PublicKey.from_blob(string(kind.encode()) + generate_p256().public.fields() + string(b"ssh:"))
    sort, bits = {
        KeyKind.ED25519: ("ed25519", "256"),
        KeyKind.P256: ("ecdsa", "256"),
        KeyKind.P384: ("ecdsa", "384"),
        KeyKind.P521: ("ecdsa", "521"),
        KeyKind.RSA: ("rsa", "2048"),
    }[kind]
    keygen("-q", "-t", sort, "-b", bits, "-N", "", "-f", str(tmp_path / "key"))
    return PublicKey.parse((tmp_path / "key.pub").read_text())


def shown_kind(kind: KeyKind) -> str:
    return {
        KeyKind.ED25519: "ED25519",
        KeyKind.RSA: "RSA",
        KeyKind.SK_ED25519: "ED25519-SK",
        KeyKind.SK_P256: "ECDSA-SK",
    }.get(kind, "ECDSA")


def test_openssh_and_cryptography_read_the_same_as_we_do(tmp_path: Path) -> None:
    cert = issue_user_cert(user_request(), USER_CA, CLUSTER, NOW)
    theirs = load_ssh_public_identity(cert.line().encode())
    assert isinstance(theirs, PycaCertificate)
    theirs.verify_cert_signature()
    assert [name.decode() for name in theirs.valid_principals] == ["root", "ubuntu"]
    assert (theirs.serial, theirs.key_id, theirs.nonce) == (cert.body.serial, b"alice@example.com", cert.body.nonce)
    assert theirs.extensions[b"teleport-roles"] == b'{"version":"v1","roles":["access","editor"]}'
    assert theirs.extensions[b"permit-pty"] == b""
    (tmp_path / "c.pub").write_text(cert.line())
    shown = keygen("-L", "-f", str(tmp_path / "c.pub"))
    assert "Critical Options: (none)" in shown
    for name in ("permit-pty", "permit-port-forwarding", "teleport-roles UNKNOWN OPTION", "teleport-source-pin"):
        assert name in shown
    assert "permit-X11-forwarding" not in shown


def test_no_logins_never_means_any_login() -> None:
    """An empty list of principals would be valid for everybody, so it is filled with a name that nobody has."""
    cert = issue_user_cert(replace(user_request(), logins=()), USER_CA, CLUSTER, NOW)
    assert len(cert.body.principals) == 1
    assert cert.body.principals[0].startswith("-teleport-nologin-")
    assert verify_user_cert(cert.blob, TRUSTED, NOW).logins == ()


BAD_LOGINS = {
    "empty": "",
    "any": "*",
    "pattern": "ro?t",
    "pattern inside": "ro*",
    "two": "root,ubuntu",
    "path": "root/../x",
    "newline": "root\n",
    "nul": "root\x00",
    "escape": "ro\x1bot",
    "option": "-oProxyCommand=x",
    "no-login prefix": "-teleport-nologin-x",
    "space": "ro ot",
    "field": "root:x",
    "folder": "..",
    "not normal": "e\u0301ve",
    "full width": "\uff52\uff4f\uff4f\uff54",
    "look-alike": "r\u043e\u043et",
    "hidden": "ro\u200bot",
    "right to left": "root\u202e",
    "surrogate": "\ud800",
    "long": "r" * 256,
}


@pytest.mark.parametrize("login", BAD_LOGINS.values(), ids=BAD_LOGINS)
def test_a_login_that_could_be_misread_is_never_issued(login: str) -> None:
    """T03."""
    with pytest.raises(BadRequest):
        issue_user_cert(replace(user_request(), logins=("root", login)), USER_CA, CLUSTER, NOW)


@pytest.mark.parametrize(
    "login", [login for login in BAD_LOGINS.values() if "\ud800" not in login and "nologin" not in login]
)
def test_a_login_that_could_be_misread_is_never_believed(login: str) -> None:
    """T03, for certificates that a careless authority signed."""
    assert refusal(sealed(body(principals=("root", login)))) is Refusal.BAD_PRINCIPAL


@pytest.mark.parametrize("login", ["root", "a.b", "svc_1", "bob@corp", "CORP\\bob", "müller", "машина", "x$"])
def test_ordinary_logins_are_issued_exactly(login: str) -> None:
    cert = issue_user_cert(replace(user_request(), logins=(login,)), USER_CA, CLUSTER, NOW)
    assert verify_user_cert(cert.blob, TRUSTED, NOW).logins == (login,)


@pytest.mark.parametrize(
    "change",
    [
        {"user": ""},
        {"user": "a\nb"},
        {"user": "\ud800"},
        {"user": "a" * 65},
        {"roles": ()},
        {"roles": ("",)},
        {"roles": ("a\n",)},
        {"ttl": timedelta(seconds=59)},
        {"ttl": -timedelta(hours=1)},
        {"ttl": timedelta(days=365 * 9000)},
        {"source_ip": "192.0.2.0/24"},
        {"source_ip": "0192.0.2.9"},
        {"logins": tuple(f"u{n}" for n in range(257))},
        {"traits": {"x": ("y" * 70_000,)}},
        {"traits": {"x": ("\ud800",)}},
    ],
    ids=str,
)
def test_what_verifying_would_refuse_is_not_issued(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as caught:
        issue_user_cert(replace(user_request(), **change), USER_CA, CLUSTER, NOW)  # type: ignore[arg-type]
    assert str(caught.value)


@pytest.mark.parametrize("cluster", ["", "*", "a b", "a,b", "a..b", "-a", "x" * 65, "ü"])
def test_a_cluster_has_a_host_like_name(cluster: str) -> None:
    with pytest.raises(BadRequest):
        issue_user_cert(user_request(), USER_CA, cluster, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"principals": ()},
        {"principals": ("*.example.com",)},
        {"principals": ("*",)},
        {"principals": ("a,b",)},
        {"principals": ("Upper",)},
        {"principals": ("a\nb",)},
        {"host_id": ""},
        {"host_id": "a.b"},
        {"ttl": timedelta(days=91)},
        {"ttl": timedelta(0)},
    ],
    ids=str,
)
def test_a_host_certificate_that_would_be_refused_is_not_issued(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        issue_host_cert(replace(host_request(), **change), HOST_CA, CLUSTER, NOW)  # type: ignore[arg-type]


def test_host_principals_keep_their_order_and_stand_once() -> None:
    found = host_principals(HOST_ID, "Web", CLUSTER, ["10.0.0.5", "web", "127.0.0.1", "[2001:DB8::0:1]", "public.test"])
    assert found == (
        f"{HOST_ID}.{CLUSTER}", HOST_ID, "web.example.com", "web", "localhost", "127.0.0.1", "::1",
        "10.0.0.5", "2001:db8::1", "public.test",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["0.0.0.0", "::", "*", "*.test", "a b", "a/b", "-x", "fe80::1%eth0", "ü.test"])
def test_what_names_no_one_host_is_no_principal(name: str) -> None:
    with pytest.raises(BadRequest):
        host_principals(HOST_ID, "web", CLUSTER, [name])


# --- what is believed -------------------------------------------------------------------------------------------


def certificate_as_signer() -> bytes:
    """Signed by a key that is itself only certified: the blob of its certificate stands as the signer."""
    middle = generate_ed25519()
    middle_cert = sealed(body(public_key=middle.public))
    signed = encode_signed(body(), PublicKey(KeyKind.ED25519, middle_cert))
    return signed + string(sshsig.sign(middle, signed))


def authority_certified_by_itself() -> bytes:
    """The authority's own key, wrapped in a certificate, stands as the signer."""
    wrapped = sealed(body(public_key=USER_CA.public))
    signed = encode_signed(body(), PublicKey(KeyKind.ED25519, wrapped))
    return signed + string(sshsig.sign(USER_CA, signed))


def test_a_certificate_never_stands_in_for_an_authority() -> None:
    """T01: certificate blob as signer, chains, and a certified key that signs."""
    assert refusal(certificate_as_signer()) is Refusal.SIGNER_IS_CERTIFICATE
    assert refusal(authority_certified_by_itself()) is Refusal.SIGNER_IS_CERTIFICATE
    assert refusal(sealed(body(), USER_KEY)) is Refusal.UNKNOWN_AUTHORITY  # signed by the certified key itself
    with pytest.raises(CertificateRefused) as caught:
        TrustedSSHAuthority(AuthorityKind.USER, CLUSTER, (PublicKey(KeyKind.ED25519, sealed(body())),))
    assert caught.value.reason is Refusal.SIGNER_IS_CERTIFICATE
    with pytest.raises(CertificateRefused):
        PublicKey.parse(parse_certificate(sealed(body())).line())


def test_users_are_not_hosts_and_clusters_not_each_other() -> None:
    """T02."""
    user, host = sealed(body()), sealed(host_body(), HOST_CA)
    verify_user_cert(user, TRUSTED, NOW)
    verify_host_cert(host, TRUSTED, NOW, hostname=HOST_ID)
    assert host_refusal(user) is Refusal.WRONG_TYPE
    assert refusal(host) is Refusal.WRONG_TYPE
    assert refusal(sealed(body(type=3))) is Refusal.WRONG_TYPE
    assert refusal(sealed(body(), HOST_CA)) is Refusal.UNKNOWN_AUTHORITY  # a host authority makes no users
    assert host_refusal(sealed(host_body(), USER_CA)) is Refusal.UNKNOWN_AUTHORITY
    assert refusal(sealed(body(), OTHER_CA)) is Refusal.UNKNOWN_AUTHORITY
    assert refusal(user, trusted=()) is Refusal.UNKNOWN_AUTHORITY


def test_the_cluster_is_the_authoritys() -> None:
    """T02, T-3: whatever a certificate says of its cluster, the signing key decides."""
    leaf = TrustedSSHAuthority(AuthorityKind.USER, "leaf", (OTHER_CA.public,))
    found = verify_user_cert(sealed(body(), OTHER_CA), (*TRUSTED, leaf), NOW)
    assert found.cluster == "leaf"
    extensions = {"x-teleport-role": value("Proxy"), "x-teleport-authority": value("other")}
    assert host_refusal(sealed(host_body(extensions=extensions), HOST_CA)) is Refusal.WRONG_CLUSTER
    assert host_refusal(sealed(host_body(extensions={}), HOST_CA)) is Refusal.WRONG_CLUSTER


SECOND = int(NOW.timestamp())
TIMES = {
    "begins now": (SECOND, SECOND + 1, None),
    "ends now": (SECOND - 60, SECOND, Refusal.EXPIRED),
    "ended": (SECOND - 60, SECOND - 1, Refusal.EXPIRED),
    "begins in a second": (SECOND + 1, SECOND + 60, Refusal.NOT_YET_VALID),
    "since ever": (0, SECOND + 60, Refusal.UNLIMITED),
    "for ever": (SECOND - 60, 2**64 - 1, Refusal.UNLIMITED),
    "always": (0, 2**64 - 1, Refusal.UNLIMITED),
    "nearly for ever": (SECOND - 60, 2**64 - 2, Refusal.UNLIMITED),
    "beyond dates": (SECOND - 60, 2**63, Refusal.UNLIMITED),
    "both for ever": (2**64 - 1, 2**64 - 1, Refusal.UNLIMITED),
    "never": (0, 0, Refusal.UNLIMITED),
    "backwards": (SECOND + 60, SECOND - 60, Refusal.MALFORMED),
    "begins beyond dates": (2**63, 2**62, Refusal.UNLIMITED),
}


@pytest.mark.parametrize(("after", "before", "expected"), TIMES.values(), ids=TIMES)
def test_a_certificate_holds_only_in_its_time(after: int, before: int, expected: Refusal | None) -> None:
    """T04: valid after <= now < valid before, and never without end."""
    blob = sealed(body(valid_after=after, valid_before=before))
    if expected is None:
        assert verify_user_cert(blob, TRUSTED, NOW).name == "alice"
    else:
        assert refusal(blob) is expected


CHANGES: dict[str, tuple[dict[str, object], Refusal]] = {
    "no principals": ({"principals": ()}, Refusal.NO_PRINCIPALS),
    "user name empty": ({"key_id": ""}, Refusal.BAD_NAME),
    "user name with newline": ({"key_id": "alice\nroot"}, Refusal.BAD_NAME),
    "force-command": ({"critical_options": {"force-command": value("id")}}, Refusal.CRITICAL_OPTION),
    "source-address": ({"critical_options": {"source-address": value("10.0.0.0/8")}}, Refusal.CRITICAL_OPTION),
    "unknown option": ({"critical_options": {"x@y": b""}}, Refusal.CRITICAL_OPTION),
    "no roles": ({"extensions": {"permit-pty": b""}}, Refusal.NO_ROLES),
    "empty roles": ({"extensions": {"teleport-roles": value('{"version":"v1","roles":[]}')}}, Refusal.NO_ROLES),
    "roles of a later version": (
        {"extensions": {"teleport-roles": value('{"version":"v2","roles":["x"]}')}}, Refusal.MALFORMED,
    ),
    "roles no list": ({"extensions": {"teleport-roles": value('{"version":"v1","roles":"x"}')}}, Refusal.MALFORMED),
    "roles no JSON": ({"extensions": {"teleport-roles": value("{")}}, Refusal.MALFORMED),
    "roles too deep": ({"extensions": {"teleport-roles": value("[" * 20_000)}}, Refusal.MALFORMED),
    "roles not nested": ({"extensions": {"teleport-roles": b"xx"}}, Refusal.MALFORMED),
    "traits no map": ({"extensions": {"teleport-roles": ROLES, "teleport-traits": value("[]")}}, Refusal.MALFORMED),
    "requests no map": (
        {"extensions": {"teleport-roles": ROLES, "teleport-active-requests": value("[]")}}, Refusal.MALFORMED,
    ),
    "pin empty": ({"extensions": {"teleport-roles": ROLES, "teleport-source-pin": b""}}, Refusal.MALFORMED),
    "pin blank": ({"extensions": {"teleport-roles": ROLES, "teleport-source-pin": value("")}}, Refusal.MALFORMED),
    "pin no address": ({"extensions": {"teleport-roles": ROLES, "teleport-source-pin": value("*")}}, Refusal.MALFORMED),
    "permit with data": ({"extensions": {"teleport-roles": ROLES, "permit-pty": value("no")}}, Refusal.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_well_signed_certificate_is_still_checked(change: dict[str, object], expected: Refusal) -> None:
    """T03, T05: restrictions that are not understood refuse, and nothing missing widens anything."""
    assert refusal(sealed(body(**change))) is expected


def test_an_unknown_extension_is_ignored() -> None:
    """T05."""
    extensions = {"teleport-roles": ROLES, "future@example.com": b"\x00\x01", "permit-user-rc": b""}
    found = check_user_cert(sealed(body(extensions=extensions)), TRUSTED, NOW)
    assert found.identity.roles == ("access",)
    assert found.permits == frozenset()


def test_a_critical_option_is_accepted_only_by_who_enforces_it() -> None:
    """T05."""
    blob = sealed(body(critical_options={"source-address": value("10.0.0.0/8")}))
    found = check_user_cert(blob, TRUSTED, NOW, enforced_critical_options={"source-address"})
    assert found.critical_options == {"source-address": "10.0.0.0/8"}
    with pytest.raises(CertificateRefused):
        check_user_cert(blob, TRUSTED, NOW, enforced_critical_options={"force-command"})
    host = sealed(host_body(critical_options={"source-address": value("10.0.0.0/8")}), HOST_CA)
    assert host_refusal(host) is Refusal.CRITICAL_OPTION


HOST_CHANGES: dict[str, tuple[dict[str, object], Refusal]] = {
    "no principals": ({"principals": ()}, Refusal.NO_PRINCIPALS),
    "any host": ({"principals": ("*",)}, Refusal.BAD_PRINCIPAL),
    "any host below": ({"principals": (HOST_ID, "*.example.com")}, Refusal.BAD_PRINCIPAL),
    "two in one": ({"principals": ("a,b",)}, Refusal.BAD_PRINCIPAL),
    "upper case": ({"principals": ("Web",)}, Refusal.BAD_PRINCIPAL),
    "other spelling": ({"principals": ("0:0::1",)}, Refusal.BAD_PRINCIPAL),
    "host id": ({"key_id": "a.b"}, Refusal.BAD_NAME),
    "no role": ({"extensions": {"x-teleport-authority": value(CLUSTER)}}, Refusal.NO_ROLES),
    "unknown role": (
        {"extensions": {"x-teleport-authority": value(CLUSTER), "x-teleport-role": value("Root")}}, Refusal.NO_ROLES,
    ),
    "for ever": ({"valid_before": 2**64 - 1}, Refusal.UNLIMITED),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), HOST_CHANGES.values(), ids=HOST_CHANGES)
def test_a_well_signed_host_certificate_is_still_checked(change: dict[str, object], expected: Refusal) -> None:
    assert host_refusal(sealed(host_body(**change), HOST_CA)) is expected


# --- weak algorithms --------------------------------------------------------------------------------------------


def rsa_signed(algorithm: str) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = RSA_KEY.crypto()
    assert isinstance(key, rsa.RSAPrivateKey)
    digest = {"ssh-rsa": hashes.SHA1(), "rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}[algorithm]
    signed = encode_signed(body(), RSA_KEY.public)
    raw = key.sign(signed, padding.PKCS1v15(), digest)
    return signed + string(string(algorithm.encode()) + string(raw))


def test_an_rsa_authority_signs_with_sha2_only() -> None:
    """T07: ssh-rsa is SHA-1, refused though the signature is right."""
    trusted = (TrustedSSHAuthority(AuthorityKind.USER, CLUSTER, (RSA_KEY.public,)),)
    assert verify_user_cert(rsa_signed("rsa-sha2-256"), trusted, NOW).name == "alice"
    assert verify_user_cert(rsa_signed("rsa-sha2-512"), trusted, NOW).name == "alice"
    assert refusal(rsa_signed("ssh-rsa"), trusted=trusted) is Refusal.WEAK_ALGORITHM


def test_a_signature_of_another_kind_than_its_key_is_refused() -> None:
    signed = encode_signed(body(), USER_CA.public)
    p256 = sshsig.sign(USER_KEY, signed)
    assert refusal(signed + string(p256)) is Refusal.WEAK_ALGORITHM
    assert refusal(signed + string(string(b"ssh-ed25519") + string(bytes(64)))) is Refusal.BAD_SIGNATURE
    assert refusal(signed + string(string(b"ssh-ed25519") + string(b""))) is Refusal.BAD_SIGNATURE
    assert refusal(signed + string(b"")) is Refusal.MALFORMED


def test_a_weak_authority_or_key_in_a_certificate_is_refused(tmp_path: Path) -> None:
    """T07: RSA of 1024 bits, made by the real ssh-keygen, as authority and as certified key."""
    keygen("-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(tmp_path / "weak"))
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "good"))
    keygen("-q", "-s", str(tmp_path / "weak"), "-I", "alice", "-n", "root", "-V", "+1h", str(tmp_path / "good.pub"))
    signed_by_weak = parse_certificate_line((tmp_path / "good-cert.pub").read_text())
    assert refusal(signed_by_weak.blob) is Refusal.WEAK_KEY
    keygen("-q", "-s", str(tmp_path / "good"), "-I", "alice", "-n", "root", "-V", "+1h", str(tmp_path / "weak.pub"))
    with pytest.raises(CertificateRefused) as caught:
        parse_certificate_line((tmp_path / "weak-cert.pub").read_text())
    assert caught.value.reason is Refusal.WEAK_KEY


def test_a_point_that_is_not_on_its_curve_is_refused() -> None:
    point = b"\x04" + bytes(31) + b"\x01" + bytes(31) + b"\x01"
    blob = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(point)
    with pytest.raises(CertificateRefused):
        PublicKey.from_blob(blob)
    assert refusal(sealed(body(public_key=PublicKey(KeyKind.P256, blob)))) is Refusal.WEAK_KEY
    other = blob.replace(b"nistp256", b"nistp384")[: len(blob)]
    assert refusal(sealed(body(public_key=PublicKey(KeyKind.P256, other)))) in {Refusal.WEAK_KEY, Refusal.MALFORMED}


# --- form -------------------------------------------------------------------------------------------------------


def test_malformed_bytes_are_refused() -> None:
    good = sealed(body())
    assert refusal(b"") is Refusal.MALFORMED
    assert refusal(good + b"\x00") is Refusal.MALFORMED
    assert refusal(good[:-1]) is Refusal.MALFORMED
    assert refusal(USER_CA.public.blob) is Refusal.MALFORMED
    assert refusal(bytes(70_000)) is Refusal.TOO_LARGE
    assert refusal(b"\xff\xff\xff\xff") is Refusal.MALFORMED


def test_options_stand_in_order_and_once() -> None:
    """Two values for one name, or names out of order, would be read differently by different programs."""
    good = encode_signed(body(extensions={"a": b"", "b": b""}), USER_CA.public)
    for swapped in (
        good.replace(string(b"a") + string(b"") + string(b"b"), string(b"b") + string(b"") + string(b"a")),
        good.replace(string(b"b"), string(b"a")),
    ):
        assert swapped != good
        assert refusal(swapped + string(sshsig.sign(USER_CA, swapped))) is Refusal.MALFORMED


def test_a_certificate_made_by_openssh_is_read(tmp_path: Path) -> None:
    """Fields as ssh-keygen writes them; without our roles it is nobody's."""
    ca, key = tmp_path / "ca", tmp_path / "key"
    keygen("-q", "-t", "ecdsa", "-N", "", "-f", str(ca))
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key))
    extension = 'extension:teleport-roles={"version":"v1","roles":["access"]}'
    keygen(
        "-q", "-s", str(ca), "-I", "alice", "-n", "root,ubuntu", "-z", "42", "-V", "20260504000000Z:20260505000000Z",
        "-O", extension, f"{key}.pub",
    )  # fmt: skip
    cert = parse_certificate_line(Path(f"{key}-cert.pub").read_text())
    trusted = (TrustedSSHAuthority(AuthorityKind.USER, CLUSTER, (PublicKey.parse(Path(f"{ca}.pub").read_text()),)),)
    found = check_user_cert(cert.blob, trusted, NOW)
    assert (found.identity.name, found.identity.logins, found.identity.serial) == ("alice", ("root", "ubuntu"), "42")
    assert found.identity.roles == ("access",)
    assert found.identity.expires == datetime(2026, 5, 5, tzinfo=UTC)
    keygen("-q", "-s", str(ca), "-I", "alice", "-n", "root", "-O", "force-command=id", f"{key}.pub")
    forced = parse_certificate_line(Path(f"{key}-cert.pub").read_text())
    assert refusal(forced.blob, trusted=trusted) is Refusal.UNLIMITED


GOOD_BLOB = issue_user_cert(user_request(), USER_CA, CLUSTER, NOW).blob


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0, len(GOOD_BLOB) - 1), bits=st.integers(1, 255))
def test_no_changed_byte_is_believed(at: int, bits: int) -> None:
    changed = GOOD_BLOB[:at] + bytes([GOOD_BLOB[at] ^ bits]) + GOOD_BLOB[at + 1 :]
    with pytest.raises(CertificateRefused):
        verify_user_cert(changed, TRUSTED, NOW)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_cut_or_spliced_bytes_are_believed(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD_BLOB)))
    end = data.draw(st.integers(start, len(GOOD_BLOB)))
    changed = GOOD_BLOB[:start] + data.draw(st.binary(max_size=40)) + GOOD_BLOB[end:]
    if changed != GOOD_BLOB:
        with pytest.raises(CertificateRefused):
            verify_user_cert(changed, TRUSTED, NOW)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["ssh-ed25519-cert-v01@openssh.com", "ssh-rsa-cert-v01@openssh.com"]))
def test_whatever_a_peer_sends_is_answered_with_a_refusal(tail: bytes, name: str) -> None:
    for blob in (tail, string(name.encode()) + tail):
        with pytest.raises(CertificateRefused):
            verify_user_cert(blob, TRUSTED, NOW)
        with pytest.raises(CertificateRefused):
            verify_host_cert(blob, TRUSTED, NOW, hostname="x")
