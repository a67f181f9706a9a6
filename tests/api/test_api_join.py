"""Joining: the authority is proved first, the token is sent second, and only to an auth server (T13, decision 18)."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from tests.transport.transport_peers import peer, read_request, reply, server_context, tls_pair, websocket_to

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import Door, ProvedCluster, doors, find_cluster, join_cluster, proved_client
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.pin import ca_pin
from teleport.pki.refusal import CertificateRefused
from teleport.pki.x509cert import (
    HostTLSRequest,
    auth_server_name,
    issue_host_tls,
    new_tls_authority,
    pem_of,
)
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, running_auth

TUNNEL = "/webapi/auth/tunnel"
OTHER_PIN = "sha256:" + "0" * 64


def now() -> datetime:
    return datetime.now(UTC)


async def token_of(auth: RunningAuth) -> str:
    made = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
    return str(made.token)


def pin_of(auth: RunningAuth) -> str:
    return ca_pin(auth.tls_cas[0].encode())


def request_with(token: str) -> m.JoinRequest:
    return m.JoinRequest(
        token=token,
        host_id=str(uuid.uuid4()),
        node_name="alpha",
        role=SystemRole.NODE.value,
        public_ssh_key=generate_ed25519().public.line(),
        public_tls_key=generate_p256().public.spki_pem().decode(),
    )


def joins(addresses: Sequence[tuple[str, int]], pins: Sequence[str], token: str) -> m.HostCredentials:
    return join_cluster(find_cluster(addresses, pins), request_with(token), now)


# the right cluster


async def test_a_host_joins_an_auth_server_whose_authority_has_the_pin(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        token = await token_of(auth)
        found = await auth.in_thread(lambda: joins([auth.address], [OTHER_PIN, pin_of(auth)], token))
        assert found.cluster == CLUSTER
        assert found.tls_ca_certs == auth.tls_cas


async def test_through_a_proxy_the_relay_carries_ciphertext_only(tmp_path: Path) -> None:
    seen = bytearray()
    context = server_context(tls_pair(tmp_path / "web", "proxy.example.com"))
    async with (
        running_auth(tmp_path) as auth,
        websocket_to(auth.address, path=TUNNEL, context=context, seen=seen) as web,
    ):
        token = await token_of(auth)
        cluster = await auth.in_thread(lambda: find_cluster([web], [pin_of(auth)]))
        assert cluster.door == Door(*web, through_proxy=True), (
            "no auth server answers there, so the proxy's way is found"
        )
        assert cluster.pinned
        found = await auth.in_thread(lambda: join_cluster(cluster, request_with(token), now))
        assert found.cluster == CLUSTER
    assert len(seen) > 1000
    assert token.encode() not in seen


async def test_without_a_pin_the_cluster_is_found_and_marked_as_not_pinned(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        cluster = await auth.in_thread(lambda: find_cluster([auth.address], []))
        assert (cluster.name, cluster.pinned) == (CLUSTER, False)


async def test_the_refusal_of_auth_comes_back_as_it_is(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        with pytest.raises(AccessDenied):
            await auth.in_thread(lambda: joins([auth.address], [pin_of(auth)], "0" * 32))


# pins


async def test_another_pin_ends_the_joining(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        with pytest.raises(CertificateRefused, match="does not have the pin"):
            await auth.in_thread(lambda: find_cluster([auth.address], [OTHER_PIN]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pin: pin[:-1],
        lambda pin: pin[:20],
        lambda pin: pin.removeprefix("sha256:"),
        lambda pin: pin + "0",
        lambda pin: "",
        lambda pin: pin.upper(),
    ],
    ids=["one short", "truncated", "no prefix", "one long", "empty", "upper case"],
)
async def test_a_malformed_pin_is_refused_before_anybody_is_asked(spoil: Callable[[str], str]) -> None:
    good = "sha256:" + "ab" * 32
    asked: list[bytes] = []
    with peer(lambda connection: asked.append(connection.recv(10))) as address:
        for pins in ([spoil(good)], [good, spoil(good)]):
            with pytest.raises(BadRequest, match="is not a CA pin"):
                find_cluster([address], pins)
    assert not asked


# men in the middle


class Impostor:
    """Shows the true authority to whoever asks, behind a certificate of its own, and writes down all it can read."""

    def __init__(self, authority: Sequence[str], cert_file: Path, key_file: Path) -> None:
        self._answer = json.dumps({"cluster": CLUSTER, "tls_certs": list(authority)}).encode()
        self.context = server_context((cert_file, key_file))
        self.read: list[bytes] = []

    def serve(self, connection: socket.socket) -> None:
        while True:
            head, body = read_request(connection)
            self.read += [head, body]
            if not head:
                return
            connection.sendall(reply(self._answer))

    def assert_read_nothing_secret(self, token: str) -> None:
        everything = b"".join(self.read)
        assert b"GET /v1/ca " in everything, "the public question was asked"
        assert token.encode() not in everything
        assert b"/v1/join" not in everything


def own_leaf(folder: Path) -> tuple[Path, Path]:
    """A certificate with auth's name that nobody of the cluster signed."""
    return tls_pair(folder, auth_server_name(CLUSTER))


