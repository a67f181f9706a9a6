"""User certificates that no login gives: of any time, with any option, signed by a cluster's own authority or not."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from teleport.pki import sshsig
from teleport.pki.keys import PrivateKey, generate_ed25519
from teleport.pki.secret import Secret
from teleport.pki.sshformat import USER, CertificateBody, encode_signed, flag, parse_certificate, value
from teleport.pki.sshverify import PERMIT_PTY, ROLES, ROUTE, TRAITS
from teleport.pki.sshwire import string
from teleport.testing.cluster import LOOPBACK, PUBLIC, Cluster, Ran, plain_environment, run


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def now() -> datetime:
    return datetime.now(UTC)


def user_authority(cluster: Cluster) -> PrivateKey:
    """The key that signs the user certificates of the cluster."""
    found = cluster.tctl("get", "cert_authority/user", "--with-secrets", "--format=json").json()
    text = found[0]["spec"]["active_keys"]["ssh"][0]["private_key"]
    return PrivateKey.load(Secret(text.encode()))


def ending(cluster: Cluster, certificate: bytes, end: datetime) -> bytes:
    """The user's TLS certificate (PEM) with another end, for the same key, signed as that was. PEM."""
    found = cluster.tctl("get", "cert_authority/user", "--with-secrets", "--format=json").json()
    key = load_pem_private_key(found[0]["spec"]["active_keys"]["tls"][0]["key"].encode(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    old = x509.load_pem_x509_certificate(certificate)
    builder = x509.CertificateBuilder(
        old.issuer,
        old.subject,
        old.public_key(),
        old.serial_number,
        old.not_valid_before_utc,
        end,
        list(old.extensions),
    )
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Identity:
    """A key with its certificate beside it, as `ssh -i` finds it, and a known_hosts that trusts the cluster."""

    cluster: Cluster
    key: Path
    login: str

    def ssh(self, host: str, command: str, *options: str, login: str = "", by: str = "", plain: bool = False) -> Ran:
        """Plain `ssh` to `host` through the proxy, or (`by` a port) straight to a port of this machine.

        `plain` leaves the certificate away. At ssh's usual LogLevel, asking nobody.
        """
        common = [
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={self.key.parent / 'known_hosts'}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-i", str(self.key)),
            *(() if plain else ("-o", f"CertificateFile={self.key}-cert.pub")),
            *("-l", login or self.login),
        ]
        if by:
            way = ["-p", by]
        else:
            inner = " ".join(["ssh", "-F", "none", *common, "-p", str(self.cluster.proxy_ssh_port), PUBLIC])
            way = ["-o", f"ProxyCommand={inner} -s proxy:%h:%p"]
        arguments = ["ssh", "-F", "none", *common, *way, *options, host, command]
        return run(*arguments, environment=plain_environment(self.key.parent))


@dataclass(frozen=True, slots=True)
class Mint:
    """Signs with an authority's key whatever it is told."""

    cluster: Cluster
    authority: PrivateKey
    folder: Path

    def identity(
        self,
        user: str,
        login: str,
        *,
        roles: Sequence[str] = ("access",),
        logins: Sequence[str] = (),
        after: int | None = None,
        before: int | None = None,
        critical: Mapping[str, bytes] | None = None,
        extensions: Mapping[str, bytes] | None = None,
        route: str = "",
        name: str = "",
    ) -> Identity:
        """`after` and `before` are seconds since 1970; usually from a minute ago for an hour."""
        folder = self.folder / (name or user)
        folder.mkdir(parents=True, exist_ok=True)
        key = generate_ed25519()
        body = CertificateBody(
            public_key=key.public,
            nonce=os.urandom(32),
            serial=int.from_bytes(os.urandom(8), "big"),
            type=USER,
            key_id=user,
            principals=tuple(logins or (login,)),
            # a second later than now: no certificate of a user begins before the first whole one of the user's
            valid_after=seconds(now() - timedelta(minutes=1)) + 1 if after is None else after,
            valid_before=seconds(now() + timedelta(hours=1)) if before is None else before,
            critical_options=dict(critical or {}),
            extensions={
                PERMIT_PTY: flag(),
                ROLES: value(json.dumps({"version": "v1", "roles": list(roles)})),
                ROUTE: value(route or self.cluster.name),
                TRAITS: value(json.dumps({"logins": list(logins or (login,))})),
                **(extensions or {}),
            },
        )
        signed = encode_signed(body, self.authority.public)
        cert = parse_certificate(signed + string(sshsig.sign(self.authority, signed)))
        path = folder / user
        path.write_bytes(key.openssh_pem().reveal())
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        Path(f"{path}-cert.pub").write_text(cert.line() + "\n")
        line = self.cluster.tctl("auth", "export", "--type=host").ok().stdout
        names = f"*.{self.cluster.name}"
        known = line + line.replace(names, f"{PUBLIC},[{PUBLIC}]:*,[{LOOPBACK}]:*")
        (folder / "known_hosts").write_text(known)
        return Identity(self.cluster, path, login)
