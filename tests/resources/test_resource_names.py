"""Names that may enter certificates, and the ones that never do (T03, T30)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.resources import names
from teleport.resources.names import (
    canonical_address,
    canonical_host,
    check_hostname,
    check_name,
    is_no_login,
    is_unix_login,
    peer_address,
)

HOSTILE = {
    "empty": "",
    "wildcard": "*",
    "comma": "a,b",
    "slash": "a/b",
    "backslash": "a\\b",
    "newline": "a\nb",
    "carriage return": "a\rb",
    "nul": "a\0b",
    "escape": "a\x1b[31m",
    "c1 control": "a\x9bb",
    "leading dash": "-a",
    "space": "a b",
    "non-breaking space": "a\u00a0b",
    "zero width": "a\u200bb",
    "right-to-left override": "a\u202eb",
    "line separator": "a\u2028b",
    "not NFC": unicodedata.normalize("NFD", "é"),
    "wide letters": "\uff41\uff44min",
    "ligature": "o\ufb03ce",
    "cyrillic a among latin": "\u0430dmin",
    "greek omicron among latin": "r\u03bfot",
    "dot dot": "..",
    "template": "{{internal.logins}}",
    "too long": "a" * 300,
    "lone surrogate": "a\ud800",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_no_name(name: str) -> None:
    """Neither a user, a role, a host nor a Unix account may be called so."""
    assert check_name(name)
    assert check_hostname(name)
    assert not is_unix_login(name)


@pytest.mark.parametrize("name", ["alice", "alice@example.com", "first.last", "bot-1", "jürgen", "анна", "a+b@x.org"])
def test_ordinary_names_are_names(name: str) -> None:
    assert check_name(name) == ""


@pytest.mark.parametrize("login", ["root", "ec2-user", "_apt", "first.last", "Admin", "host$", "a" * 32])
def test_unix_accounts_are_logins(login: str) -> None:
    assert is_unix_login(login)


@pytest.mark.parametrize(
    "login", ["a" * 33, "9lives", "a$b", "ro ot", "root\n", "jürgen", ".a", "-teleport-nologin-x", "a:b", "a;b", "$(x)"]
)
def test_what_no_account_may_be_called_is_no_login(login: str) -> None:
    assert not is_unix_login(login)


def test_the_no_login_of_presets_is_known_and_is_no_account() -> None:
    name = "no-login-12345678-1234-1234-1234-123456789012"
    assert is_no_login(name)
    assert not is_unix_login(name)
    assert not is_no_login("no-login-x")


@pytest.mark.parametrize("name", ["web-1", "web-1.example.com", "db_2", "10-0-0-1", "a" * 253])
def test_host_names(name: str) -> None:
    assert check_hostname(name) == ""


@pytest.mark.parametrize("name", ["-web", "web-", "a..b", ".a", "a.", "web_ü", "[::1]", "a" * 254])
def test_what_is_no_host_name(name: str) -> None:
    assert check_hostname(name)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Web-1.Example.COM.", "web-1.example.com"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:0db8::0001"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        (unicodedata.normalize("NFD", "bücher"), "bücher"),
    ],
)
def test_one_host_has_one_spelling(left: str, right: str) -> None:
    assert canonical_host(left) == canonical_host(right)


def test_what_is_no_address_has_no_address() -> None:
    """Also octal and short forms, which some systems read as other addresses."""
    assert [canonical_address(text) for text in ("", "host", "10.0.0.010", "10.1", "0x7f000001")] == [""] * 5


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("10.0.0.1", 5), ("10.0.0.1", 5)),
        (("::ffff:10.0.0.1", 5, 0, 0), ("10.0.0.1", 5)),
        (("fe80::1%eth0", 5, 0, 2), ("fe80::1", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        ("", ("", 0)),
        (None, ("", 0)),
    ],
)
def test_a_peer_is_known_by_its_plain_address(peername: object, address: tuple[str, int]) -> None:
    assert peer_address(peername) == address


@given(st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=0x7F), max_size=8))
def test_what_needs_no_close_look_would_pass_it(name: str) -> None:
    if names._PLAIN.fullmatch(name):
        assert names._check_uncommon(name) == ""
    if name.isascii() and name.isprintable():
        assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in name)


def test_what_looks_plain_is_only_what_is_plain() -> None:
    plain = {chr(code) for code in range(0x80) if names._PLAIN.fullmatch(f"a{chr(code)}")}
    refused = {chr(code) for code in range(0x80) if names._check_uncommon(f"a{chr(code)}")}
    assert plain
    assert not plain & refused
    assert [name for name in (".", "..", "-a", ".a") if names._PLAIN.fullmatch(name)] == []
