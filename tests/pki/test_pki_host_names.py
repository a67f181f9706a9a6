"""Names of hosts in certificates: what is an address is known quickly, and as `ipaddress` knows it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.pki import names


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@given(st.one_of(st.text(max_size=20), st.text("0123456789abcdefABCDEF.:%x٣", max_size=20), st.ip_addresses().map(str)))
def test_what_is_an_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    assert (names._address(text) is not None) == is_address(text)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("alpha", ""),
        ("7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11.example.com", ""),
        ("192.0.2.1", ""),
        ("2001:db8::1", ""),
        ("2001:DB8::1", "spelling"),
        ("Alpha", "spelling"),
        ("fe80::1%eth0", "zone"),
        ("a b", "not a host name"),
        ("1.2.3", ""),
    ],
)
def test_the_names_a_host_may_have(name: str, problem: str) -> None:
    found = names.host_name_problem(name)
    assert problem in found
    assert bool(found) == bool(problem)
