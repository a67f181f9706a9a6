"""Hardware keys at this machine, as tsh asks them: a USB key through python-fido2, which is imported only then.

A key signs for a domain and says in what it signs which site asked. A browser sees to it that a site asks for its own
domain only; here we do: `site` refuses a proxy that asks for the domain of another, which could pass the answer on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from teleport.client.addresses import join
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, TeleportError

NO_KEY = "plug in a security key (USB) that is registered for you, or: tsh login --browser"


@dataclass(frozen=True, slots=True)
class KeyQuestion:
    """A challenge to keys that are registered. Bytes are unpadded base64url, here and below."""

    challenge: str
    rp_id: str
    credentials: tuple[str, ...]  # none: any passkey of that site
    timeout: int = 60_000  # milliseconds
    user_verification: str = "discouraged"  # required: the key checks a PIN or a finger itself
    user: str = ""  # whose passkey, when the key holds those of several


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """What the key signed."""

    credential_id: str
    client_data: str
    authenticator_data: str
    signature: str
    user_handle: str = ""


@dataclass(frozen=True, slots=True)
class NewKeyQuestion:
    """What a key is asked to make a new credential with."""

    challenge: str
    rp_id: str
    rp_name: str
    user_id: str
    user_name: str
    algorithms: tuple[int, ...]
    exclude: tuple[str, ...]
    attestation: str = "none"
    timeout: int = 60_000  # milliseconds
    resident_key: str = "discouraged"  # required: a passkey, which the key itself keeps
    user_verification: str = "discouraged"


@dataclass(frozen=True, slots=True)
class NewKeyAnswer:
    """The new credential."""

    client_data: str
    attestation_object: str


Tell = Callable[[str], None]


class Keys(Protocol):
    """The hardware keys of this machine. Both calls wait for a touch; `tell` shows what to do."""

    def sign(self, asked: KeyQuestion, origin: str, tell: Tell) -> KeyAnswer:
        """Raises `NotFound` when no key here is registered, `AccessDenied` when nobody touched it, `BadRequest` when it
        holds passkeys of several users and none of them was meant."""
        ...

    def create(self, asked: NewKeyQuestion, origin: str, tell: Tell) -> NewKeyAnswer:
        """Raises `AlreadyExists` when the key is registered already, `AccessDenied` when nobody touched it."""
        ...


def usb_keys() -> Keys | None:
    """The keys in the USB ports; None when there is none, or nothing here that could speak to one."""
    try:
        from fido2.hid import CtapHidDevice
    except ImportError:
        return None
    try:
        found = list(CtapHidDevice.list_devices())
    except Exception:  # no permission, no such system: a dozen classes, which all mean that no key can be asked
        return None
    return UsbKeys(found) if found else None


FINDERS: list[Callable[[], Keys | None]] = [usb_keys]  # the first that finds keys is asked


def find_keys() -> Keys | None:
    """The keys of this machine, if there are any."""
    for finder in FINDERS:
        if (found := finder()) is not None:
            return found
    return None


def need_keys() -> Keys:
    """As `find_keys`; raises `NotFound` with what to do."""
    found = find_keys()
    if found is not None:
        return found
    try:
        import fido2  # noqa: F401  (whether it is there)
    except ImportError:
        raise NotFound(
            "tsh has no library that speaks to security keys", hint="pip install fido2; or tsh login --browser"
        ) from None
    raise NotFound("there is no security key at this machine", hint=NO_KEY)


def site(host: str, port: int, rp_id: str) -> str:
    """The origin for which a key signs at this proxy. Raises `BadRequest` when the proxy asks for another domain."""
    name = host.lower().rstrip(".")
    if name != rp_id and not (name.endswith(f".{rp_id}") and "." in rp_id):
        raise BadRequest(
            f"the proxy asks for a security key of {rp_id[:128]!r}, but it was reached as {name!r}; a key answers "
            "only to the name for which it was registered",
            hint=f"name the proxy by its own name: --proxy={rp_id[:128]}",
        )
    return f"https://{name}" if port == 443 else f"https://{join(name, port)}"


class UsbKeys:
    """Keys that speak CTAP over USB."""

    def __init__(self, devices: Sequence[Any]) -> None:
        self._devices = devices

    def sign(self, asked: KeyQuestion, origin: str, tell: Tell) -> KeyAnswer:
        from fido2.client import ClientError

        options = {
            "challenge": asked.challenge,
            "rpId": asked.rp_id,
            "allowCredentials": _listed(asked.credentials),
            "timeout": asked.timeout,
            "userVerification": asked.user_verification,
        }
        for device in self._devices:
            try:
                selection = self._client(device, origin, tell).get_assertion(_options("Request", options))
                names = [(one.user or {}).get("name") or "" for one in selection.get_assertions()]
                found = selection.get_response(_whose(names, asked.user))
            except ClientError as error:
                if error.code == ClientError.ERR.DEVICE_INELIGIBLE:
                    continue
                raise _problem(error) from None
            answer = dict(found)
            inner = answer["response"]
            return KeyAnswer(
                answer["id"],
                inner["clientDataJSON"],
                inner["authenticatorData"],
                inner["signature"],
                inner.get("userHandle") or "",
            )
        raise _unknown(asked)

    def create(self, asked: NewKeyQuestion, origin: str, tell: Tell) -> NewKeyAnswer:
        from fido2.client import ClientError

        options = {
            "challenge": asked.challenge,
            "rp": {"id": asked.rp_id, "name": asked.rp_name},
            "user": {"id": asked.user_id, "name": asked.user_name, "displayName": asked.user_name},
            "pubKeyCredParams": [{"type": "public-key", "alg": algorithm} for algorithm in asked.algorithms],
            "excludeCredentials": _listed(asked.exclude),
            "timeout": asked.timeout,
            "authenticatorSelection": {
                "residentKey": asked.resident_key,
                "userVerification": asked.user_verification,
            },
            "attestation": asked.attestation,
        }
        try:
            client = self._client(self._devices[0], origin, tell)
            inner = dict(client.make_credential(_options("Creation", options)))["response"]
        except ClientError as error:
            if error.code == ClientError.ERR.DEVICE_INELIGIBLE:
                raise AlreadyExists("this security key is registered already", hint="tsh mfa ls") from None
            raise _problem(error) from None
        return NewKeyAnswer(inner["clientDataJSON"], inner["attestationObject"])

    def _client(self, device: Any, origin: str, tell: Tell) -> Any:
        from fido2.client import DefaultClientDataCollector, Fido2Client, UserInteraction

        class Person(UserInteraction):
            """Shown what to do; a PIN is asked for at the terminal, by keys that want one."""

            def prompt_up(self) -> None:
                tell("Touch your security key.")

            def request_pin(self, permissions: Any, rp_id: str | None) -> str | None:
                import getpass

                return getpass.getpass("PIN of the security key: ") or None

        return Fido2Client(device, DefaultClientDataCollector(origin), Person())


def _whose(names: Sequence[str], user: str) -> int:
    """Which of the passkeys is meant that answered. Raises `BadRequest`."""
    if len(names) < 2:
        return 0
    if user in names:
        return names.index(user)
    held = ", ".join(sorted(repr(name[:64]) for name in names))
    raise BadRequest(f"the security key holds passkeys of several users: {held}", hint="--user=NAME says whose")


def _unknown(asked: KeyQuestion) -> NotFound:
    if asked.credentials:
        return NotFound("no security key at this machine is registered for you", hint="tsh mfa ls; " + NO_KEY)
    return NotFound(
        "no security key at this machine holds a passkey of this cluster",
        hint="add one on the account page of the proxy, or answer with one elsewhere: tsh login --browser",
    )


def _listed(credentials: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": "public-key", "id": made} for made in credentials]


def _options(kind: str, options: dict[str, Any]) -> Any:
    from fido2 import webauthn

    return getattr(webauthn, f"PublicKeyCredential{kind}Options").from_dict(options)


def _problem(error: Any) -> TeleportError:
    from fido2.client import ClientError

    if error.code == ClientError.ERR.TIMEOUT:
        return AccessDenied("nobody touched the security key in time", hint="try again, and touch it when it blinks")
    if error.code == ClientError.ERR.CONFIGURATION_UNSUPPORTED:
        return BadRequest(
            "the security key cannot check who holds it: it has no PIN and knows no finger",
            hint="set a PIN on it, or tsh login without --auth=passwordless",
        )
    return AccessDenied(f"the security key refused: {error!r}", hint="try again, or another key")
