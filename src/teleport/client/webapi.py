"""The proxy's web API as tsh uses it (`protocols.md` 2): ping, the cluster's authority, certificates, invitations.

Each call is a connection of its own, proved as the trust says. What the far end answers is foreign text: sizes are
bounded, types are checked, and its sentences are shortened to one line before they become errors of ours.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from teleport import __version__
from teleport.client.addresses import join
from teleport.client.dial import INTERNAL_NAME, TIMEOUT, check_proxy_role, open_unproved, open_web
from teleport.client.hardware_keys import KeyAnswer, KeyQuestion, NewKeyAnswer, NewKeyQuestion
from teleport.client.trust import ClusterTrust, ProxyTrust
from teleport.errors import (
    AccessDenied,
    AlreadyExists,
    BadRequest,
    ConnectionProblem,
    LimitExceeded,
    NotFound,
    TeleportError,
)
from teleport.transport.blocking import HTTPOver, TLSStream

MAX_REPLY = 1024 * 1024  # bytes
_WRONG = "try again; when a password or a device is lost, an administrator makes a link: tctl users reset NAME"
_NO_PASSKEY = "try again, or log in with a password: tsh login --auth=local"
_ODD = "check that the address is a proxy's, of about the version of this tsh"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KINDS: dict[int, type[TeleportError]] = {
    400: BadRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    409: AlreadyExists,
    429: LimitExceeded,
    502: ConnectionProblem,
    503: ConnectionProblem,
}


@dataclass(frozen=True, slots=True)
class Ping:
    """What a proxy says of itself."""

    cluster: str
    second_factor: str
    ssh_public_addr: str
    ssh_listen_addr: str
    server_version: str
    tls_routing: bool = False  # its web port serves everything
    has_motd: bool = False  # there is something to read before logging in
    kube_enabled: bool = False
    kube_public_addr: str = ""  # of Kubernetes clients, where they are served
    kube_listen_addr: str = ""
    passwordless: bool = False  # a passkey alone logs in
    time: datetime | None = None  # what the proxy's clock said, by its Date header
    min_client_version: str = ""  # the oldest tsh that the cluster takes


@dataclass(frozen=True, slots=True)
class Signer:
    """A cluster whose hosts may be trusted, as a login's answer says."""

    cluster: str
    ssh_keys: tuple[str, ...]  # OpenSSH lines
    tls_certs: tuple[str, ...]  # PEM


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a login gives."""

    username: str
    ssh: str  # OpenSSH line
    tls: str  # PEM
    signers: tuple[Signer, ...]


@dataclass(frozen=True, slots=True)
class Invitation:
    """What stands behind the link of an invitation or a reset."""

    user: str
    kind: str
    cluster: str
    second_factor: str
    totp_secret: str
    totp_url: str


class Field:
    """Typed reading of foreign JSON: a missing field gives the default, one of another type an error."""

    def __init__(self, value: Any, where: str, time: datetime | None = None) -> None:
        self.time = time  # when the answer was made, by its maker's clock
        if not isinstance(value, dict):
            raise ConnectionProblem(f"the proxy's answer to {where} is no JSON object", hint=_ODD)
        self._value: dict[str, Any] = value
        self._where = where

    def text(self, name: str) -> str:
        value = self._value.get(name, "")
        if not isinstance(value, str):
            raise ConnectionProblem(f"the proxy's answer to {self._where} has a {name} that is no text", hint=_ODD)
        return value

    def flag(self, name: str) -> bool:
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            raise ConnectionProblem(f"the proxy's answer to {self._where} has a {name} that is no yes or no", hint=_ODD)
        return value

    def encoded(self, name: str) -> str:
        return _from_base64(self.text(name), self._where)

    def number(self, name: str) -> int:
        value = self._value.get(name, 0)
        if not isinstance(value, int):
            raise ConnectionProblem(f"the proxy's answer to {self._where} has a {name} that is no number", hint=_ODD)
        return value

    def part(self, name: str) -> Field:
        return Field(self._value.get(name) or {}, self._where)

    def items(self, name: str) -> list[Any]:
        value = self._value.get(name) or []
        if not isinstance(value, list) or len(value) > 1000:
            raise ConnectionProblem(f"the proxy's answer to {self._where} has a {name} that is no list", hint=_ODD)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.items(name)
        if not all(isinstance(item, str) for item in found):
            raise ConnectionProblem(
                f"the proxy's answer to {self._where} has a {name} that is no list of texts", hint=_ODD
            )
        return tuple(found)


def _from_base64(text: str, where: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        raise ConnectionProblem(f"the proxy's answer to {where} holds no base64", hint=_ODD) from None


class WebAPI:
    """The web API of the proxy at one address, believed in one way."""

    def __init__(self, host: str, port: int, trust: ProxyTrust, now: datetime) -> None:
        self.host, self.port, self.trust = host, port, trust
        self.now = now  # when the command began

    def open(self) -> TLSStream:
        """A session that is proved, for the tunnel to auth."""
        return open_web(self.host, self.port, self.trust)

    def _call(self, method: str, path: str, body: object = None, *, where: str, secret: bool = False) -> Field:
        stream = self.open()
        if secret and isinstance(self.trust, ClusterTrust):
            check_proxy_role(stream, self.trust, self.now)
        return _exchange(stream, join(self.host, self.port), method, path, body, where)

    def ping(self) -> Ping:
        """Raises `ConnectionProblem` when this is no proxy."""
        found = self._call("GET", "/webapi/ping", where="ping")
        ssh = found.part("proxy").part("ssh")
        auth = found.part("auth")
        return Ping(
            cluster=found.text("cluster_name"),
            second_factor=auth.text("second_factor") or "otp",
            ssh_public_addr=ssh.text("ssh_public_addr"),
            ssh_listen_addr=ssh.text("listen_addr"),
            server_version=found.text("server_version"),
            tls_routing=found.part("proxy").flag("tls_routing_enabled"),
            has_motd=auth.flag("has_motd"),
            kube_enabled=found.part("proxy").part("kube").flag("enabled"),
            kube_public_addr=found.part("proxy").part("kube").text("public_addr"),
            kube_listen_addr=found.part("proxy").part("kube").text("listen_addr"),
            passwordless=auth.flag("allow_passwordless"),
            time=found.time,
            min_client_version=found.text("min_client_version"),
        )

    def message_of_the_day(self) -> str:
        """What the cluster asks everybody to read before logging in; foreign text."""
        return self._call("GET", "/webapi/motd", where="the message of the day").text("text")

    def login_challenge(self, user: str) -> tuple[str, KeyQuestion]:
        """What a hardware key is asked at a login, and the id under which it is answered."""
        found = self._call("POST", "/webapi/mfa/login/begin", {"user": user}, where="the login")
        asked = found.part("webauthn_challenge").part("publicKey")
        listed = [Field(item, "the login").text("id") for item in asked.items("allowCredentials")]
        if not asked.text("challenge") or not asked.text("rpId"):
            raise BadRequest("this cluster takes no security keys", hint="tsh login, with a one-time code")
        return found.text("challenge_id"), KeyQuestion(asked.text("challenge"), asked.text("rpId"), tuple(listed))

    def passkey_challenge(self) -> tuple[str, KeyQuestion]:
        """What any passkey is asked, and the id under which it is answered."""
        found = self._call("POST", "/webapi/mfa/login/passkey", {}, where="the login")
        asked = found.part("webauthn_challenge").part("publicKey")
        if not asked.text("challenge") or not asked.text("rpId"):
            raise ConnectionProblem("the proxy asks for a passkey without a challenge", hint="tsh login")
        question = KeyQuestion(asked.text("challenge"), asked.text("rpId"), (), user_verification="required")
        return found.text("challenge_id"), question

    def certificates(
        self,
        user: str,
        password: str,
        code: str,
        public_key: str,
        ttl: float,
        route_to_cluster: str,
        key: tuple[str, KeyAnswer] | None = None,
    ) -> Certificates:
        """Asks for certificates for `public_key`; `ttl` in seconds, 0 for the longest allowed. `key`: a hardware key's
        answer, and the id of its challenge. Without `user` it is a passkey's, which says who it is."""
        body: dict[str, Any] = {
            **({"user": user, "password": password, "otp_token": code} if user else {"passwordless": True}),
            "pub_key": base64.b64encode(public_key.encode()).decode(),
            "ttl": int(ttl * 1e9),
            "compatibility": "standard",
            "RouteToCluster": route_to_cluster,
        }
        if key is not None:
            body["challenge_id"], answer = key
            body["webauthn_challenge_response"] = {
                "id": answer.credential_id,
                "rawId": answer.credential_id,
                "type": "public-key",
                "response": {
                    "clientDataJSON": answer.client_data,
                    "authenticatorData": answer.authenticator_data,
                    "signature": answer.signature,
                    "userHandle": answer.user_handle,
                },
            }
        try:
            found = self._call("POST", "/webapi/ssh/certs", body, where="the login", secret=True)
        except AccessDenied as error:  # for whatever reason: the answer is one and the same (T22), and so is the hint
            raise AccessDenied(error.message, hint=_WRONG if user else _NO_PASSKEY) from None
        return _certificates(found)

    def begin_browser_login(self, public_key: str, ttl: float, route_to_cluster: str) -> tuple[str, str]:
        """Asks for a login that a person answers in a browser: its id, and the code that is to be shown."""
        body = {
            "pub_key": base64.b64encode(public_key.encode()).decode(),
            "ttl": int(ttl * 1e9),
            "RouteToCluster": route_to_cluster,
        }
        found = self._call("POST", "/webapi/login/browser", body, where="the login", secret=True)
        made, code = found.text("id"), found.text("code")
        if not re.fullmatch(r"[A-Za-z0-9_-]{8,256}", made) or not re.fullmatch(r"[A-Z0-9]{4,32}", code):
            raise ConnectionProblem("the proxy began no login that could be shown", hint=_ODD)
        return made, code

    def collect_browser_login(self, made: str) -> Certificates | None:
        """The certificates, once somebody has answered; None before."""
        path = f"/webapi/login/browser/{quote(made, safe='')}/certs"
        found = self._call("POST", path, {}, where="the login", secret=True)
        return _certificates(found) if found.text("cert") else None

    def invitation(self, token: str) -> Invitation:
        """What is behind a link; the token is a secret."""
        path = "/webapi/users/password/token/" + quote(token, safe="")
        found = self._call("GET", path, where="the invitation", secret=True)
        return Invitation(
            user=found.text("user"),
            kind=found.text("kind") or "invite",
            cluster=found.text("cluster"),
            second_factor=found.text("second_factor") or "otp",
            totp_secret=found.text("totp_secret"),
            totp_url=found.text("totp_url"),
        )

    def register_challenge(self, token: str) -> tuple[str, NewKeyQuestion]:
        """What a new hardware key is asked with by whoever holds a link, and the id under which it is answered."""
        path = f"/webapi/mfa/token/{quote(token, safe='')}/registerchallenge"
        found = self._call("POST", path, {}, where="the invitation", secret=True)
        asked = found.part("webauthn").part("publicKey")
        parameters = [Field(item, "the invitation").number("alg") for item in asked.items("pubKeyCredParams")]
        excluded = [Field(item, "the invitation").text("id") for item in asked.items("excludeCredentials")]
        question = NewKeyQuestion(
            challenge=asked.text("challenge"),
            rp_id=asked.part("rp").text("id"),
            rp_name=asked.part("rp").text("name"),
            user_id=asked.part("user").text("id"),
            user_name=asked.part("user").text("name"),
            algorithms=tuple(parameters),
            exclude=tuple(excluded),
            attestation=asked.text("attestation") or "none",
        )
        return found.text("challenge_id"), question

    def accept(self, token: str, password: str, code: str, key: tuple[str, NewKeyAnswer] | None = None) -> None:
        """Sets the password and the second factor: by its `code`, or a new hardware key and the id of its challenge."""
        encoded = base64.b64encode(password.encode()).decode()
        body: dict[str, Any] = {"token": token, "password": encoded, "second_factor_token": code}
        if key is not None:
            body["challenge_id"], made = key
            body["webauthn_creation_response"] = {
                "id": "",
                "type": "public-key",
                "response": {"clientDataJSON": made.client_data, "attestationObject": made.attestation_object},
            }
        self._call("PUT", "/webapi/users/password/token", body, where="the invitation", secret=True)


