"""A balancer ends TLS with a certificate of its own, in front of two proxies that it takes in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.cluster_haproxy import SOURCE, Front, haproxy, needs_haproxy
from tests.cluster.cluster_proxies import Farm, TunnelNode
from tests.cluster.test_cluster_one_port import Balanced

from teleport.testing.cluster import LOOPBACK, PASSWORD, PUBLIC, DaemonProcess, at, wait_until
from teleport.testing.public_authority import PublicAuthority


@dataclass
class Ended:
    """A cluster behind such a balancer; the host `joined` came in by it, too."""

    farm: Farm
    root: Path  # whom clients believe the balancer's certificate

    def person(self, name: str) -> Balanced:
        found = Balanced(self.farm, name, self.farm.folder / "homes" / name)
        found.believed, found.public = self.root, self.farm.web_port
        return found


@contextmanager
def before_two_proxies(flag: str, folder: Path) -> Iterator[Ended]:
    """`teleport start FLAG --roles=proxy --config=...` twice: with `--insecure` the balancer opens TLS anew to proxies
    that show what they made themselves; with `--insecure-no-tls` it opens none."""
    needs_haproxy()
    farm = Farm(folder / "farm", ["one", "two"])
    public, proxies = farm.web_port, list(farm.proxies.values())
    for proxy in proxies:
        proxy.config["version"] = "v2"
        section = proxy.config["proxy_service"]
        for gone in ("listen_addr", "ssh_public_addr", "tunnel_listen_addr", "tunnel_public_addr"):
            del section[gone]
        section |= {"public_addr": at(public, PUBLIC), "proxy_protocol_from": SOURCE}
        proxy.write()
        proxy.daemon = DaemonProcess(
            proxy.folder,
            ["--config", proxy.config_path, "--pid-file", proxy.pid_file, "--roles=proxy", flag],
            diag_port=proxy.diag_port,
        )
    farm.proxy_ssh_port = public
    authority = PublicAuthority("Balancer")
    issued, pair, root = authority.issue(PUBLIC, "localhost", LOOPBACK), folder / "pair.pem", folder / "root.pem"
    pair.write_bytes(issued.chain + issued.key)
    root.write_bytes(authority.root)
    inner = " ssl verify none" if flag == "--insecure" else ""
    front = Front(
        proxies[0].web_port,
        f"send-proxy-v2 check-send-proxy{inner}",
        bind=f"ssl crt {pair} alpn http/1.1",
        mode="http",
        port=public,
        more=[proxies[1].web_port],
    )
    with ExitStack() as stack:
        stack.enter_context(farm)
        for proxy in proxies:
            proxy.begin()
            stack.push(proxy.daemon)
        for proxy in proxies:
            wait_until(f"{proxy.name} is ready", proxy.daemon.ready, 60)
        stack.enter_context(haproxy(folder / "haproxy", [front]))
        node = TunnelNode(farm, "joined")
        node.begin()
        stack.push(node.daemon)
        wait_until("the host is ready", node.daemon.ready, 60)
        ids = {proxy.host_id for proxy in proxies}
        wait_until("the host has a tunnel to each proxy", lambda: set(farm.proxy_ids("joined")) == ids, 60)
        yield Ended(farm, root)


@pytest.mark.parametrize("flag", ["--insecure", "--insecure-no-tls"])
def test_people_and_hosts_come_by_a_balancer_that_ends_tls_before_two_proxies(
    flag: str, login: str, tmp_path: Path
) -> None:
    """Login, ssh, and a host that joins through it; every event has the client's address, none the balancer's."""
    with before_two_proxies(flag, tmp_path) as ended:
        farm, public = ended.farm, ended.farm.web_port
        bob = ended.person("bob")
        added = farm.tctl("users", "add", "bob", "--roles=access", f"--logins={login}", "--format=json").json()
        bob.accept(added["url"])
        bob.tsh("login", f"--proxy={at(public, PUBLIC)}", "--user=bob", stdin=f"{PASSWORD}\n{bob.code()}\n").ok()
        for word in ("one", "two", "three", "four"):  # the balancer takes the proxies in turn
            assert bob.tsh("ssh", f"{login}@joined", "echo", word).ok().stdout == f"{word}\n"
        farm.wait_event("session.end", user="bob")
        seen = {event["addr.remote"].rpartition(":")[0] for event in farm.events() if event.get("addr.remote")}
        assert LOOPBACK in seen
        assert SOURCE not in seen, "the balancer stands for its client"
