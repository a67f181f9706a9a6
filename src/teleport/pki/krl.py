"""OpenSSH key revocation lists: what a plain `sshd` asks whether a certificate still counts (its `RevokedKeys`).

Format: PROTOCOL.krl of OpenSSH, version 1. Of its sections only those about certificates are written, one for each
authority's key, with serial numbers and key ids. It is not signed: whoever can write the file decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from teleport.pki.keys import PublicKey
from teleport.pki.sshwire import string, uint32, uint64

_MAGIC: Final = b"SSHKRL\n\x00"
_FORMAT: Final = 1
_CERTIFICATES: Final = b"\x01"
_SERIALS: Final = b"\x20"
_KEY_IDS: Final = b"\x23"
MAX_SERIAL: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Revoked:
    """What one authority's key has signed that does not count any more: by serial number, and by key id."""

    authority: PublicKey
    serials: Sequence[int] = ()
    key_ids: Sequence[str] = ()


def build_krl(revoked: Iterable[Revoked], *, version: int, made: datetime, comment: str = "") -> bytes:
    """The file. `version` only grows. Serial numbers that SSH certificates cannot have are left out."""
    head = _MAGIC + uint32(_FORMAT) + uint64(version) + uint64(int(made.timestamp())) + uint64(0)
    return head + string(b"") + string(comment.encode()) + b"".join(map(_section, revoked))


def _section(revoked: Revoked) -> bytes:
    serials = sorted({serial for serial in revoked.serials if 0 < serial <= MAX_SERIAL})
    key_ids = sorted(set(revoked.key_ids))
    if not serials and not key_ids:
        return b""
    body = string(revoked.authority.blob) + string(b"")
    if serials:
        body += _SERIALS + string(b"".join(map(uint64, serials)))
    if key_ids:
        body += _KEY_IDS + string(b"".join(string(key_id.encode()) for key_id in key_ids))
    return _CERTIFICATES + string(body)