def _certificates(found: Field) -> Certificates:
    signers = []
    for item in found.items("host_signers"):
        signer = Field(item, "the login")
        signers.append(
            Signer(
                signer.text("domain_name"),
                tuple(_from_base64(key, "the login") for key in signer.texts("checking_keys")),
                tuple(_from_base64(cert, "the login") for cert in signer.texts("tls_certs")),
            )
        )
    return Certificates(found.text("username"), found.encoded("cert"), found.encoded("tls_cert"), tuple(signers))


def claimed_authority(host: str, port: int) -> tuple[str, tuple[str, ...]]:
    """The cluster and the authority's certificates (PEM) that the address claims. Nothing is proved by the answer."""
    stream = open_unproved(host, port, INTERNAL_NAME)
    found = _exchange(stream, join(host, port), "GET", "/webapi/ca", None, "which authority it has")
    return found.text("cluster"), found.texts("tls_certs")


def authorities_now(stream: TLSStream, host: str) -> tuple[str, bool]:
    """What a proxy says of the authorities on a connection that is proved: `pki.trust_digest` of what a client is to
    hold (empty when it says nothing usable), and whether they are being rotated."""
    found = _exchange(stream, host, "GET", "/webapi/ping", None, "ping")
    digest = found.text("authorities")
    return (digest if _DIGEST.fullmatch(digest) else ""), found.flag("rotating")


