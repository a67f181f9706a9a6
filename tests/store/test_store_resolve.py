"""Which registered node a client means."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from teleport.errors import BadRequest, NotFound
from teleport.store.resolve import Ambiguous, Destination, RegisteredNode, names_of, resolve

A = RegisteredNode("aaaaaaaa-0000-4000-8000-000000000001", "db", "10.0.0.1:3022")
B = RegisteredNode("bbbbbbbb-0000-4000-8000-000000000002", "db", "10.0.0.2:4022")
WEB = RegisteredNode("cccccccc-0000-4000-8000-000000000003", "Web.Example", "[2001:db8::5]:3022")
ODD = RegisteredNode("dddddddd-0000-4000-8000-000000000004", A.host_id, "10.0.0.9:3022")
NODES = (A, B, WEB, ODD)


def found(host: str, port: int = 0, cluster: str = "") -> RegisteredNode:
    return resolve(Destination(host, port, cluster), NODES, "main", lambda node: True)


@pytest.mark.parametrize(
    ("host", "port", "node"),
    [
        (A.host_id, 22, A),
        (A.host_id.upper(), 0, A),
        (f"{B.host_id}.main", 22, B),
        ("web.example", 22, WEB),
        ("WEB.EXAMPLE.", 0, WEB),
        ("web.example.main", 9, WEB),
        ("2001:0db8:0::5", 22, WEB),
        ("10.0.0.9", 1, ODD),
        ("db", 4022, B),
        ("db.main", 3022, A),
    ],
)
def test_a_host_is_found_by_id_then_name_then_address(host: str, port: int, node: RegisteredNode) -> None:
    """An id always wins, even over a node that has it as its name; the port only separates several matches."""
    assert found(host, port) == node


def test_every_public_address_leads_to_a_host_and_none_takes_a_name_away() -> None:
    public = ("n1.example.com:22", "[2001:DB8::7]:3022", "Web.Example:22")
    many = replace(A, hostname="many", address="n1.example.com:22", public=public)
    behind = replace(B, hostname="behind", address="", tunnel=True, public=("inside.example.com:3022",))

    def meant(host: str, *nodes: RegisteredNode) -> RegisteredNode:
        return resolve(Destination(host), nodes, "main", lambda node: True)

    for name in ("N1.example.com.", "2001:db8:0::7", "web.example"):
        assert meant(name, many, behind) == many
    assert meant("inside.example.com", many, behind) == behind
    assert meant("web.example", many, WEB) == WEB, "who is called so goes first"
    assert {"n1.example.com", "2001:db8::7", "web.example", "many"} <= set(names_of(many))
    assert names_of(behind) == (B.host_id, "behind", "inside.example.com")
    with pytest.raises(NotFound):
        meant("", behind)


def test_several_matches_are_listed_with_their_ids() -> None:
    """22 is what OpenSSH sends unasked; it separates nothing."""
    with pytest.raises(Ambiguous) as caught:
        found("db", 22)
    assert A.host_id in caught.value.message
    assert B.host_id in caught.value.message


def test_of_several_matches_the_one_that_started_last_is_meant_where_the_cluster_says_so() -> None:
    """`routing_strategy: most_recent`; one whose start is not known comes last, and who is lost is no match at all."""
    day = datetime(2026, 1, 1, tzinfo=UTC)
    older, newer = replace(A, started=day), replace(B, started=day + timedelta(seconds=1))
    unknown = RegisteredNode("eeeeeeee-0000-4000-8000-000000000005", "db", "10.0.0.3:5022")

    def chosen(*nodes: RegisteredNode) -> RegisteredNode:
        return resolve(Destination("db", 22), nodes, "main", lambda node: True, most_recent=True)

    assert chosen(older, newer, unknown) == chosen(unknown, newer, older) == newer
    assert chosen(older, replace(newer, lost=True)) == older
    assert resolve(Destination("db", 3022), (older, newer), "main", lambda node: True, most_recent=True) == older
    with pytest.raises(NotFound):
        resolve(Destination("db"), (older, newer), "main", lambda node: False, most_recent=True)


def test_an_unknown_host_is_refused_with_the_nearest_names() -> None:
    """No open relay: what is not registered is not dialled."""
    with pytest.raises(NotFound, match=r"No node web\.exmple .* Did you mean Web\.Example\?"):
        found("web.exmple")
    with pytest.raises(NotFound):
        found("169.254.169.254")


def test_what_the_caller_may_not_see_is_as_if_it_were_not_there() -> None:
    """Neither found, nor counted as a match, nor named."""

    def may_see(node: RegisteredNode) -> bool:
        return node is not B and node is not WEB

    assert resolve(Destination("db"), NODES, "main", may_see) == A
    with pytest.raises(NotFound) as caught:
        resolve(Destination("web.example"), NODES, "main", may_see)
    assert "Web" not in caught.value.message


def test_another_cluster_is_not_known() -> None:
    """Trusted clusters are not served yet."""
    with pytest.raises(NotFound, match="leaf"):
        found("db", 4022, "leaf")
    assert found("db", 4022, "main") == B


@pytest.mark.parametrize(
    ("name", "destination"),
    [
        ("proxy:node1:22", Destination("node1", 22)),
        ("proxy:node1:0@main", Destination("node1", 0, "main")),
        ("proxy:node1@main", Destination("node1", 0, "main")),
        ("proxy:node1:3022@default@main", Destination("node1", 3022, "main")),
        ("proxy:[2001:db8::5]:22@main", Destination("2001:db8::5", 22, "main")),
        ("proxy:2001:db8::5@main", Destination("2001:db8::5", 0, "main")),
    ],
)
def test_the_subsystems_name_is_read(name: str, destination: Destination) -> None:
    """Every form of `protocols.md` 3."""
    assert Destination.of_subsystem(name) == destination


@pytest.mark.parametrize(
    "name",
    ["sftp", "proxy:", "proxy::22", "proxy:@main", "proxy:a:b", "proxy:a:99999", "proxy:a:1@ns@c", "proxy:a@b@c@d", ""],
)
def test_other_subsystems_are_refused(name: str) -> None:
    """The proxy has one subsystem."""
    with pytest.raises(BadRequest):
        Destination.of_subsystem(name)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("[::1]:22", "::1", 22),
        ("[::1]", "::1", 0),
        ("::1:22", "::1", 22),
        ("2001:db8::5:3022", "2001:db8::5", 3022),
        ("fe80::", "fe80::", 0),
        ("2001:db8::22", "2001:db8::22", 0),
        ("alpha:22", "alpha", 22),
        ("alpha", "alpha", 0),
    ],
)
def test_the_subsystem_takes_every_form_of_an_address(text: str, host: str, port: int) -> None:
    found = Destination.of_subsystem(f"proxy:{text}@example")
    assert (found.host, found.port) == (host, port)
    assert Destination.of_subsystem(f"proxy:{found}") == found


@pytest.mark.parametrize("text", ["[::1", "[::1]22", "[::1]:x", "alpha:99999999999999", "[]:22"])
def test_the_subsystem_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(BadRequest):
        Destination.of_subsystem(f"proxy:{text}")


@pytest.mark.parametrize("typed", ["10.0.0.9", "::ffff:10.0.0.9", "::ffff:a00:9"])
def test_a_mapped_address_is_the_address_in_it(typed: str) -> None:
    node = RegisteredNode("7f1f8c3e-6f0a-4a3c-8a56-0d2f7b9c1e11", "alpha", "10.0.0.9:3022")
    assert resolve(Destination(typed), [node], "example", lambda _: True) is node


def test_a_lost_host_stands_in_nobody_s_way_and_is_tried_when_it_is_the_only_one() -> None:
    old = RegisteredNode(A.host_id, "db", "10.0.0.1:3022", lost=True)
    assert resolve(Destination("db"), [old, B], "main", lambda _: True) is B
    assert resolve(Destination("db", 3022), [old, B], "main", lambda _: True) is B
    assert resolve(Destination(A.host_id), [old, B], "main", lambda _: True) is old
    assert resolve(Destination("db"), [old], "main", lambda _: True) is old
    with pytest.raises(Ambiguous):
        resolve(Destination("db"), [A, B, old], "main", lambda _: True)
    assert resolve(Destination("db"), [old, B], "main", lambda node: node is old) is old, "what is hidden is not there"
