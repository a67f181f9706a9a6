"""Private keys of authorities in a PKCS#11 token: they are made there, sign there, and cannot leave it.

Keys are P-256 for SSH, TLS and tokens alike, which every token can do: CKM_EC_KEY_PAIR_GEN, and CKM_ECDSA over a digest
that is made here (PKCS#11 v2.40, sections 2.3.4 and 2.3.6). The storage holds a reference, a URI of RFC 7512 with
the token's label and the object's id. Only this module imports `pkcs11`, which is an extra: teleport-access[hsm].
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote_to_bytes

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from teleport.auth.authorities.keys import TOKEN_URI, KeysAway, StoredKeys, WrongPin, held_elsewhere, private_halves
from teleport.auth.authorities.patient_thread import PatientThread, Unanswered
from teleport.errors import BadRequest, TeleportError
from teleport.pki.keys import PrivateKey
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import Authority, KeySet
from teleport.resources.secret import SecretText

log = logging.getLogger(__name__)
T = TypeVar("T")

WHERE: Final = "auth_service.ca_key_params.pkcs11"
HINT: Final = (
    f"check that the token, or the process that has it, is there (pkcs11-tool --module FILE --list-slots), and {WHERE}"
)
PIN_HINT: Final = f"{WHERE}.pin or pin_path, then restart the daemon"
PATIENCE: Final = 10.0  # seconds for a module to answer
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Which token: by its label, or by the number of its slot."""

    module: Path
    label: str = ""
    slot: int | None = None
    pin: str = field(default="", repr=False)


class HeldKey(ec.EllipticCurvePrivateKey):
    """A P-256 key whose private half is elsewhere: it signs by what it is handed, and can do nothing else."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign_digest: Callable[[bytes], bytes]) -> None:
        """`sign_digest` gives r and s, 32 bytes each, of a SHA-256 digest."""
        self._public = public
        self._sign_digest = sign_digest

    # the base takes any buffer; here it is bytes that are signed
    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # type: ignore[override]
        """An ECDSA signature with SHA-256 over `data`, DER."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise BadRequest("Keys of authorities sign with SHA-256.")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(data)
        raw = self._sign_digest(digest.finalize())
        half = len(raw) // 2
        return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: object, peer_public_key: object) -> bytes:
        raise BadRequest("A key of an authority only signs.")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise BadRequest("This key is in a PKCS#11 token, which does not give it away.")

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> bytes:
        raise BadRequest("This key is in a PKCS#11 token, which does not give it away.")

    def __copy__(self) -> HeldKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldKey:
        return self


