"""The identity file: everything a program needs to act as a user, in one file (`certificates.md` 9, format `file`).

In order: private key (PEM), SSH certificate (a line), TLS certificate (PEM), then for each trusted host authority its
known_hosts lines and its TLS certificates (PEM). Who writes it to disk gives it mode 0600.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from teleport.errors import BadRequest
from teleport.pki.authority import parse_known_hosts_line
from teleport.pki.keys import PrivateKey
from teleport.pki.secret import Secret
from teleport.pki.sshformat import CERTIFICATE_NAMES, parse_certificate_line
from teleport.pki.x509verify import certificate_key, load_certificate

_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """The parts of an identity file, each as it stands in the file."""

    private_key: Secret  # PEM
    ssh_certificate: str  # OpenSSH line; empty when the file has none
    tls_certificate: bytes  # PEM; empty when the file has none
    known_hosts: tuple[str, ...]
    tls_authorities: tuple[bytes, ...]  # PEM


def write_identity_file(identity: IdentityFile) -> Secret:
    """The file's content."""

    def lines(data: bytes) -> list[str]:
        return data.decode("ascii").strip().splitlines()

    text = lines(identity.private_key.reveal())
    text += [identity.ssh_certificate.strip()] if identity.ssh_certificate else []
    text += lines(identity.tls_certificate) if identity.tls_certificate else []
    text += [line.strip() for line in identity.known_hosts]
    for authority in identity.tls_authorities:
        text += lines(authority)
    return Secret(("\n".join(text) + "\n").encode("ascii"))


def _damaged(why: str) -> BadRequest:
    return BadRequest(f"This is not an identity file: {why}.", hint="make one with: tsh login -o FILE")


def _blocks(text: str) -> list[tuple[str, str]]:
    """(label, content) of each part: PEM blocks by their label, other lines with an empty one."""
    found: list[tuple[str, str]] = []
    block: list[str] = []
    label = ""
    for line in text.splitlines():
        line = line.strip()
        begin = _BEGIN.fullmatch(line)
        if block:
            block.append(line)
            if line == f"-----END {label}-----":
                found.append((label, "\n".join(block) + "\n"))
                block = []
        elif begin:
            label, block = begin.group(1), [line]
        elif line:
            found.append(("", line))
    if block:
        raise _damaged(f"its {label.lower()} has no end")
    return found


def read_identity_file(data: bytes) -> IdentityFile:
    """Parses an identity file and checks that both certificates are for its key.

    Nothing is verified against an authority here. Raises `BadRequest`, or `CertificateRefused` for a weak or
    malformed part.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _damaged("it is too large")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise _damaged("it holds other characters than ASCII") from error
    key: Secret | None = None
    ssh, certificates, hosts = "", list[bytes](), list[str]()
    for label, content in _blocks(text):
        if label.endswith("PRIVATE KEY"):
            if key is not None:
                raise _damaged("it has two private keys")
            key = Secret(content.encode("ascii"))
        elif label == "CERTIFICATE":
            certificates.append(content.encode("ascii"))
        elif label:
            raise _damaged(f"it has a part {label}")
        elif content.startswith("@cert-authority"):
            parse_known_hosts_line(content)
            hosts.append(content)
        elif content.split(None, 1)[0] in CERTIFICATE_NAMES and not ssh:
            ssh = content
        else:
            raise _damaged("it has a line that is no part of one")
    if key is None:
        raise _damaged("it has no private key")
    public = PrivateKey.load(key).public
    if ssh and parse_certificate_line(ssh).body.public_key != public:
        raise _damaged("its SSH certificate is for another key")
    parsed = [load_certificate(certificate) for certificate in certificates]
    own = bool(parsed) and certificate_key(parsed[0]) == public
    if certificates and not own and ssh == "":
        raise _damaged("its TLS certificate is for another key")
    return IdentityFile(
        private_key=key,
        ssh_certificate=ssh,
        tls_certificate=certificates[0] if own else b"",
        known_hosts=tuple(hosts),
        tls_authorities=tuple(certificates[1:] if own else certificates),
    )
