"""Which certificate the web listener of a real daemon shows to whom, and that it asks for none (T-3)."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator

import pytest
from cryptography import x509

from teleport.errors import ConnectionProblem
from teleport.pki.x509cert import INTERNAL_NAME, auth_server_name
from teleport.testing.cluster import Cluster
from teleport.transport.blocking import TLSStream, dial_tcp
from teleport.transport.tls import cluster_client_context, unproved_client_context


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def authority(cluster: Cluster) -> str:
    return cluster.tctl("auth", "export", "--type=tls").ok().stdout


def shown(cluster: Cluster, name: str, context: ssl.SSLContext) -> x509.Certificate:
    stream = TLSStream(dial_tcp("127.0.0.1", cluster.web_port, 10), context, name)
    try:
        return x509.load_der_x509_certificate(stream.peer_certificate())
    finally:
        stream.close()


def test_who_asks_for_the_cluster_sees_its_host_certificate(cluster: Cluster, authority: str) -> None:
    found = shown(cluster, INTERNAL_NAME, cluster_client_context([authority]))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert INTERNAL_NAME in names.get_values_for_type(x509.DNSName)
    assert auth_server_name(cluster.name) not in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize("name", ["localhost", "other.example.com", "127.0.0.1", "x.teleport.cluster.local"])
def test_every_other_name_sees_the_public_pair(cluster: Cluster, name: str) -> None:
    found = shown(cluster, name, unproved_client_context())
    public = (cluster.data_dir / "webproxy_cert.pem").read_bytes()
    assert found == x509.load_pem_x509_certificate(public)
    if name == "localhost":
        assert shown(cluster, name, ssl.create_default_context(cadata=public.decode())) == found


def test_the_proxy_never_passes_for_auth(cluster: Cluster, authority: str) -> None:
    with pytest.raises(ConnectionProblem, match="did not prove who it is"):
        shown(cluster, auth_server_name(cluster.name), cluster_client_context([authority]))


@pytest.mark.parametrize("name", ["localhost", INTERNAL_NAME])
def test_no_certificate_is_asked_of_clients(cluster: Cluster, name: str) -> None:
    """Seen in the handshake itself: a TLS 1.2 server that wants one says CertificateRequest in the clear."""
    context = unproved_client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    came, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(came, out, server_hostname=name)
    said = bytearray()
    with socket.create_connection(("127.0.0.1", cluster.web_port), 10) as raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(out.read())
                part = raw.recv(65536)
                assert part
                said += part
                came.write(part)
    assert 13 not in _handshake_messages(bytes(said)), "13 is CertificateRequest (RFC 5246 section 7.4)"
    assert 11 in _handshake_messages(bytes(said)), "11 is the server's Certificate"


def _handshake_messages(data: bytes) -> list[int]:
    """The kinds of the handshake messages before encryption begins."""
    messages, inner = [], bytearray()
    while data:
        kind, length = data[0], int.from_bytes(data[3:5], "big")
        if kind != 22:  # change_cipher_spec: what follows is encrypted
            break
        inner += data[5 : 5 + length]
        data = data[5 + length :]
    while len(inner) >= 4:
        messages.append(inner[0])
        del inner[: 4 + int.from_bytes(inner[1:4], "big")]
    return messages


def test_old_tls_is_refused(cluster: Cluster) -> None:
    context = unproved_client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ConnectionProblem, ConnectionResetError)):
        shown(cluster, "localhost", context)
