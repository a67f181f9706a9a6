"""PuTTY's private key files, version 3, with the certificate inside (PuTTY user manual, appendix C; 0.78 and newer).

In a file with a certificate, the key's algorithm and its public blob are those of the certificate; the private blob is
that of the plain key. Nothing is encrypted, as in the other files that are signed for users: who writes it to disk
gives it mode 0600. The MAC of such a file has an empty key and protects against damage only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from teleport.errors import BadRequest
from teleport.pki.keys import PrivateKey
from teleport.pki.secret import Secret
from teleport.pki.sshformat import SSHCertificate
from teleport.pki.sshwire import mpint, string

_LINE: Final = 64  # characters of base64
_ENCRYPTION: Final = b"none"


def write_ppk(key: PrivateKey, certificate: SSHCertificate, comment: str) -> Secret:
    """The file's content. `comment` is one line of printable ASCII.

    Raises `BadRequest` for another key than ECDSA, which users' keys are, and for a certificate of another key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    private = key.crypto()
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise BadRequest(f"PuTTY key files are written for ECDSA keys, not for {key.public.kind}")
    if certificate.body.public_key != key.public:
        raise BadRequest("the certificate is for another key")
    if not (comment.isascii() and comment.isprintable()):
        raise BadRequest("the comment of a PuTTY key file is one line of printable ASCII")
    public_blob = certificate.blob
    private_blob = mpint(private.private_numbers().private_value)
    algorithm = certificate.line().split(" ", 1)[0]
    authenticated = b"".join(
        string(part) for part in (algorithm.encode(), _ENCRYPTION, comment.encode(), public_blob, private_blob)
    )
    mac = hmac.new(b"", authenticated, hashlib.sha256).hexdigest()
    lines = [
        f"PuTTY-User-Key-File-3: {algorithm}",
        f"Encryption: {_ENCRYPTION.decode()}",
        f"Comment: {comment}",
        *_block("Public-Lines", public_blob),
        *_block("Private-Lines", private_blob),
        f"Private-MAC: {mac}",
    ]
    return Secret(("\n".join(lines) + "\n").encode("ascii"))


def comment_of(user: str, cluster: str) -> str:
    """The comment that names whose key it is."""
    return ascii(f"{user} at {cluster}")[1:-1]


def _block(name: str, data: bytes) -> list[str]:
    text = base64.b64encode(data).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return [f"{name}: {len(lines)}", *lines]
