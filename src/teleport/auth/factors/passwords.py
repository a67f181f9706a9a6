"""Passwords and time-based codes: what a person proves.

Passwords are kept as argon2id hashes (RFC 9106), 12 characters or more. Codes are TOTP (RFC 6238): SHA-1, six digits,
30 s, one period of skew each way; a code is good once. `verify_nothing` spends what a real check spends, so that an
unknown user costs a caller the same time as a wrong password.
"""

from __future__ import annotations

import base64
import hmac
import struct
import unicodedata
import urllib.parse
from datetime import datetime
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from teleport.errors import BadRequest

MIN_LENGTH: Final = 12  # characters
MAX_LENGTH: Final = 128
TOTP_PERIOD: Final = 30  # seconds
TOTP_DIGITS: Final = 6
TOTP_SKEW: Final = 1  # periods each way
TOTP_SECRET_BYTES: Final = 20  # RFC 4226 4, R6

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # OWASP's argon2id minimum
# Of 32 random bytes that nobody kept. A constant, because making one costs every start of the daemon 70 ms; its
# parameters are those above, or checking it would take another time than checking a real one.
_NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$PKmOhu93cmeYuAYoowFCgQ$rvCupe8qEqk2lLQAOqeky378QoD3hRoraQREl9Zjt64"


def _normal(password: str) -> bytes:
    """One form for what different keyboards send (RFC 8265 asks for NFC)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def check_new_password(password: str, user: str) -> None:
    """Refuses what may not become a password; `BadRequest` says why."""
    if len(password) < MIN_LENGTH:
        raise BadRequest(f"the password has {len(password)} characters; it needs {MIN_LENGTH} or more")
    if len(password) > MAX_LENGTH:
        raise BadRequest(f"the password has {len(password)} characters; at most {MAX_LENGTH} are taken")
    if len(set(password)) < 4 or (user and password.lower() == user.lower()):
        raise BadRequest("the password is too easily guessed")


def hash_password(password: str) -> str:
    """An argon2id hash in PHC string form, with a salt of its own."""
    return _hasher.hash(_normal(password))


def verify_password(stored: str, password: str) -> bool:
    """Whether `password` is the one behind `stored`. Takes the same time whether it is or not."""
    try:
        return _hasher.verify(stored, _normal(password)[: 4 * MAX_LENGTH])
    except (VerificationError, InvalidHashError):
        return False


def verify_nothing(password: str) -> None:
    """The work of `verify_password` for a user who has no password."""
    verify_password(_NOBODY, password)


def totp_secret(randomness: bytes) -> str:
    """A secret in base32, as authenticator programs take it."""
    return base64.b32encode(randomness[:TOTP_SECRET_BYTES]).decode().rstrip("=")


def totp_code(secret: str, period: int) -> str:
    """The code of one period (RFC 6238 4, RFC 4226 5.3)."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8), casefold=True)
    digest = hmac.digest(key, struct.pack(">Q", period), "sha1")
    offset = digest[-1] & 0xF
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**TOTP_DIGITS:0{TOTP_DIGITS}d}"


def totp_period(secret: str, code: str, now: datetime, *, after: int) -> int | None:
    """The period that `code` belongs to, later than `after` (the last one used); None when it is not good."""
    current = int(now.timestamp()) // TOTP_PERIOD
    found: int | None = None
    for period in range(current - TOTP_SKEW, current + TOTP_SKEW + 1):
        # every period is compared, so that the time taken says nothing
        if hmac.compare_digest(totp_code(secret, period).encode(), code.encode("utf-8", "replace")) and period > after:
            found = period
    return found


def totp_url(secret: str, user: str, cluster: str) -> str:
    """What the QR code holds (the otpauth form that authenticator programs read)."""
    label = urllib.parse.quote(f"{cluster}:{user}", safe="")
    issuer = urllib.parse.quote(cluster, safe="")
    return (
        f"otpauth://totp/{label}?secret={secret}&issuer={issuer}"
        f"&algorithm=SHA1&digits={TOTP_DIGITS}&period={TOTP_PERIOD}"
    )