async def leaf_of(auth: RunningAuth, role: SystemRole) -> tuple[Path, Path]:
    """A true certificate of the same cluster, of a host that is not its auth server."""
    held: Credentials = await auth.host(role, names=["127.0.0.1"])
    assert held.cert is not None
    assert held.key is not None
    return held.cert, held.key


@pytest.mark.parametrize("through", ["auth", "proxy"])
async def test_an_impostor_that_shows_the_true_authority_sees_no_byte_of_the_token(
    tmp_path: Path, through: str
) -> None:
    """Neither behind a certificate of its own nor behind a true one of a node, a proxy or an administrator."""
    async with running_auth(tmp_path) as auth:
        token = await token_of(auth)
        leaves = [await leaf_of(auth, role) for role in (SystemRole.NODE, SystemRole.PROXY, SystemRole.ADMIN)]
        outer = server_context(tls_pair(tmp_path / "web", "proxy.example.com"))
        for leaf in (own_leaf(tmp_path / "leaf"), *leaves):
            impostor = Impostor(auth.tls_cas, *leaf)
            with peer(impostor.serve, impostor.context) as false_auth:
                async with websocket_to(false_auth, path=TUNNEL, context=outer) as false_proxy:
                    address = false_auth if through == "auth" else false_proxy
                    for pins in ([pin_of(auth)], []):
                        with pytest.raises(
                            ConnectionProblem, match="cannot prove that it is its auth server"
                        ) as caught:
                            await asyncio.to_thread(joins, [address], pins, token)
                        assert "nothing secret was sent" in caught.value.hint
            impostor.assert_read_nothing_secret(token)


async def test_a_certificate_with_the_name_of_auth_but_another_role_is_no_auth_server(tmp_path: Path) -> None:
    """Auth never signs such a one; the role is asked for nevertheless."""
    ca_key, host_key = generate_p256(), generate_p256()
    ca = new_tls_authority(CLUSTER, ca_key, now())
    request = HostTLSRequest(host_key.public, str(uuid.uuid4()), SystemRole.PROXY)
    proxy = x509.load_der_x509_certificate(issue_host_tls(request, ca, ca_key, CLUSTER, now()))
    (tmp_path / "leaf.crt").write_bytes(_renamed(proxy, ca_key).public_bytes(Encoding.PEM))
    (tmp_path / "leaf.key").write_bytes(host_key.pkcs8_pem().reveal())
    impostor = Impostor([pem_of(ca).decode()], tmp_path / "leaf.crt", tmp_path / "leaf.key")
    with peer(impostor.serve, impostor.context) as address:
        cluster = ProvedCluster(CLUSTER, (pem_of(ca).decode(),), Door(*address, through_proxy=False), pinned=True)
        with pytest.raises(AccessDenied, match="but not its auth server"):
            await asyncio.to_thread(join_cluster, cluster, request_with("secret"), now)
    assert not b"".join(impostor.read)


