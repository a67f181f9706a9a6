"""Keys: which are taken, how they are written, and that secrets do not show."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.pki.keys import KeyKind, PrivateKey, PublicKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.secret import Secret
from teleport.pki.sshwire import mpint, string

ED25519, P256 = generate_ed25519(), generate_p256()


def reason(blob: bytes) -> Refusal:
    with pytest.raises(CertificateRefused) as caught:
        PublicKey.from_blob(blob)
    return caught.value.reason


@pytest.mark.parametrize(
    ("sort", "bits", "kind"),
    [
        ("ed25519", "256", KeyKind.ED25519),
        ("ecdsa", "256", KeyKind.P256),
        ("ecdsa", "384", KeyKind.P384),
        ("ecdsa", "521", KeyKind.P521),
        ("rsa", "2048", KeyKind.RSA),
    ],
)
def test_keys_of_openssh_are_read_and_written_alike(sort: str, bits: str, kind: KeyKind, tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", sort, "-b", bits, "-N", "", "-C", "me", "-f", path], check=True)
    line = Path(f"{path}.pub").read_text().strip()
    public = PublicKey.parse(line)
    private = PrivateKey.load(path.read_bytes())
    assert public.kind is kind
    assert public.comment == "me"
    assert public.line() == line
    assert public.line("") == line.removesuffix(" me")
    assert private.public == public == PublicKey.from_spki(public.spki_pem()) == PublicKey.from_spki(public.spki_der())
    assert PrivateKey.load(private.pkcs8_pem()).public == public
    assert PrivateKey.load(private.openssh_pem()).public == public
    shown = subprocess.run(["ssh-keygen", "-l", "-f", f"{path}.pub"], check=True, capture_output=True, text=True).stdout
    assert public.fingerprint() in shown


@pytest.mark.parametrize("form", ["pkcs8", "openssh"])
def test_a_users_private_key_is_one_that_openssh_uses(form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes((P256.pkcs8_pem() if form == "pkcs8" else P256.openssh_pem()).reveal())
    shown = subprocess.run(["ssh-keygen", "-y", "-f", path], check=True, capture_output=True, text=True, input="")
    assert PublicKey.parse(shown.stdout) == P256.public


def rsa_blob(exponent: int, modulus: int) -> bytes:
    return string(b"ssh-rsa") + mpint(exponent) + mpint(modulus)


ODD_2048 = (1 << 2047) + 1
POINT = P256.public.fields()
WEAK = {
    "RSA 1024": rsa_blob(65537, (1 << 1023) + 1),
    "RSA 2047": rsa_blob(65537, (1 << 2046) + 1),
    "RSA 16384": rsa_blob(65537, (1 << 16383) + 1),
    "RSA exponent 1": rsa_blob(1, ODD_2048),
    "RSA exponent even": rsa_blob(4, ODD_2048),
    "RSA modulus even": rsa_blob(65537, 1 << 2047),
    "DSA": string(b"ssh-dss") + mpint(5) * 4,
    "curve k1": string(b"ecdsa-sha2-secp256k1") + string(b"secp256k1") + string(bytes(65)),
    "curve and type differ": string(b"ecdsa-sha2-nistp256") + string(b"nistp384") + string(bytes(97)),
    "unknown": string(b"ssh-new"),
    "point not on curve": string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x04" + b"\x01" * 64),
}
MALFORMED = {
    "empty": b"",
    "trailing": ED25519.public.blob + b"\x00",
    "short": ED25519.public.blob[:-1],
    "RSA with leading zero": string(b"ssh-rsa") + string(b"\x00" + b"\x01\x00\x01") + mpint(ODD_2048),
    "RSA negative": string(b"ssh-rsa") + string(b"\x81") + mpint(ODD_2048),
    "RSA zero": string(b"ssh-rsa") + string(b"") + mpint(ODD_2048),
    "Ed25519 of 31 bytes": string(b"ssh-ed25519") + string(bytes(31)),
    "point compressed": string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x02" + bytes(32)),
    "security key without application": string(b"sk-ecdsa-sha2-nistp256@openssh.com") + POINT + string(b""),
    "type not text": string(b"\xff\xfe"),
}


@pytest.mark.parametrize("blob", WEAK.values(), ids=WEAK)
def test_weak_keys_are_refused(blob: bytes) -> None:
    """T07."""
    assert reason(blob) is Refusal.WEAK_KEY


@pytest.mark.parametrize("blob", MALFORMED.values(), ids=MALFORMED)
def test_malformed_keys_are_refused(blob: bytes) -> None:
    """A key has one spelling only, because keys are compared byte by byte."""
    assert reason(blob) is Refusal.MALFORMED


def test_a_key_too_large_is_refused_unread() -> None:
    assert reason(bytes(10_000)) is Refusal.TOO_LARGE


def test_weak_keys_in_other_clothes_are_refused() -> None:
    for key in (
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        ed448.Ed448PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ):
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with pytest.raises(CertificateRefused):
            PublicKey.from_spki(public)
        with pytest.raises(CertificateRefused):
            PrivateKey.load(private)


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 %%%", "ssh-ed25519 AAAA", "x y\nz", "ssh-ed25519 ü"])
def test_a_line_that_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(CertificateRefused):
        PublicKey.parse(line)


def test_the_first_word_of_a_line_must_agree_with_the_key() -> None:
    with pytest.raises(CertificateRefused):
        PublicKey.parse(ED25519.public.line().replace("ssh-ed25519", "ssh-rsa"))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN OPENSSH PRIVATE KEY-----\nx"]
)
def test_what_is_no_private_key_is_said_so(data: bytes) -> None:
    with pytest.raises(BadRequest):
        PrivateKey.load(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([kind.encode() for kind in KeyKind]))
def test_bytes_never_raise_anything_but_a_refusal(tail: bytes, kind: bytes) -> None:
    for blob in (tail, string(kind) + tail):
        with contextlib.suppress(CertificateRefused):
            PublicKey.from_blob(blob)
        with contextlib.suppress(CertificateRefused):
            PublicKey.from_spki(blob)


def test_secrets_do_not_show() -> None:
    secret, key = Secret(b"hunter2"), generate_rsa()
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", repr([secret]), repr(key), str(key)):
        assert "hunter2" not in shown
        assert "PRIVATE" not in shown
    assert key.public.fingerprint() in repr(key)
    assert secret == Secret(b"hunter2")
    assert secret != Secret(b"hunter3")
    assert secret != b"hunter2"
    for thing in (secret, key):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.deepcopy(thing)
    with pytest.raises(TypeError):
        hash(secret)


def test_reading_a_certificate_loads_no_crypto_library() -> None:
    """`tsh status` reads certificates and must start quickly."""
    code = (
        "import sys, teleport.pki.sshformat, teleport.pki.sshcert, teleport.pki.x509cert, teleport.pki.authority\n"
        "import teleport.pki.identity_file, teleport.pki.signing\n"
        "sys.exit(any(name.split('.')[0] == 'cryptography' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
