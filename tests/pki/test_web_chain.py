"""A key and its chain as files hold them, and which of several a client gets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from teleport.errors import BadRequest
from teleport.pki.web_chain import WebPair, chosen, read_pair
from teleport.testing.public_authority import PublicAuthority

AUTHORITY = PublicAuthority()


def read(chain: bytes, key: bytes) -> WebPair:
    return read_pair(chain, key, chain_name="c.pem", key_name="k.pem")


def test_a_pair_says_whose_it_is_and_until_when() -> None:
    made = AUTHORITY.issue("Proxy.Example.com", "*.apps.example.com", "192.0.2.7")
    pair = read(made.chain, made.key)
    assert pair.names == ("proxy.example.com", "*.apps.example.com", "192.0.2.7")
    assert pair.not_before < pair.soon < pair.not_after
    assert not pair.self_signed
    assert pair.top == "CN=Test Root", "the root is not in the file, and it is named"
    assert made.key.strip() not in repr(pair).encode()


def test_the_chain_is_put_in_order_and_what_does_not_belong_to_it_is_left_out() -> None:
    made, other = AUTHORITY.issue("a.test"), PublicAuthority("Other")
    pair = read(made.leaf + other.root + made.root + made.intermediate, made.key)
    assert pair.top == ""
    assert pair.pem.reveal().endswith(made.leaf + made.intermediate + made.root)


def test_what_is_wrong_with_files_is_said_of_the_right_one() -> None:
    made, other = AUTHORITY.issue("a.test"), AUTHORITY.issue("b.test")
    locked = load_pem_private_key(made.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    for chain, key, said in (
        (b"", made.key, "c.pem holds no certificate"),
        (made.key, made.key, "c.pem holds no certificate"),
        (made.chain[:200], made.key, "c.pem holds no certificate"),
        (made.chain, b"", "k.pem holds no private key"),
        (made.chain, made.key[:60], "k.pem holds no private key"),
        (made.chain, locked, "passphrase"),
        (made.chain, other.key, "k.pem does not belong to the certificate of CN=a.test in c.pem"),
        (made.intermediate + made.leaf, made.key, "put"),
    ):
        with pytest.raises(BadRequest) as refused:
            read(chain, key)
        assert said in f"{refused.value.message} {refused.value.hint}"
        assert b"PRIVATE" not in refused.value.message.encode().replace(b"BEGIN PRIVATE KEY-----)", b"")


@dataclass(frozen=True)
class Named:
    names: tuple[str, ...]


FIRST, WILD, EXACT, ADDRESS = Named(("first.test",)), Named(("*.a.test",)), Named(("x.a.test",)), Named(("::1",))


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("", FIRST),
        ("elsewhere.test", FIRST),
        ("x.a.test", EXACT),
        ("X.A.test.", EXACT),
        ("y.a.test", WILD),
        ("a.test", FIRST),
        ("y.x.a.test", FIRST),  # a wildcard stands for one label
        ("*.a.test", WILD),
        (".a.test", WILD),
        ("::1", ADDRESS),
        ("0:0::1", ADDRESS),
        ("127.0.0.1", FIRST),
    ],
)
def test_the_exact_name_goes_before_a_wildcard_and_the_first_is_for_the_rest(asked: str, got: Named) -> None:
    assert chosen([FIRST, WILD, EXACT, ADDRESS], asked) is got
