"""The secret of a browser's session: what comes of it, and that nothing else opens what it seals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from teleport.errors import AccessDenied
from teleport.pki.keys import generate_p256
from teleport.pki.web_secret import WebSecret, parse_cookie

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
SECRET = WebSecret(bytes(range(32)))
OTHER = WebSecret(bytes(range(1, 33)))


def test_what_is_derived_stays_as_it_is() -> None:
    """Stored sessions depend on it: each value is RFC 5869 with SHA-256, worked out by hand with hmac and hashlib."""
    import base64
    import hashlib
    import hmac

    def hkdf(secret: bytes, info: bytes) -> bytes:
        extracted = hmac.digest(b"\0" * 32, secret, hashlib.sha256)
        return hmac.digest(extracted, info + b"\x01", hashlib.sha256)

    proof = hkdf(bytes(range(32)), b"teleport web session v1 proof")
    assert base64.urlsafe_b64encode(proof).decode().rstrip("=") == SECRET.proof
    bearer = hkdf(bytes(range(32)), b"teleport web session v1 bearer")
    mac = hmac.digest(bearer, b"id 1795867800", "sha256")
    assert SECRET.bearer("id", datetime.fromtimestamp(1795867800, UTC)) == (
        "1795867800." + base64.urlsafe_b64encode(mac).decode().rstrip("=")
    )


def test_a_sealed_key_is_opened_by_its_secret_for_its_public_half_alone() -> None:
    key, another = generate_p256(), generate_p256()
    sealed = SECRET.seal(key, lambda size: b"\x07" * size)
    assert SECRET.open(sealed, key.public.blob).public == key.public
    for secret, text, public in (
        (OTHER, sealed, key.public.blob),
        (SECRET, sealed, another.public.blob),
        (SECRET, sealed[:-2] + "AA", key.public.blob),
        (SECRET, "", key.public.blob),
        (SECRET, "%%%", key.public.blob),
    ):
        with pytest.raises(AccessDenied):
            secret.open(text, public)


def test_a_bearer_token_is_for_one_session_and_until_its_time() -> None:
    token = SECRET.bearer("one", NOW + timedelta(minutes=10))
    assert SECRET.bearer_holds("one", token, NOW)
    assert not SECRET.bearer_holds("one", token, NOW + timedelta(minutes=10))
    assert not SECRET.bearer_holds("two", token, NOW)
    assert not OTHER.bearer_holds("one", token, NOW)
    end, mac = token.split(".")
    for forged in (
        "",
        ".",
        end,
        f"{int(end) + 1}.{mac}",
        f"{end}.",
        f"-1.{mac}",
        f"{end}.é\udc80",
        f"\u0661{end}.{mac}",
        "9" * 400,
    ):
        assert not SECRET.bearer_holds("one", forged, NOW), forged


def test_cookies_are_read_or_are_none() -> None:
    found = parse_cookie(SECRET.cookie("an-id_1"))
    assert found is not None
    assert found[0] == "an-id_1"
    assert found[1].same(SECRET)
    assert not found[1].same(OTHER)
    whole = SECRET.cookie("x")
    for bad in (
        "",
        ".",
        "x",
        "x.",
        f".{whole}",
        whole[:-1],
        whole + "A",
        f"{whole}=",
        f"a/b.{whole[2:]}",
        f"é.{whole[2:]}",
        "x." + "A" * 500,
    ):
        assert parse_cookie(bad) is None, bad


def test_nothing_of_it_is_printed() -> None:
    assert "hidden" in repr(SECRET)
    assert SECRET.cookie("x").partition(".")[2] not in f"{SECRET!r} {SECRET}"
