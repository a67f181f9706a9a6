"""The secret of a browser's session, and what is derived from it (HKDF, RFC 5869). Pure: randomness is handed in.

The browser's cookie holds 32 bytes that nobody keeps. From them come, each by a name of its own:

- the proof: auth stores its hash, so that what lies in the storage does not take a session up;
- the key that seals the session's private key (AES-256-GCM): auth stores what is sealed, and cannot open it;
- the key of bearer tokens, which a page sends beside the cookie. A token holds until its time, for its session alone.

So the storage alone yields no key, and a proxy that no browser has shown the cookie cannot take the session up.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teleport.errors import AccessDenied
from teleport.pki.keys import PrivateKey
from teleport.pki.secret import Secret

SIZE: Final = 32  # bytes
NONCE: Final = 12  # bytes, of AES-GCM
MAX_COOKIE: Final = 256  # characters


class WebSecret:
    """What a cookie holds. Printing shows nothing of it."""

    __slots__ = ("_secret",)

    def __init__(self, value: bytes) -> None:
        if len(value) != SIZE:
            raise ValueError(f"a session's secret has {SIZE} bytes, not {len(value)}")
        self._secret = Secret(value)

    def __repr__(self) -> str:
        return "WebSecret(hidden)"

    def same(self, other: WebSecret) -> bool:
        return self._secret == other._secret

    def _derived(self, purpose: str) -> bytes:
        made = HKDF(
            algorithm=hashes.SHA256(), length=32, salt=None, info=b"teleport web session v1 " + purpose.encode()
        )
        return made.derive(self._secret.reveal())

    @property
    def proof(self) -> str:
        """What auth is shown, base64url."""
        return _text(self._derived("proof"))

    def seal(self, key: PrivateKey, random: Callable[[int], bytes]) -> str:
        """The private key as auth keeps it, base64url; bound to its public half."""
        nonce = random(NONCE)
        sealed = AESGCM(self._derived("key")).encrypt(nonce, key.pkcs8_pem().reveal(), key.public.blob)
        return _text(nonce + sealed)

    def open(self, sealed: str, public: bytes) -> PrivateKey:
        """The private key whose public half is `public` (SSH blob). Raises `AccessDenied` when this is not it."""
        try:
            data = _bytes(sealed)
            plain = AESGCM(self._derived("key")).decrypt(data[:NONCE], data[NONCE:], public)
        except (InvalidTag, ValueError):
            raise AccessDenied("the key of this session cannot be opened", hint="log in again") from None
        key = PrivateKey.load(plain)
        if key.public.blob != public:
            raise AccessDenied("the key of this session is another one", hint="log in again")
        return key

    def bearer(self, session: str, until: datetime) -> str:
        """A token for the session with this id, good until that second."""
        end = int(until.timestamp())
        return f"{end}.{_text(self._mac(session, end))}"

    def bearer_holds(self, session: str, token: str, now: datetime) -> bool:
        end, _, mac = token[:MAX_COOKIE].partition(".")
        if not (end.isascii() and end.isdecimal() and len(end) <= 12) or int(end) <= now.timestamp():
            return False
        return hmac.compare_digest(_text(self._mac(session, int(end))).encode(), mac.encode("utf-8", "surrogatepass"))

    def _mac(self, session: str, end: int) -> bytes:
        return hmac.digest(self._derived("bearer"), f"{session} {end}".encode("utf-8", "surrogatepass"), "sha256")

    def tag(self, purpose: str, text: str) -> str:
        """What proves that `text` was made in this session, for this purpose."""
        return _text(hmac.digest(self._derived(purpose), text.encode("utf-8", "surrogatepass"), "sha256"))

    def tag_holds(self, purpose: str, text: str, tag: str) -> bool:
        return hmac.compare_digest(self.tag(purpose, text).encode(), tag.encode("utf-8", "surrogatepass"))

    def cookie(self, session: str) -> str:
        """The cookie's value."""
        return f"{session}.{_text(self._secret.reveal())}"


def parse_cookie(value: str) -> tuple[str, WebSecret] | None:
    """The session's id and its secret; None for what is no such cookie."""
    session, dot, secret = value.rpartition(".")
    known = session.isascii() and session.replace("-", "").replace("_", "").isalnum()
    if not dot or not known or len(value) > MAX_COOKIE:
        return None
    try:
        found = WebSecret(_bytes(secret))
    except ValueError:
        return None
    return (session, found) if found.cookie(session) == value else None  # written in one way only


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """Raises `ValueError`."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
