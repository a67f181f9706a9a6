"""The inventory that Ansible reads: names, groups, and nothing that Ansible would evaluate (threats T16, T45)."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from teleport.client.cluster import Node, _Label, _Metadata, _Spec
from teleport.client.inventory import inventory

UUID = "00000000-0000-4000-8000-00000000000"


def node(number: int, hostname: str, labels: dict[str, str] | None = None, logins: list[str] | None = None) -> Node:
    return Node(_Metadata(f"{UUID}{number}", labels or {}), _Spec(hostname=hostname), logins)


def test_hosts_have_their_address_their_login_and_their_groups() -> None:
    found, missing = inventory(
        [node(1, "web1", {"env": "prod", "role": "web"}, ["root"]), node(2, "db-1", {"env": "prod"}, ["root", "ann"]),
         node(3, "bare", None, ["root"])],
        "main",
    )  # fmt: skip
    assert missing == 0
    hosts = found["_meta"]["hostvars"]
    assert hosts["web1"]["ansible_host"] == "web1.main"
    assert hosts["web1"]["ansible_port"] == 3022
    assert hosts["web1"]["ansible_user"] == "root"
    assert "ansible_user" not in hosts["db-1"], "several logins: the person says which"
    assert hosts["web1"]["teleport_labels"] == {
        "env": {"__ansible_unsafe": "prod"}, "role": {"__ansible_unsafe": "web"},
    }  # fmt: skip
    assert found["env_prod"]["hosts"] == ["web1", "db-1"]
    assert found["role_web"]["hosts"] == ["web1"]
    assert found["ungrouped"]["hosts"] == ["bare"]
    assert found["all"]["children"] == ["ungrouped", "env_prod", "role_web"]


def test_a_login_that_was_said_is_said_where_it_may_be_used() -> None:
    found, _ = inventory([node(1, "a", None, ["ann", "root"]), node(2, "b", None, ["root"]), node(3, "c")], "m", "ann")
    users = {name: said.get("ansible_user") for name, said in found["_meta"]["hostvars"].items()}
    assert users == {"a": "ann", "b": None, "c": "ann"}


def test_equal_and_strange_names_go_by_id() -> None:
    found, missing = inventory([node(1, "web"), node(2, "WEB"), node(3, "a b"), node(4, "x;{{1}}")], "main")
    assert sorted(found["_meta"]["hostvars"]) == [f"{UUID}{number}" for number in (1, 2, 3, 4)]
    assert missing == 0
    assert inventory([Node(_Metadata("not; an id"), _Spec(hostname="also not"))], "main")[1] == 1


def test_nothing_of_a_host_is_a_template() -> None:
    """`{{ lookup('pipe', ...) }}` in a label would be a command on the machine that runs Ansible."""
    evil = "{{ lookup('pipe', 'touch /tmp/owned') }}"
    labels = {"a": evil, "b{%": "x", "c": "fine"}
    dynamic = Node(_Metadata(f"{UUID}1", labels), _Spec(hostname=evil, cmd_labels={"d": _Label(result=evil)}), ["root"])
    found, _ = inventory([dynamic], "main")
    text = json.dumps(found)
    assert "lookup('pipe'" not in text
    assert found["_meta"]["hostvars"][f"{UUID}1"]["teleport_labels"] == {"c": {"__ansible_unsafe": "fine"}}


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4), st.text(max_size=12))
def test_groups_and_hosts_have_names_that_ansible_takes(labels: dict[str, str], hostname: str) -> None:
    found, _ = inventory([node(1, hostname, labels)], "main")
    for group in found:
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", group)
    for name in found["_meta"]["hostvars"]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert "{" not in "".join(found["_meta"]["hostvars"])
