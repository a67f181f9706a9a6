"""What an ACME client signs and shows, against the examples of its RFCs and OpenSSL."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from teleport.errors import BadRequest
from teleport.pki.acme import (
    ACME_IDENTIFIER,
    AccountKey,
    b64url,
    challenge_pair,
    is_public_name,
    new_key,
    signing_request,
)
from teleport.pki.secret import Secret


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_requests_are_signed_as_rfc_7515_says() -> None:
    pem = new_key()
    body = json.loads(AccountKey(pem).signed("https://d.test/order", "N0nce", {"a": 1}))
    head = json.loads(unpadded(body["protected"]))
    assert (head["alg"], head["nonce"], head["url"]) == ("ES256", "N0nce", "https://d.test/order")
    assert "kid" not in head
    assert json.loads(unpadded(body["payload"])) == {"a": 1}
    raw = unpadded(body["signature"])
    assert len(raw) == 64
    key = load_pem_private_key(pem.reveal(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.public_key().verify(signature, f"{body['protected']}.{body['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
    known = json.loads(AccountKey(pem).signed("https://d.test/o", "n", None, "https://d.test/account/1"))
    head = json.loads(unpadded(known["protected"]))
    assert (head["kid"], known["payload"]) == ("https://d.test/account/1", "")
    assert "jwk" not in head
    # the thumbprint is over the members in this order, without anything else (RFC 7638 section 3.2)
    jwk = json.loads(unpadded(body["protected"]))["jwk"]
    members = f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'
    assert AccountKey(pem).thumbprint() == b64url(hashlib.sha256(members.encode()).digest())


def test_a_challenge_is_answered_with_the_digest_and_nothing_else_is_signed() -> None:
    account, token = AccountKey(new_key()), "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
    digest = account.challenge_digest(token)
    assert digest == hashlib.sha256(f"{token}.{account.thumbprint()}".encode()).digest()
    for bad in ("", "short", "a" * 300, "with.a.dot.in.it.somewhere", "with\nnewline-in-it-xxxxxx"):
        with pytest.raises(BadRequest):
            account.challenge_digest(bad)
    shown = x509.load_pem_x509_certificate(challenge_pair("a.test", digest, datetime.now(UTC)).reveal())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.test"]
    found = shown.extensions.get_extension_for_oid(x509.ObjectIdentifier(ACME_IDENTIFIER))
    assert found.critical
    assert isinstance(found.value, x509.UnrecognizedExtension)
    assert found.value.value == b"\x04\x20" + digest
    with pytest.raises(BadRequest):
        challenge_pair("a.test", b"x" * 31, datetime.now(UTC))


def test_the_request_names_one_host() -> None:
    made = x509.load_der_x509_csr(signing_request("a.test", new_key()))
    assert made.is_signature_valid
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["a.test"]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("teleport.example.com", True),
        ("a.io", True),
        ("xn--bcher-kva.example", True),
        ("localhost", False),
        ("Teleport.example.com", False),
        ("*.example.com", False),
        ("192.0.2.7", False),
        ("::1", False),
        ("a..com", False),
        ("-a.com", False),
        ("a.com.", False),
        ("a.com\n", False),
        ("a/b.com", False),
        ("x" * 64 + ".com", False),
        ("x." * 130 + "com", False),
    ],
)
def test_only_host_names_of_domains_are_asked_for(name: str, right: bool) -> None:
    assert is_public_name(name) is right


def test_a_key_of_another_kind_is_refused() -> None:
    for bad in (b"", b"nothing"):
        with pytest.raises(BadRequest):
            AccountKey(Secret(bad))