def _renamed(found: x509.Certificate, ca_key: PrivateKey) -> x509.Certificate:
    """The same certificate with the name that only auth servers have."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(found.subject)
        .issuer_name(found.issuer)
        .public_key(found.public_key())
        .serial_number(found.serial_number)
        .not_valid_before(found.not_valid_before_utc)
        .not_valid_after(found.not_valid_after_utc)
    )
    for extension in found.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName([x509.DNSName(auth_server_name(CLUSTER))])
        builder = builder.add_extension(value, extension.critical)
    signer = ca_key.crypto()
    assert isinstance(signer, EllipticCurvePrivateKey)
    return builder.sign(signer, hashes.SHA256())


async def test_the_authority_of_another_cluster_is_not_taken_for_the_pinned_one(tmp_path: Path) -> None:
    """Two authorities are shown, one of them pinned: only that one is trusted from then on."""
    async with running_auth(tmp_path) as auth:
        token = await token_of(auth)
        other_key, leaf_key = generate_p256(), generate_p256()
        other = new_tls_authority(CLUSTER, other_key, now())
        request = HostTLSRequest(leaf_key.public, str(uuid.uuid4()), SystemRole.AUTH)
        (tmp_path / "leaf.crt").write_bytes(pem_of(issue_host_tls(request, other, other_key, CLUSTER, now())))
        (tmp_path / "leaf.key").write_bytes(leaf_key.pkcs8_pem().reveal())
        impostor = Impostor([pem_of(other).decode(), *auth.tls_cas], tmp_path / "leaf.crt", tmp_path / "leaf.key")
        with (
            peer(impostor.serve, impostor.context) as address,
            pytest.raises(ConnectionProblem, match="cannot prove"),
        ):
            await auth.in_thread(lambda: joins([address], [pin_of(auth)], token))
        impostor.assert_read_nothing_secret(token)


async def test_an_expired_certificate_of_auth_proves_nothing(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        token = await token_of(auth)
        cluster = await auth.in_thread(lambda: find_cluster([auth.address], [pin_of(auth)]))
        later = now() + timedelta(days=200)
        with pytest.raises(TeleportError, match="expired"):
            await auth.in_thread(lambda: join_cluster(cluster, request_with(token), lambda: later))


async def test_a_far_end_that_is_gone_is_not_called_an_impostor(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)  # the whole greeting, else the system says that it was thrown away

    async with running_auth(tmp_path) as auth:
        cluster = await auth.in_thread(lambda: find_cluster([auth.address], [pin_of(auth)]))
    with pytest.raises(ConnectionProblem, match="cannot connect"):
        await asyncio.to_thread(join_cluster, cluster, request_with("t"), now)
    with peer(serve) as address:
        cut = ProvedCluster(cluster.name, cluster.ca_certs, Door(*address, through_proxy=False), pinned=True)
        with pytest.raises(ConnectionProblem, match="before TLS was set up"):
            await asyncio.to_thread(join_cluster, cut, request_with("t"), now)


# what answers at an address


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html></html>"),
        reply(b'{"cluster": "x", "tls_certs": []}'),
        reply(b'{"error": {"message": "no"}}', status="404 Not Found"),
        reply(b'{"cluster": "\xff"}'),
        b"\x1b]0;title\x07",
        b"",
    ],
    ids=["a web page", "no authority", "404", "not UTF-8", "noise", "nothing"],
)
async def test_what_is_not_an_auth_server_is_passed_over(tmp_path: Path, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    context = server_context(tls_pair(tmp_path / "web", "web.example.com"))
    with peer(serve, context) as wrong:
        with pytest.raises(ConnectionProblem, match="no auth server answers") as caught:
            await asyncio.to_thread(find_cluster, [wrong], [])
        assert "\x1b" not in str(caught.value)
        async with running_auth(tmp_path) as auth:
            cluster = await auth.in_thread(lambda: find_cluster([wrong, auth.address], [pin_of(auth)]))
            assert (cluster.door.host, cluster.door.port) == auth.address


async def test_an_address_of_tunnels_or_of_ssh_is_told_from_the_web_address_that_is_meant() -> None:
    """A proxy's 3024 is where hosts that have joined keep tunnels; nobody joins there."""

    async def ssh(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-Teleport\r\n")
        writer.close()

    async with await asyncio.start_server(ssh, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        with pytest.raises(ConnectionProblem) as caught:
            await asyncio.to_thread(find_cluster, [(host, port)], [])
        assert f"{host}:{port} speaks SSH" in caught.value.hint
        assert f"{host}:3080 or {host}:443" in caught.value.hint


def test_doors_are_tried_as_the_ports_suggest_first() -> None:
    found = [str(door) for door in doors([("a", 3025), ("b", 3080), ("c", 443), ("::1", 1)])]
    assert found == [
        "a:3025",
        "b:3080 (proxy)",
        "c:443 (proxy)",
        "[::1]:1",
        "a:3025 (proxy)",
        "b:3080",
        "c:443",
        "[::1]:1 (proxy)",
    ]


async def test_the_proved_client_serves_several_calls(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        cluster = await auth.in_thread(lambda: find_cluster([auth.address], [pin_of(auth)]))

        def work() -> list[str]:
            with proved_client(cluster, now) as client:
                return [client.call(routes.CLUSTER_CA, m.Empty()).cluster for _ in range(3)]

        assert await auth.in_thread(work) == [CLUSTER] * 3
