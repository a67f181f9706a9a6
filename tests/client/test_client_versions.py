"""Which tsh fits which cluster, and what is said where it does not."""

from __future__ import annotations

import pytest

from teleport.client.versions import concern


@pytest.mark.parametrize(
    ("own", "server", "least"),
    [
        ("6.2.1", "6.0.0", "5.0.0"),
        ("5.0.0", "6.9.9", "5.0.0"),
        ("6.0.0-rc.1", "6.1.0+build", "5.0.0"),
        ("v6.0.0", "v6.1.0", "v5.0.0"),
        ("0.1.0", "0.9.0", "0.0.0"),
        ("5.0.0", "what ever", ""),
        ("5.0.0", "\x1b[31m9.0.0", "9" * 5000 + ".0.0"),
        ("unknown", "6.0.0", "5.0.0"),
    ],
)
def test_versions_that_fit_and_those_that_cannot_be_read_are_no_concern(own: str, server: str, least: str) -> None:
    assert concern(own, server, least) == ""


def test_one_that_is_too_old_or_ahead_is_told_what_to_install() -> None:
    old = concern("4.4.9", "6.0.0", "5.0.0")
    assert old.startswith("tsh 4.4.9 is older than this cluster takes (5.0.0 or newer)")
    assert old.endswith("install a newer tsh")
    assert concern("7.0.0", "6.2.3", "5.0.0").endswith(
        "is newer than this cluster (6.2.3): some things may fail; install tsh 6.x"
    )


def test_numbers_are_compared_as_numbers() -> None:
    assert concern("9.0.0", "10.0.0", "9.0.0") == ""
    assert concern("9.9.9", "11.0.0", "10.0.0") != ""


def test_nothing_but_numbers_of_what_a_proxy_says_is_shown() -> None:
    said = concern("1.0.0", "0.9.0-\x1b]0;owned\x07", "0.0.0")
    assert said
    assert said.isprintable()
