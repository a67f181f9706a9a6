"""User names are prepared as RFC 4013 says, whether or not that takes looking at every character."""

from __future__ import annotations

import asyncssh.auth
import asyncssh.connection
import pytest
from asyncssh.saslprep import SASLPrepError, saslprep
from hypothesis import given
from hypothesis import strategies as st

from teleport.ssh.names import prepared


def result(prepare: object, name: str) -> object:
    try:
        return prepare(name)  # type: ignore[operator]
    except SASLPrepError as error:
        return str(error)


@given(st.text())
def test_it_is_the_same_for_every_name(name: str) -> None:
    assert result(prepared, name) == result(saslprep, name)


@pytest.mark.parametrize("number", range(128))
def test_it_is_the_same_for_every_character_of_ascii(number: int) -> None:
    for name in (chr(number), f"a{chr(number)}b"):
        assert result(prepared, name) == result(saslprep, name)


def test_asyncssh_asks_it() -> None:
    assert asyncssh.connection.saslprep is prepared  # type: ignore[attr-defined]
    assert asyncssh.auth.saslprep is prepared  # type: ignore[attr-defined]
