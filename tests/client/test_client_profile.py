"""Profiles and addresses: the field's keys, read without a YAML library."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from teleport.client import profile
from teleport.client.addresses import ProxyAddress, join, parse_labels, split_port
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.errors import AccessDenied, BadRequest, TeleportError


def made(name: str = "proxy.example.com", user: str = "alice") -> Profile:
    return Profile(
        name=name,
        web_proxy_addr=f"{name}:3080",
        ssh_proxy_addr=f"{name}:3023",
        user=user,
        cluster="main",
        root_cluster="main",
        proxy_trust="cluster",
    )


def test_the_file_is_yaml_with_the_documented_keys() -> None:
    content = yaml.safe_load(profile.encode(made()))
    assert content == {
        "web_proxy_addr": "proxy.example.com:3080",
        "ssh_proxy_addr": "proxy.example.com:3023",
        "user": "alice",
        "auth_type": "local",
        "cluster": "main",
        "root_cluster": "main",
        "proxy_trust": "cluster",
        "forward_ports": [],
        "dynamic_forward_ports": [],
    }


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_what_is_written_is_read_back_by_us_and_by_a_yaml_library(user: str) -> None:
    encoded = profile.encode(made(user=user))
    assert profile.decode("proxy.example.com", encoded).user == user
    assert yaml.safe_load(encoded)["user"] == user


def test_a_profile_in_the_fields_own_style_is_read() -> None:
    text = (
        "web_proxy_addr: proxy.example.com:443\nssh_proxy_addr: 'proxy.example.com:3023'\nuser: bob\ncluster: main\n"
        "forward_ports:\n- 80:localhost:80\nnew_key_of_tomorrow: {a: b}\n"
    )
    found = profile.decode("proxy.example.com", text.encode())
    assert (found.web, found.ssh, found.user) == (("proxy.example.com", 443), ("proxy.example.com", 3023), "bob")
    assert found.proxy_trust == "public", "without our key nothing laxer than public trust"


@pytest.mark.parametrize("text", ["", "user: x\n", 'user: "x\n', "\xff", "web_proxy_addr: a b\nuser: x\ncluster: c\n"])
def test_a_damaged_profile_is_named_as_such(text: str) -> None:
    with pytest.raises(TeleportError, match=r"the profile proxy\.yaml is damaged"):
        profile.decode("proxy", text.encode("latin-1"))


def test_the_active_profile_comes_first_and_is_chosen(tmp_path: Path) -> None:
    home = Home(tmp_path)
    profile.save(home, made("b.example.com"))
    profile.save(home, made("a.example.com"), current=False)
    assert [found.name for found in profile.load_all(home)] == ["b.example.com", "a.example.com"]
    assert profile.choose(home, "", "").name == "b.example.com"
    assert profile.choose(home, "a.example.com", "alice").name == "a.example.com"
    with pytest.raises(AccessDenied, match="bob is not logged in to a"):
        profile.choose(home, "a.example.com", "bob")
    profile.forget(home, "b.example.com")
    with pytest.raises(AccessDenied, match="you are not logged in"):
        profile.choose(home, "", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Proxy.Example.com", ("proxy.example.com", 0, 0)),
        ("proxy:443", ("proxy", 443, 0)),
        ("proxy:443,23", ("proxy", 443, 23)),
        ("https://proxy:3080/", ("proxy", 3080, 0)),
        ("[::1]:3080", ("::1", 3080, 0)),
        ("::1", ("::1", 0, 0)),
    ],
)
def test_a_proxy_is_named_as_documented(text: str, expected: tuple[str, int, int]) -> None:
    found = ProxyAddress.parse(text)
    assert (found.host, found.web_port, found.ssh_port) == expected


@pytest.mark.parametrize(
    "text", ["", "a b", "-oProxyCommand=x", "../x", "a/b", "host:0", "host:65536", "host:x", "h%i"]
)
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        ProxyAddress.parse(text)


def test_without_a_port_the_two_usual_ones_are_tried() -> None:
    assert ProxyAddress.parse("proxy").web_ports == (3080, 443)


def test_addresses_with_colons_are_joined_in_brackets() -> None:
    assert split_port(join("::1", 3023), 1) == ("::1", 3023)


def test_labels_may_hold_commas_when_quoted() -> None:
    assert parse_labels('env=prod,team="a,b"') == {"env": "prod", "team": "a,b"}
    assert parse_labels("") == {}
    with pytest.raises(BadRequest, match="is no label"):
        parse_labels("env")