def _exchange(stream: TLSStream, host: str, method: str, path: str, body: object, where: str) -> Field:
    connection = HTTPOver(stream, host)
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Accept": "application/json",
            "User-Agent": f"tsh/{__version__}",
            **({"Content-Type": "application/json"} if data else {}),
        }
        connection.request(method, path, body=data, headers=headers)
        response = connection.getresponse()
        answer = response.read(MAX_REPLY + 1)
    except TimeoutError:
        raise ConnectionProblem(
            f"{host} did not answer {where} within {TIMEOUT:.0f} s",
            hint="try again; if it stays so, the log of the far end says why",
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionProblem(
            f"{host} did not answer {where}: {_one_line(str(error))}",
            hint="try again; if it stays so, the log of the far end says why",
        ) from None
    finally:
        connection.close()
    if len(answer) > MAX_REPLY:
        raise ConnectionProblem(f"the proxy's answer to {where} is larger than {MAX_REPLY} bytes", hint=_ODD)
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    if response.status not in (200, 202):
        raise _refusal(response.status, value, host, where)
    return Field(value, where, date_of(response.headers.get("Date")))


def date_of(header: str | None) -> datetime | None:
    """The time in a Date header (RFC 9110 section 6.6.1); None when there is none that can be read."""
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(header or "")
    except (TypeError, ValueError):
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else None


def _refusal(status: int, value: object, host: str, where: str) -> TeleportError:
    said = value.get("error") if isinstance(value, dict) else None
    message = said.get("message") if isinstance(said, dict) else None
    kind = _KINDS.get(status, TeleportError if status >= 500 else ConnectionProblem)
    if not isinstance(message, str) or not message:
        return ConnectionProblem(
            f"{host} answered {where} with HTTP status {status}: is it a proxy?",
            hint="check the address: --proxy=host[:https_port[,ssh_port]]",
        )
    return kind(_one_line(message))


def _one_line(text: str) -> str:
    """Foreign text for a message: the commands escape what is not printable, this keeps it to one short line."""
    return " ".join(text.split())[:500]
