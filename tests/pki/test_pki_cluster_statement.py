"""Statements of clusters: who is believed about whose authorities, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from teleport.errors import AccessDenied, TeleportError
from teleport.pki import sshsig
from teleport.pki.cluster_statement import (
    DOMAIN,
    MAX_BYTES,
    Purpose,
    SignedStatement,
    StatedKeys,
    Statement,
    check_statement,
    read_statement,
    sign_statement,
    signed_by,
)
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.x509cert import new_tls_authority, pem_of

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def keys(cluster: str, ssh: PrivateKey, *more: PrivateKey) -> StatedKeys:
    pem = pem_of(new_tls_authority(cluster, generate_p256(), NOW)).decode()
    return StatedKeys(ssh=tuple(key.public.line() for key in (ssh, *more)), tls=(pem,))


HOST, USER = generate_ed25519(), generate_ed25519()
STATEMENT = Statement(
    purpose=Purpose.EXCHANGE,
    cluster="leaf",
    audience="root",
    issued=1_796_000_000_000,
    user=keys("leaf", USER),
    host=keys("leaf", HOST),
    holds=("SHA256:x",),
)
SIGNED = sign_statement(STATEMENT, [HOST])


def believed(signed: SignedStatement, *known: PrivateKey, after: int = 0, audience: str = "root") -> Statement:
    return check_statement(signed, [key.public for key in known], cluster="leaf", audience=audience, after=after)


def test_a_statement_comes_back_as_it_was_said() -> None:
    assert believed(SIGNED, HOST) == STATEMENT
    assert believed(SIGNED, generate_ed25519(), HOST) == STATEMENT


def test_during_a_rotation_who_knows_either_key_believes_it() -> None:
    new = generate_ed25519()
    both = sign_statement(STATEMENT, [new, HOST])
    assert believed(both, HOST) == believed(both, new) == STATEMENT
    with pytest.raises(AccessDenied, match="not signed by a key that is known"):
        believed(sign_statement(STATEMENT, [new]), HOST)  # after it: who missed all of it


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda: believed(SIGNED, USER), "not signed by a key"),
        (lambda: believed(SIGNED), "not signed by a key"),
        (lambda: believed(SIGNED, HOST, after=STATEMENT.issued), "not newer"),
        (lambda: believed(SIGNED, HOST, after=STATEMENT.issued + 1), "not newer"),
        (lambda: believed(SIGNED, HOST, audience="other"), "made out to root, not to other"),
        (
            lambda: check_statement(SIGNED, [HOST.public], cluster="root", audience="root", after=0),
            "of the cluster leaf, not of root",
        ),
    ],
)
def test_what_is_not_believed(attempt: Callable[[], object], reason: str) -> None:
    with pytest.raises(AccessDenied, match=reason):
        attempt()


def changed(**fields: object) -> SignedStatement:
    """The statement with other words and the old signatures."""
    return SignedStatement(json.dumps({**json.loads(SIGNED.document), **fields}), SIGNED.signatures)


@pytest.mark.parametrize("field", ["cluster", "audience", "issued", "purpose", "holds", "turning"])
def test_nothing_in_it_can_be_changed_on_the_way(field: str) -> None:
    others = {"cluster": "leaf2", "audience": "r", "issued": 2, "purpose": "goodbye", "holds": [], "turning": True}
    assert not signed_by(changed(**{field: others[field]}), [HOST.public])


def test_a_signature_for_something_else_is_none() -> None:
    """The host authority's keys sign certificates, too: those signatures cover other bytes."""
    bare = base64.b64encode(sshsig.sign(HOST, SIGNED.document.encode())).decode()
    assert not signed_by(SignedStatement(SIGNED.document, {HOST.public.line(): bare}), [HOST.public])
    good = base64.b64encode(sshsig.sign(HOST, DOMAIN + SIGNED.document.encode())).decode()
    assert signed_by(SignedStatement(SIGNED.document, {HOST.public.line(): good}), [HOST.public])
    for odd in ("", "!!", good[:-4], good + "=="):
        assert not signed_by(SignedStatement(SIGNED.document, {HOST.public.line(): odd}), [HOST.public])
    assert not signed_by(SignedStatement(SIGNED.document, {"no key": good}), [HOST.public])


def resigned(statement: Statement) -> SignedStatement:
    return sign_statement(statement, [HOST])


@pytest.mark.parametrize(
    "statement",
    [
        msgspec.structs.replace(STATEMENT, version=2),
        msgspec.structs.replace(STATEMENT, cluster="le af"),
        msgspec.structs.replace(STATEMENT, audience="-"),
        msgspec.structs.replace(STATEMENT, issued=0),
        msgspec.structs.replace(STATEMENT, issued=2**60),
        msgspec.structs.replace(STATEMENT, holds=("x",) * 100),
        msgspec.structs.replace(STATEMENT, host=StatedKeys(ssh=(), tls=STATEMENT.host.tls)),
        msgspec.structs.replace(STATEMENT, host=StatedKeys(ssh=STATEMENT.host.ssh, tls=())),
        msgspec.structs.replace(STATEMENT, host=StatedKeys(ssh=STATEMENT.host.ssh * 9, tls=STATEMENT.host.tls)),
        msgspec.structs.replace(STATEMENT, host=keys("root", HOST)),
        msgspec.structs.replace(STATEMENT, user=STATEMENT.host),
        msgspec.structs.replace(STATEMENT, user=keys("leaf", HOST)),
        msgspec.structs.replace(STATEMENT, host=StatedKeys(ssh=("ssh-ed25519 AAAA",), tls=STATEMENT.host.tls)),
        msgspec.structs.replace(STATEMENT, host=StatedKeys(ssh=STATEMENT.host.ssh, tls=("-----BEGIN x",))),
    ],
)
def test_what_no_cluster_says_of_itself_is_refused(statement: Statement) -> None:
    with pytest.raises(TeleportError):
        read_statement(resigned(statement))


def test_it_is_bounded_and_it_may_grow() -> None:
    with pytest.raises(TeleportError, match="not that large"):
        read_statement(SignedStatement(" " * (MAX_BYTES + 1), {}))
    with pytest.raises(TeleportError, match="not that large"):
        read_statement(replace(SIGNED, signatures={str(number): "" for number in range(9)}))
    for odd in ("", "[]", "{", "null", '{"version":1}'):
        with pytest.raises(TeleportError, match="no statement"):
            read_statement(SignedStatement(odd, {}))
    later = {**json.loads(SIGNED.document), "what_a_later_version_says": 1}
    assert read_statement(SignedStatement(json.dumps(later), {})) == STATEMENT
