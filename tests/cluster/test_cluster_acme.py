"""Certificates by ACME, with Debian's pebble as the directory: got, shared by two proxies, renewed, and kept."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cluster.cluster_haproxy import Front, haproxy, needs_haproxy
from tests.cluster.cluster_packages import install
from tests.cluster.cluster_proxies import Farm

from teleport.testing.cluster import LOOPBACK, free_port, wait_until
from teleport.testing.directory import directory, why_no_directory

NAME, STRANGE = "teleport.example.test", "stranger.example.test"


def needs_pebble() -> None:
    missing = why_no_directory()
    if missing and (why := install("pebble", missing)):
        pytest.skip(why)


def _shown(port: int, name: str, context: ssl.SSLContext) -> bytes | None:
    """The certificate (DER) that is shown for a name; None when no handshake comes about."""
    try:
        with (
            socket.create_connection((LOOPBACK, port), timeout=20) as connection,
            context.wrap_socket(connection, server_hostname=name) as tls,
        ):
            return tls.getpeercert(binary_form=True)
    except (ssl.SSLError, ConnectionError):
        return None


def served(port: int, name: str, protocols: Sequence[str] = ()) -> bytes | None:
    """What is shown, whoever signed it; None when the proxy refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return _shown(port, name, context)


def believed(port: int, root: bytes) -> bytes | None:
    """What is shown to a browser that knows `root` alone; None when it is warned."""
    return _shown(port, NAME, ssl.create_default_context(cadata=root.decode()))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("life", [pytest.param(0, id="shared"), pytest.param(45, id="renewed", marks=pytest.mark.long)])
def test_two_proxies_share_what_one_of_them_orders_and_renew_it(life: int, tmp_path: Path) -> None:
    """The directory looks by a balancer, at whichever proxy its turn is: each answers. One that lives 45 s is renewed
    after 30. Once the directory is gone, and when one proxy begins anew, what there is is shown."""
    needs_pebble()
    needs_haproxy()
    farm, https = Farm(tmp_path / "farm", ["one", "two"]), free_port()
    proxies = list(farm.proxies.values())
    with ExitStack() as away:
        made = away.enter_context(directory(tmp_path / "pebble", https, life=life))
        for proxy in proxies:
            section = proxy.config["proxy_service"]
            section["public_addr"] = [section["public_addr"], f"{NAME}:{https}"]
            section["acme"] = {"enabled": True, "email": "admin@example.test", "uri": made.uri}
            proxy.write()
            proxy.daemon.environment["SSL_CERT_FILE"] = str(made.trust)
        fronts = [Front(proxies[0].web_port, more=[proxies[1].web_port], port=https)]
        with haproxy(tmp_path / "front", fronts), farm.served(["one", "two"], []):
            first = [
                wait_until("the certificate", lambda port=proxy.web_port: believed(port, made.root), 90)  # type: ignore[misc]
                for proxy in proxies
            ]
            assert first[0] == first[1], "both show the same"
            orders = farm.events("--type=acme.order")
            assert {event["name"] for event in orders} == {NAME}
            assert len(farm.events("--type=acme_account.create")) == 1
            assert len(farm.events("--type=web_certificate.update")) == 1
            farm.wait_event("web_certificate.read", name=NAME)
            # nothing that a stranger asks for is ordered, or answered
            assert served(proxies[0].web_port, STRANGE) is not None
            assert served(proxies[0].web_port, STRANGE, ["acme-tls/1"]) is None
            assert served(proxies[0].web_port, NAME, ["acme-tls/1"]) is None, "no order is open"
            assert "PRIVATE" not in proxies[0].daemon.log() + proxies[1].daemon.log()
            if not life:
                return
            renewed = [
                wait_until("another", lambda port=proxy.web_port: _other(port, made.root, first[0]), 150)  # type: ignore[misc]
                for proxy in proxies
            ]
            assert renewed[0] == renewed[1]
            assert {event["name"] for event in farm.events("--type=acme.order")} == {NAME}
            assert STRANGE not in made.log()
            away.close()
            proxies[0].daemon.stop()
            proxies[0].daemon.begin()
            wait_until("the proxy is there again", proxies[0].daemon.ready, 60)
            wait_until("it shows what there is", lambda: served(proxies[0].web_port, NAME) == renewed[0], 60)
            failed = farm.wait_event("web_certificate.failed", 120, name=NAME)
            assert "cannot be reached" in failed["error"]
            assert served(proxies[1].web_port, NAME) == renewed[0], "kept while the directory is away"


def _other(port: int, root: bytes, before: bytes) -> bytes | None:
    found = believed(port, root)
    return found if found is not None and found != before else None
