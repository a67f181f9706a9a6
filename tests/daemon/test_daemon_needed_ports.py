"""Which ports a host needs: each listener that the daemon would bind, each address that it would dial, and no other."""

from __future__ import annotations

import re

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.values import Config
from teleport.daemon.needed_ports import Direction, Port, Surroundings, is_local, needed
from teleport.daemon.ports_nft import as_nft
from teleport.resources.values import HostPort

OFF = {"auth": "auth_service: {enabled: no}\n", "proxy": "proxy_service: {enabled: no}\n"}
OFF["node"] = "ssh_service: {enabled: no}\n"


def config(text: str, *roles: str) -> Config:
    """Of `text`, with all services off but `roles`, of which `text` may have the sections."""
    off = "".join(section for role, section in OFF.items() if role not in roles)
    return effective_config(load_config(text + off, "teleport.yaml"), StartFlags(), "alpha")


def of(found: list[Port], direction: Direction) -> list[tuple[str, int]]:
    """Those that are needed in any case."""
    return [(one.host, one.port) for one in found if one.direction is direction and not one.only_if]


def rules(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.match(r" +(tcp|udp|ip6? daddr) ", line)]


def test_each_listener_is_inbound() -> None:
    text = """teleport: {data_dir: /nowhere, diag_addr: '127.0.0.1:3000'}
proxy_service: {kube_listen_addr: '0.0.0.0:3026', peer_listen_addr: '192.0.2.7:4021', public_addr: 'p.example.com:443'}
"""
    found = needed(config(text, "auth", "proxy", "node"), Surroundings())
    wanted = {3025, 3080, 3023, 3024, 3026, 4021, 3022, 3000}
    assert {port for _, port in of(found, Direction.IN)} == wanted
    local = [one for one in found if one.local]
    assert [(one.host, one.port) for one in local] == [("127.0.0.1", 3000)]
    ruled = rules(as_nft(found, str))
    assert "ip daddr 192.0.2.7 tcp dport 4021 accept" in ruled, "where one address is listened on, only that is opened"
    assert not any("dport 3000 " in rule for rule in ruled), "the loopback is open as a whole"


def test_one_port_is_one_port() -> None:
    text = "version: v2\nproxy_service: {web_listen_addr: '0.0.0.0:443', public_addr: 'p.example.com:443'}\n"
    found = needed(config(text, "proxy"), Surroundings())
    assert of(found, Direction.IN) == [("0.0.0.0", 443)]


def test_a_node_that_is_reached_directly_and_one_that_keeps_tunnels() -> None:
    direct = config("teleport: {auth_servers: ['192.0.2.1:3025']}\n", "node")
    found = needed(direct, Surroundings())
    assert of(found, Direction.IN) == [("0.0.0.0", 3022)]
    assert of(found, Direction.OUT) == [("192.0.2.1", 3025)]
    tunnelled = config("teleport: {auth_servers: ['192.0.2.1:443']}\n", "node")
    found = needed(tunnelled, Surroundings(through_proxy=True))
    assert of(found, Direction.IN) == [], "nobody reaches a host behind a tunnel"
    assert of(found, Direction.OUT) == [("192.0.2.1", 443), ("", 3024)]
    asked = needed(tunnelled, Surroundings(through_proxy=True, tunnel=HostPort("t.example.com", 443)))
    assert of(asked, Direction.OUT) == [("192.0.2.1", 443), ("", 443)], "every proxy has a tunnel of its own"
    behind = Surroundings(through_proxy=True, site_proxy=lambda host, port: HostPort("10.0.0.8", 8080))
    assert set(of(needed(tunnelled, behind), Direction.OUT)) == {("10.0.0.8", 8080)}, "all leaves by the site's proxy"


def test_storages_authorities_and_kubernetes_are_outbound() -> None:
    etcd = """teleport:
  storage: {type: etcd, peers: ['https://10.0.0.1:2379', 'https://[fd01::2]'], prefix: /t/, tls_ca_file: /ca}
"""
    found = needed(config(etcd, "auth"), Surroundings())
    assert of(found, Direction.OUT) == [("10.0.0.1", 2379), ("fd01::2", 2379)]
    assert "ip6 daddr fd01::2 tcp dport 2379 accept" in rules(as_nft(found, str))
    secret = "postgresql://u:sesame@db1,db2:6000/t"
    found = needed(
        config(f"teleport: {{storage: {{type: postgresql, conn_string: '{secret}'}}}}\n", "auth"),
        Surroundings(nameservers=("10.0.0.53", "127.0.0.53")),
    )
    out = of(found, Direction.OUT)
    assert out[:2] == [("db1", 5432), ("db2", 6000)]
    assert out[2:] == [("10.0.0.53", 53)] * 2 + [("", 53)] * 2, "the one on this host asks others"
    assert "sesame" not in repr(found) + as_nft(found, str)
    acme = """proxy_service:
  web_listen_addr: 0.0.0.0:443
  public_addr: p.example.com:443
  acme: {enabled: yes, email: a@example.com, uri: 'https://acme.example.com:14000/dir'}
"""
    found = needed(config(acme, "proxy"), Surroundings())
    assert ("acme.example.com", 14000) in of(found, Direction.OUT)
    assert ("", 443) in of(found, Direction.IN)


def test_what_is_needed_in_some_cases_is_no_rule() -> None:
    """It stands there, off, with the case."""
    found = needed(config("teleport: {data_dir: /nowhere}\n", "proxy"), Surroundings())
    text = as_nft(found, str)
    assert "    # tcp dport 3021 accept" in text
    assert not any("3021" in rule or "dport 22 " in rule or "123" in rule for rule in rules(text))
    peering = "auth_service: {tunnel_strategy: {type: proxy_peering}}\n"
    found = needed(config(peering, "auth", "proxy"), Surroundings())
    assert ("0.0.0.0", 3021) in of(found, Direction.IN)
    assert ("", 3021) in of(found, Direction.OUT)


def test_a_comment_ends_no_line() -> None:
    """What is named by other files cannot add a rule."""
    evil = Port(Direction.OUT, "tcp", "k.example.com", 6443, "the cluster x\n    tcp dport 1 accept", "calls")
    assert "\n    tcp dport 1 accept" not in as_nft([evil], lambda text: text.replace("\n", "\\n"))


def test_names_and_sockets_of_this_host() -> None:
    assert [is_local(host) for host in ("localhost", "127.9.9.9", "::1", "/run/socket")] == [True] * 4
    assert [is_local(host) for host in ("", "0.0.0.0", "::", "192.0.2.1", "localhost.example.com")] == [False] * 5