class TokenKeys:
    """`AuthorityKeys` of a token. One session, used by one thread alone, and opened anew when it broke.

    A module may lead to another process (p11-kit's client): when that one ended and is there again, the module itself
    has to begin anew. One that does not answer holds that thread, and nobody else for long.
    """

    def __init__(self, settings: TokenSettings) -> None:
        """Opens the token. Raises `TeleportError` saying what is wrong with it."""
        self._settings = settings
        self._stored = StoredKeys()
        self._pkcs11 = _library()
        self._thread = PatientThread("keys of authorities", PATIENCE)
        self._session: Any = None
        self._found: dict[bytes, Any] = {}  # private keys by their ids, as this session knows them
        self._pin_refused = False
        try:
            self._thread.call(self._open)
        except BaseException:
            self._thread.stop()
            raise

    def close(self) -> None:
        """Lets go of the session, where the module answers."""
        with suppress(Unanswered):
            self._thread.call(self._close)
        self._thread.stop()

    def _close(self) -> None:
        session, self._session = self._session, None
        self._found.clear()
        if session is not None:
            session.close()

    # AuthorityKeys

    async def check(self) -> None:
        """Raises `KeysAway` when the token is away, or does not answer."""
        what = "reach the token"
        try:
            await self._thread.answered(lambda: self._work(lambda session: session.token.slot.get_token(), what))
        except Unanswered as error:
            raise _silent(what, error) from None

    def make(self, kind: AuthorityKind, cluster: str, now: datetime) -> Authority:
        """An authority whose keys are made in the token."""
        one = self._generate(f"teleport {cluster} {kind}")
        alone = kind in (AuthorityKind.JWT, AuthorityKind.OPENSSH)
        two = None if alone else self._generate(f"teleport {cluster} {kind} tls")
        return held_elsewhere(kind, cluster, now, one, two)

    def load(self, secret: SecretText) -> PrivateKey:
        """A key of the token, or one that is in the storage from before."""
        reference = secret.reveal()
        if not reference.startswith(TOKEN_URI):
            return self._stored.load(secret)
        identifier = _identifier(reference)

        def read(session: Any) -> bytes:
            pkcs11 = self._pkcs11
            found = session.get_key(
                object_class=pkcs11.ObjectClass.PUBLIC_KEY, key_type=pkcs11.KeyType.EC, id=identifier
            )
            session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, key_type=pkcs11.KeyType.EC, id=identifier)
            from pkcs11.util.ec import encode_ec_public_key

            return bytes(encode_ec_public_key(found))

        return self._held(self._with_session(read, f"find the key {reference}"), identifier)

    def destroy(self, keys: KeySet) -> None:
        """Removes the keys of an ended generation from the token."""
        for secret in private_halves(keys):
            reference = secret.reveal()
            if not reference.startswith(TOKEN_URI):
                continue
            identifier = _identifier(reference)

            def remove(session: Any, identifier: bytes = identifier) -> None:
                self._found.pop(identifier, None)
                for found in list(session.get_objects({self._pkcs11.Attribute.ID: identifier})):
                    found.destroy()

            try:
                self._with_session(remove, f"remove the key {reference}")
            except TeleportError as error:
                log.warning("a key that signs for nobody any more stays in the token: %s", error)

    # the token

    def _generate(self, label: str) -> tuple[PrivateKey, str]:
        identifier = secrets.token_bytes(_ID_BYTES)

        def make(session: Any) -> bytes:
            from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

            attribute = self._pkcs11.Attribute
            domain = session.create_domain_parameters(
                self._pkcs11.KeyType.EC, {attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
            )
            public, _ = domain.generate_keypair(
                store=True,
                label=label,
                id=identifier,
                private_template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False},
            )
            return bytes(encode_ec_public_key(public))

        held = self._held(self._with_session(make, "make a key"), identifier)
        where = f"token={quote(self._settings.label)};" if self._settings.label else ""
        return held, f"{TOKEN_URI}{where}object={quote(label)};id={quote(identifier)};type=private"

    def _held(self, public_der: bytes, identifier: bytes) -> PrivateKey:
        def sign(session: Any, digest: bytes) -> bytes:
            pkcs11 = self._pkcs11
            key = self._found.get(identifier)
            if key is None:
                key = self._found[identifier] = session.get_key(
                    object_class=pkcs11.ObjectClass.PRIVATE_KEY, key_type=pkcs11.KeyType.EC, id=identifier
                )
            return bytes(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

        public = load_der_public_key(public_der)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return PrivateKey(
            HeldKey(public, lambda digest: self._with_session(lambda session: sign(session, digest), "sign"))
        )

    def _with_session(self, work: Callable[[Any], T], what: str) -> T:
        """Work in the session; once more in a new one, as the token may have been away."""
        try:
            return self._thread.call(lambda: self._work(work, what))
        except Unanswered as error:
            raise _silent(what, error) from None

    def _work(self, work: Callable[[Any], T], what: str) -> T:
        for last in (False, True):
            try:
                if self._session is None:
                    self._open()
                return work(self._session)
            except self._pkcs11.exceptions.PKCS11Error as error:
                self._session = None
                self._found.clear()
                if isinstance(error, self._pkcs11.exceptions.NoSuchKey):
                    raise TeleportError(f"the PKCS#11 token cannot {what}: it has no such key", hint=HINT) from None
                if last:
                    raise _problem(f"cannot {what}", error) from None
        raise AssertionError("unreachable")

    def _open(self) -> None:
        """Opens a session; once more after the module began anew, unless it says that the PIN is wrong: a wrong PIN
        that is shown again and again locks a token, so this process shows it once."""
        settings, pkcs11 = self._settings, self._pkcs11
        errors = pkcs11.exceptions
        if self._pin_refused:
            raise KeysAway("the PIN of the PKCS#11 token was refused, and is not shown again", hint=PIN_HINT)
        try:
            library = pkcs11.lib(str(settings.module))
            try:
                self._session = self._opened(library)
            except (StopIteration, errors.NoSuchToken, errors.DeviceError, errors.DeviceRemoved, errors.GeneralError):
                _begin_anew(library, errors.PKCS11Error)
                self._session = self._opened(library)
        except StopIteration:
            raise KeysAway(
                f"the PKCS#11 module {settings.module} has no slot {settings.slot}", hint=f"{WHERE}.slot_number"
            ) from None
        except (errors.PinIncorrect, errors.PinLenRange, errors.PinInvalid):
            self._pin_refused = True
            raise WrongPin("the PIN of the PKCS#11 token is wrong", hint=PIN_HINT) from None
        except (errors.PinLocked, errors.PinExpired) as error:
            self._pin_refused = True
            why = "is locked" if isinstance(error, errors.PinLocked) else "has expired"
            raise WrongPin(f"the PIN of the PKCS#11 token {why}", hint="set a new one with the token's tools") from None
        except (errors.PKCS11Error, OSError, RuntimeError) as error:
            raise _problem(f"cannot open the token {settings.label or settings.slot}", error) from None

    def _opened(self, library: Any) -> Any:
        settings = self._settings
        if settings.label:
            token = library.get_token(token_label=settings.label)
        else:
            token = next(one for one in library.get_slots() if one.slot_id == settings.slot).get_token()
        try:
            return token.open(user_pin=settings.pin or None, rw=True)
        except self._pkcs11.exceptions.UserAlreadyLoggedIn:  # a process logs in once, for all of its sessions
            return token.open(rw=True)


def _begin_anew(library: Any, error: type[Exception]) -> None:
    """C_Finalize and C_Initialize: all sessions of the module in this process end."""
    with suppress(error):  # what has lost its other end cannot say good-bye to it
        library.finalize()
    library.initialize()


def _silent(what: str, error: Unanswered) -> KeysAway:
    return KeysAway(f"the PKCS#11 module cannot {what}: {error}", hint=HINT)


def _problem(what: str, error: Exception) -> KeysAway:
    reason = " ".join(filter(None, (type(error).__name__, str(error))))
    return KeysAway(
        f"the PKCS#11 module {what}: {reason}",
        hint=HINT,
    )


def _library() -> ModuleType:
    try:
        import pkcs11
        import pkcs11.exceptions
        import pkcs11.util.ec
    except ImportError:
        raise TeleportError(
            "the authorities' keys are configured to be in a PKCS#11 token, but python-pkcs11 is not installed",
            hint="pip install 'teleport-access[hsm]'",
        ) from None
    return pkcs11


def _identifier(reference: str) -> bytes:
    """The object's id in a reference of ours. Raises `TeleportError`."""
    for part in reference.removeprefix(TOKEN_URI).split(";"):
        name, _, text = part.partition("=")
        if name == "id" and text:
            return unquote_to_bytes(text)
    raise TeleportError(
        f"the reference {reference[:200]} to a key names no id", hint="restore the authority from a backup"
    )
