"""Who PostgreSQL lets in, whom the engine believes, and what is never sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teleport.backend.postgresql.engine import PostgresqlBackend
from teleport.backend.postgresql.settings import PostgresqlSettings, Server, SslMode, parse
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem, TeleportError
from teleport.testing import postgresql
from teleport.testing.etcd import free_ports
from teleport.testing.postgresql import PostgresqlServer

SECRET = "hunter2hunter2"
HBA = """\
local all all trust
hostssl all certified 127.0.0.1/32 cert clientcert=verify-full
host all scrammed 127.0.0.1/32 scram-sha-256
host all plain 127.0.0.1/32 password
host all postgres 127.0.0.1/32 trust
"""

pytestmark = pytest.mark.skipif(postgresql.programs() is None, reason=postgresql.MISSING)


@dataclass(frozen=True, slots=True)
class Certified:
    cert: Path
    key: Path
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(folder: Path, name: str, ca: Certified | None, *, host: str = "", subject: str = "") -> Certified:
    """A certificate; without `ca`, an authority's. `host`: the name that a server is reached by."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(names)
        .issuer_name(names if ca is None else ca.authority[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
    )
    if host:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    if ca is not None:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    certificate = builder.sign(key if ca is None else ca.authority[1], hashes.SHA256())
    made = Certified(folder / f"{name}.pem", folder / f"{name}.key", (certificate, key))
    made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


@dataclass(frozen=True, slots=True)
class Lab:
    server: PostgresqlServer
    folder: Path
    ca: Certified
    stranger: Certified

    def settings(self, user: str, **more: object) -> PostgresqlSettings:
        """As an operator has them who checks everything; the server is reached by its name."""
        plain = PostgresqlSettings(
            (Server("localhost", self.server.port),), "postgres", user, ca_file=self.ca.cert, schema=f"of_{user}"
        )
        return replace(plain, **more)  # type: ignore[arg-type]

    def certified(self, by: Certified, subject: str) -> dict[str, object]:
        made = issue(self.folder, f"{subject}-{by.cert.stem}", by, subject=subject)
        return {"cert_file": made.cert, "key_file": made.key}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("certificates")
    ca, stranger = issue(folder, "ca", None), issue(folder, "stranger", None)
    own = issue(folder, "server", ca, host="localhost")
    server = PostgresqlServer(
        "ssl=on", "ssl_cert_file=server.pem", "ssl_key_file=server.key", "ssl_ca_file=ca.pem", hba=HBA
    )
    server.initialize()
    for path, name in ((own.cert, "server.pem"), (own.key, "server.key"), (ca.cert, "ca.pem")):
        server.place(name, path.read_bytes())
    with server:
        server.sql(
            f"CREATE ROLE scrammed LOGIN PASSWORD '{SECRET}'",
            f"CREATE ROLE plain LOGIN PASSWORD '{SECRET}'",
            "CREATE ROLE certified LOGIN",
            *(f"CREATE SCHEMA of_{user} AUTHORIZATION {user}" for user in ("scrammed", "plain", "certified")),
        )
        yield Lab(server, folder, ca, stranger)


def engine(settings: PostgresqlSettings, *, within: float = 3.0) -> PostgresqlBackend:
    return PostgresqlBackend(settings, SystemClock(), sweep_every=None, within=within)


async def refused(settings: PostgresqlSettings, kind: type[TeleportError], told: str) -> TeleportError:
    """How opening it fails; nothing secret is in what is said."""
    with pytest.raises(kind, match=told) as caught:
        await engine(settings, within=0.5).open()
    assert caught.value.hint
    assert SECRET not in f"{caught.value}{caught.value.hint}{caught.value!r}"
    return caught.value


async def test_the_server_proves_itself_by_its_certificate_and_name(lab: Lab) -> None:
    good = lab.settings("scrammed", password=SECRET)
    async with engine(good) as backend:
        await backend.put("k", b"v")
        assert await lab_encrypted(lab) == {"scrammed": True}
    unknown = await refused(replace(good, ca_file=lab.stranger.cert), ConnectionProblem, "certificate")
    assert "sslrootcert" in unknown.hint
    by_address = replace(good, servers=(Server("127.0.0.1", lab.server.port),))
    await refused(by_address, ConnectionProblem, "127.0.0.1")
    async with engine(replace(by_address, sslmode=SslMode.VERIFY_CA)) as backend:
        assert await backend.get("k") is not None
    still = replace(by_address, sslmode=SslMode.VERIFY_CA, ca_file=lab.stranger.cert)
    await refused(still, ConnectionProblem, "certificate")
    await refused(replace(good, ca_file=None), ConnectionProblem, "certificate")  # the machine's authorities


async def lab_encrypted(lab: Lab) -> dict[str, bool]:
    """Who is connected, and whether with TLS."""
    said = await asyncio.to_thread(
        lab.server.sql,
        "SELECT DISTINCT usename, ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL",
    )
    return {user: ssl == "t" for user, ssl in (line.split("|") for line in said.splitlines())}


async def test_a_server_without_tls_gets_no_password(lab: Lab) -> None:
    """Not even one that would ask for it in clear text."""
    with PostgresqlServer(hba="local all all trust\nhost all all 127.0.0.1/32 password\n") as naked:
        settings = lab.settings("postgres", password=SECRET, servers=(Server("localhost", naked.port),))
        said = await refused(settings, ConnectionProblem, "no TLS")
        assert "SHOW ssl" in said.hint
        log = (naked.directory / "log").read_text()
        assert "authentication failed" not in log


async def test_a_password_comes_from_a_file_that_may_change(lab: Lab) -> None:
    path = lab.folder / "password"
    settings = lab.settings("scrammed", password_file=path)
    with pytest.raises(TeleportError, match="password_file") as caught:
        await engine(settings).open()
    assert "ls -l" in caught.value.hint
    path.write_text("wrong\n")
    said = await refused(settings, AccessDenied, "user scrammed")
    assert "password_file" in said.hint
    path.write_text(f"{SECRET}\n")
    async with engine(settings) as backend:
        await backend.put("k", b"")
        await asyncio.to_thread(
            lab.server.sql,
            "ALTER ROLE scrammed PASSWORD 'another'",
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'scrammed'",
        )
        path.write_text("another\n")
        await backend.put("k", b"two")
    await asyncio.to_thread(lab.server.sql, f"ALTER ROLE scrammed PASSWORD '{SECRET}'")


async def test_no_password_is_taken_from_the_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    passfile = lab.folder / "pgpass"
    passfile.write_text(f"*:*:*:*:{SECRET}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("PGSSLMODE", "disable")
    await refused(lab.settings("scrammed"), AccessDenied, "scrammed")
    async with engine(lab.settings("scrammed", password=SECRET)):
        assert await lab_encrypted(lab) == {"scrammed": True}


async def test_a_client_proves_itself_by_its_certificate(lab: Lab) -> None:
    async with engine(lab.settings("certified", **lab.certified(lab.ca, "certified"))) as backend:
        await backend.put("k", b"")
    await refused(lab.settings("certified"), TeleportError, "certified|certificate")
    await refused(lab.settings("certified", **lab.certified(lab.ca, "somebody")), AccessDenied, "user certified")
    await refused(
        lab.settings("certified", **lab.certified(lab.stranger, "certified")), TeleportError, "cannot open the storage"
    )


async def test_files_that_cannot_be_used_are_named(lab: Lab) -> None:
    absent = lab.folder / "absent"
    for name in ("ca_file", "cert_file", "key_file"):
        files = {**lab.certified(lab.ca, "certified"), name: absent}
        with pytest.raises(TeleportError, match=f"cannot read ssl.*{absent}") as caught:
            await engine(lab.settings("certified", **files)).open()
        assert "ls -l" in caught.value.hint
    swapped = {**lab.certified(lab.ca, "certified"), "key_file": lab.stranger.key}
    with pytest.raises(TeleportError, match="cannot use") as caught:
        await engine(lab.settings("certified", **swapped)).open()
    assert "openssl" in caught.value.hint


async def test_a_server_is_not_spoken_to_in_a_way_that_nobody_asked_for(lab: Lab) -> None:
    elsewhere = parse("postgresql://u@db.example.com/d?sslmode=disable")
    with pytest.raises(BadRequest, match="without TLS") as caught:
        await engine(elsewhere).open()
    assert caught.value.hint


async def test_no_server_is_told_with_its_address() -> None:
    (port,) = free_ports(1)
    settings = parse(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d?sslmode=disable")
    said = await refused(settings, ConnectionProblem, f"127.0.0.1:{port}")
    assert "pg_isready" in said.hint
