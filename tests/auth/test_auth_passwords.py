"""Passwords and codes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from argon2 import extract_parameters

from teleport.auth.factors import passwords
from teleport.errors import BadRequest

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    """The vectors of appendix B, cut to six digits."""
    assert passwords.totp_code(RFC_SECRET, seconds // 30) == code


def test_a_code_is_good_for_one_period_each_way_and_once() -> None:
    now = datetime.fromtimestamp(1_000_000_020, UTC)
    current = 1_000_000_020 // 30
    for period, good in ((current - 2, False), (current - 1, True), (current, True), (current + 1, True)):
        code = passwords.totp_code(RFC_SECRET, period)
        assert (passwords.totp_period(RFC_SECRET, code, now, after=0) == period) is good
        assert passwords.totp_period(RFC_SECRET, code, now, after=period) is None, "a used code is refused"
    assert passwords.totp_period(RFC_SECRET, "", now, after=0) is None
    assert passwords.totp_period(RFC_SECRET, "١٢٣٤٥٦", now, after=0) is None


def test_a_hash_is_argon2id_and_holds_for_its_password_only() -> None:
    stored = passwords.hash_password("correct horse battery")
    assert stored.startswith("$argon2id$")
    assert "horse" not in stored
    assert passwords.verify_password(stored, "correct horse battery")
    assert not passwords.verify_password(stored, "correct horse batterz")
    assert not passwords.verify_password("not a hash", "correct horse battery")
    assert passwords.hash_password("correct horse battery") != stored


def test_nobody_costs_what_a_password_costs() -> None:
    """A failed login must not tell whether the user exists."""
    real = extract_parameters(passwords.hash_password("correct horse battery"))
    assert extract_parameters(passwords._NOBODY) == real


def test_forms_of_one_character_are_one_password() -> None:
    stored = passwords.hash_password("caf\u00e9 caf\u00e9 caf\u00e9")
    assert passwords.verify_password(stored, "cafe\u0301 cafe\u0301 cafe\u0301")


@pytest.mark.parametrize("password", ["short", "x" * 129, "aaaaaaaaaaaaaaaa", "administrator"])
def test_weak_passwords_are_refused_with_the_reason(password: str) -> None:
    with pytest.raises(BadRequest):
        passwords.check_new_password(password, "Administrator")
