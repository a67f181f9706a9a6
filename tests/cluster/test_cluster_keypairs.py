"""Certificates of the web listener as an administrator replaces them: the served one changes, nothing is restarted."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path

from teleport.testing.cluster import BIN, LOOPBACK, NODE, PUBLIC, Cluster, plain_environment, run, wait_until
from teleport.testing.public_authority import Issued, PublicAuthority


def shown(port: int, name: str, roots: bytes) -> str:
    """SHA-256 of the certificate that a browser which knows `roots` gets for this name."""
    context = ssl.create_default_context(cadata=roots.decode())
    with (
        socket.create_connection((LOOPBACK, port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=name) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return hashlib.sha256(found).hexdigest()


def digest(made: Issued) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(made.leaf.decode())).hexdigest()


def test_replacing_files_changes_the_certificate_and_drops_nobody(login: str, tmp_path: Path) -> None:
    """Through swapped links, as certbot makes them, and for the names of several pairs; a session and a login go on."""
    authority = PublicAuthority()
    live = tmp_path / "live"
    live.mkdir()

    def lead(number: int, made: Issued) -> None:
        chain, key = made.write(tmp_path / "archive", f"web{number}")
        for name, path in (("fullchain.pem", chain), ("privkey.pem", key)):
            new = live / f".{name}"
            new.symlink_to(path)
            new.rename(live / name)

    first, other = authority.issue(PUBLIC, "localhost"), authority.issue("*.other.test")
    lead(1, first)
    chain, key = other.write(tmp_path / "other")
    chain.write_bytes(other.chain + other.root)
    cluster = Cluster(tmp_path / "cluster")
    whole = live / "fullchain.pem"
    (tmp_path / "archive" / "web1.crt").write_bytes(first.chain + first.root)
    cluster.config["proxy_service"]["https_keypairs"] = [
        {"key_file": str(live / "privkey.pem"), "cert_file": str(whole)},
        {"key_file": str(key), "cert_file": str(chain)},
    ]
    cluster.write()
    with cluster:
        assert "a root that this host does not know" in cluster.daemon.log()
        assert "self-signed" not in cluster.daemon.log()
        assert shown(cluster.web_port, "localhost", authority.root) == digest(first)
        assert shown(cluster.web_port, "x.other.test", authority.root) == digest(other)
        bob = cluster.add_person("bob", logins=[login])
        bob.log_in()
        stays = socket.create_connection((LOOPBACK, cluster.web_port), timeout=20)
        context = ssl.create_default_context(cadata=authority.root.decode())
        tls = context.wrap_socket(stays, server_hostname="localhost")
        second = authority.issue(PUBLIC, "localhost", "new.test")
        lead(2, Issued(second.leaf, second.intermediate + second.root, second.root, second.key))
        wait_until("the new certificate", lambda: shown(cluster.web_port, "localhost", authority.root) != digest(first))
        assert shown(cluster.web_port, "new.test", authority.root) == digest(second)
        with tls:
            tls.sendall(b"GET /webapi/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = tls.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"Strict-Transport-Security" in answer
        assert bob.tsh("ssh", f"{login}@{NODE}", "echo", "there").ok().stdout == "there\n"
        (tmp_path / "archive" / "web2.key").write_bytes(first.key)
        wait_until("it is said", lambda: "stays in use" in cluster.daemon.log())
        assert shown(cluster.web_port, "localhost", authority.root) == digest(second)


def test_a_chain_that_is_not_complete_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    """The message names the file and what is missing; nothing of the key is in it."""
    made = PublicAuthority().issue(PUBLIC)
    chain, key = made.write(tmp_path / "pair")
    chain.write_bytes(made.leaf)
    cluster = Cluster(tmp_path / "cluster")
    cluster.config["proxy_service"]["https_keypairs"] = [{"key_file": str(key), "cert_file": str(chain)}]
    cluster.write()
    done = run(
        *(BIN / "teleport", "start", "--config", cluster.config_path),
        environment=plain_environment(tmp_path),
        seconds=60,
    )
    assert done.status == 1
    said = done.stdout + done.stderr
    assert f"the chain in {chain} is not complete: the certificate of CN=Test Intermediate is missing" in said
    assert "append it to the file" in said
    assert "Traceback" not in said
    assert made.key.splitlines()[1].decode() not in said
