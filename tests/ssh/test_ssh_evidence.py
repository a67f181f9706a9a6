"""What our server has of a client that proved a key proves it to others: with OpenSSH's client, for every exchange."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256, generate_rsa
from teleport.pki.live_proof import HASHES, Evidence, check_evidence
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshcert import HostCertRequest, issue_host_cert
from teleport.pki.sshformat import parse_certificate
from teleport.ssh.handlers import ConnectionHandler
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import KEY_EXCHANGES, Refusal, Surface
from teleport.testing.lab_certificates import Authorities
from teleport.testing.running import Ran, listener, run_client

ME = getpass.getuser()
SURFACE = Surface(frozenset({"session"}), frozenset({"exec"}), frozenset())


class Gate:
    """Lets nobody in, and keeps what proves who asked."""

    def __init__(self) -> None:
        self.evidence: list[Evidence] = []
        self.asked: list[tuple[str, bytes]] = []

    def proved(self, evidence: Evidence) -> None:
        self.evidence.append(evidence)

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        self.asked.append((login, certificate))
        return Refusal("nobody comes in here")

    def failed(self, login: str, reason: str) -> None:
        return


@asynccontextmanager
async def serving(gate: object, key: PrivateKey, certificate: str = "") -> AsyncIterator[int]:
    made = await SshServer.create([HostKey(key.openssh_pem().reveal(), certificate)], SURFACE)
    sock = listener()
    server = await asyncio.get_running_loop().create_server(
        lambda: made.connection(lambda _: gate),  # type: ignore[arg-type,return-value]
        sock=sock,
    )
    try:
        yield int(sock.getsockname()[1])
    finally:
        server.close()


async def ask(folder: Path, port: int, user_key: PrivateKey, *options: str) -> tuple[Ran, bytes]:
    user = Authorities().user((ME,), key=user_key)
    identity = user.write(folder)
    done = await run_client(
        *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
        *("-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-i", str(identity), "-p", str(port)),
        *options,
        f"{ME}@127.0.0.1",
        "true",
    )
    return done, user.certificate.blob


@pytest.mark.parametrize("exchange", KEY_EXCHANGES)
async def test_every_key_exchange_that_openssh_does(tmp_path: Path, exchange: str) -> None:
    gate, key = Gate(), generate_ed25519()
    async with serving(gate, key) as port:
        done, certificate = await ask(tmp_path, port, generate_p256(), "-o", f"KexAlgorithms={exchange}")
    if "Bad SSH2 KexAlgorithms" in done.stderr or "Unsupported KEX" in done.stderr:
        pytest.skip(f"this ssh does not know {exchange}")
    if "no matching key exchange" in done.stderr:
        pytest.skip(f"this host's libraries do not offer {exchange}")
    [evidence] = gate.evidence
    assert evidence.hash_name in HASHES
    proof = check_evidence(evidence, certificate)
    assert (proof.login, proof.host_key.blob) == (ME, key.public.blob)
    assert gate.asked == [(ME, certificate)]


@pytest.mark.parametrize("make", [generate_ed25519, generate_p256, generate_rsa])
async def test_every_kind_of_key_of_a_user(tmp_path: Path, make: type) -> None:
    gate = Gate()
    async with serving(gate, generate_ed25519()) as port:
        _, certificate = await ask(tmp_path, port, make())
    assert check_evidence(gate.evidence[0], certificate).login == ME


async def test_the_certificate_that_a_server_shows_is_in_it(tmp_path: Path) -> None:
    gate, key, now = Gate(), generate_ed25519(), datetime.now(UTC)
    request = HostCertRequest(key.public, "abc", SystemRole.NODE, ("web",))
    shown = issue_host_cert(request, generate_ed25519(), "lab.test", now)
    async with serving(gate, key, shown.line()) as port:
        _, certificate = await ask(
            tmp_path, port, generate_p256(), "-o", "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com"
        )
    assert shown.blob in gate.evidence[0].exchange
    assert check_evidence(gate.evidence[0], certificate).host_key.blob == key.public.blob


async def test_it_proves_nobody_elses_connection(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(gate, generate_ed25519()) as port:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        _, one = await ask(tmp_path / "one", port, generate_p256())
        _, two = await ask(tmp_path / "two", port, generate_p256())
    first, second = gate.evidence
    for evidence, certificate in ((first, two), (second, one)):
        with pytest.raises(CertificateRefused):
            check_evidence(evidence, certificate)
    mixed = Evidence(first.exchange, first.hash_name, second.request, second.signature)
    with pytest.raises(CertificateRefused):
        check_evidence(mixed, two)


async def test_a_gate_that_wants_none_costs_nothing(tmp_path: Path) -> None:
    class Plain:
        asked = 0

        async def admit(self, login: str, certificate: bytes) -> Refusal:
            parse_certificate(certificate)
            Plain.asked += 1
            return Refusal("no")

        def failed(self, login: str, reason: str) -> None:
            return

    async with serving(Plain(), generate_ed25519()) as port:
        await ask(tmp_path, port, generate_p256())
    assert Plain.asked == 1
