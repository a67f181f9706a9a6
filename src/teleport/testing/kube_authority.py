"""The certificates of a real Kubernetes cluster that is made for tests, whose RBAC reads names and groups in them."""

from __future__ import annotations

import base64
import ipaddress
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])


class KubeAuthority:
    """Writes what it issues into `folder`: NAME.pem and NAME.key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = self._new_key("ca")
        own = _builder(_AUTHORITY, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        (folder / "ca.pem").write_bytes(self.pem)

    def issue(self, file: str, name: str, *groups: str) -> None:
        """A certificate of whoever is called `name`, for localhost as a server and for clients."""
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        parts += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        key = self._new_key(file)
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = _builder(x509.Name(parts), key.public_key()).add_extension(uses, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        (self._folder / f"{file}.pem").write_bytes(made.public_bytes(Encoding.PEM))

    def account_keys(self) -> None:
        """sa.key and sa.pub, by which tokens of accounts are signed and checked."""
        public = self._new_key("sa").public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self._folder / "sa.pub").write_bytes(pem)

    def kubeconfig(self, file: str, port: int, context: str) -> str:
        """The kubeconfig of whoever has the certificate `file`, everything inline."""
        inline = {
            name: base64.b64encode((self._folder / name).read_bytes()).decode()
            for name in ("ca.pem", f"{file}.pem", f"{file}.key")
        }
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": inline["ca.pem"]}
        pair = {"client-certificate-data": inline[f"{file}.pem"], "client-key-data": inline[f"{file}.key"]}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "it", "cluster": cluster}],
                "users": [{"name": "me", "user": pair}],
                "contexts": [{"name": context, "context": {"cluster": "it", "user": "me"}}],
                "current-context": context,
            }
        )

    def _new_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        file = self._folder / f"{name}.key"
        file.touch(mode=0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        return key


def _builder(name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(_AUTHORITY)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
