"""The certificate of a login in the SSH agent of this machine: added at login, brought up to date, removed at logout.

The agent forgets it when the login ends. Only the certificate is added, not its bare key: no server of ours takes that,
and each key that ssh offers in vain costs an attempt.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from teleport.client.home import Home
from teleport.client.keystore import KeyFiles, facts
from teleport.client.profile import Profile
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.pki.secret import Secret
from teleport.pki.sshformat import parse_certificate_line
from teleport.wire import ssh_agent as wire

VARIABLE = "SSH_AUTH_SOCK"
SECONDS = 3.0  # for each answer


class Agent:
    """A connection to the agent that the environment names; use it in `with`. Raises `ConnectionProblem`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get(VARIABLE, "")
        if not path or not hasattr(socket, "AF_UNIX"):
            raise ConnectionProblem(
                f"no SSH agent runs here ({VARIABLE} is not set)", hint='eval "$(ssh-agent)", or --add-keys-to-agent=no'
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SECONDS)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ConnectionProblem(
                f"the SSH agent at {path} cannot be reached: {error.strerror or error}", hint=f"check {VARIABLE}"
            ) from None

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ask(self, request: bytes) -> bytes:
        try:
            self._socket.sendall(request)
            return self._exactly(wire.answer_size(self._exactly(4)))
        except OSError as error:
            raise ConnectionProblem(f"the SSH agent does not answer: {error}", hint=f"check {VARIABLE}") from None

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise ConnectionProblem("the SSH agent has gone", hint=f"check {VARIABLE}")
            found += piece
        return found

    def identities(self) -> list[wire.Identity]:
        return wire.identities(self._ask(wire.list_request()))

    def add(self, key: wire.P256Certificate, seconds: int) -> None:
        if not wire.succeeded(self._ask(wire.add_request(key, seconds).reveal())):
            raise ConnectionProblem(
                "the SSH agent does not take the certificate", hint="it may be locked, or know no certificates"
            )

    def remove(self, blob: bytes) -> bool:
        return wire.succeeded(self._ask(wire.remove_request(blob)))


def comment_of(proxy: str, user: str) -> str:
    """How a login is called in the agent's list."""
    return f"teleport:{proxy}:{user}"


def add(environment: Mapping[str, str], home: Home, found: Profile, now: datetime) -> None:
    """Adds the certificate of a profile, in place of an earlier one. Raises `TeleportError`."""
    from teleport.client.keystore import ssh_certificate_line

    files = KeyFiles(found.name, found.user)
    line, pem = ssh_certificate_line(home, found), home.read(*files.key, private=True)
    if pem is None:
        raise BadRequest(f"the profile of {found.user} is incomplete", hint=found.login_command)
    key = _certificate(line, Secret(pem), comment_of(found.name, found.user))
    left = int((facts(line).expires - now).total_seconds())
    if left <= 0:
        return
    with Agent(environment) as agent:
        for blob in _held(agent, _public(home, files), key.comment):
            agent.remove(blob)
        agent.add(key, left)


def refresh(environment: Mapping[str, str], home: Home, found: Profile, now: datetime) -> None:
    """After a renewal: the agent gets the new certificate if it has the former one. Raises nothing."""
    if not environment.get(VARIABLE):
        return
    with suppress(TeleportError, OSError):
        files = KeyFiles(found.name, found.user)
        with Agent(environment) as agent:
            held = _held(agent, _public(home, files), comment_of(found.name, found.user))
        if held:
            add(environment, home, found, now)


def remove(environment: Mapping[str, str], home: Home, proxy: str, user: str) -> None:
    """At logout, before the files go. Raises nothing: what stays ends with the login."""
    if not environment.get(VARIABLE):
        return
    with suppress(TeleportError, OSError), Agent(environment) as agent:
        for blob in _held(agent, _public(home, KeyFiles(proxy, user)), comment_of(proxy, user)):
            agent.remove(blob)


def _held(agent: Agent, public: bytes, comment: str) -> list[bytes]:
    """The certificates in the agent that are of this login: of its key, or called as tsh calls them."""
    found = []
    for one in agent.identities():
        if b"-cert-v01@openssh.com" not in one.blob[:64]:
            continue
        if one.comment == comment or (public and _key_of(one.blob) == public):
            found.append(one.blob)
    return found


def _key_of(blob: bytes) -> bytes:
    from teleport.pki.sshformat import parse_certificate

    with suppress(TeleportError):
        return parse_certificate(blob).body.public_key.blob
    return b""


def _public(home: Home, files: KeyFiles) -> bytes:
    from teleport.pki.keys import PublicKey

    line = (home.read(*files.public) or b"").decode("ascii", "replace")
    with suppress(TeleportError):
        return PublicKey.parse(line).blob
    return b""


def _certificate(line: str, pem: Secret, comment: str) -> wire.P256Certificate:
    from cryptography.hazmat.primitives.asymmetric import ec

    from teleport.pki.keys import PrivateKey

    key = PrivateKey.load(pem).crypto()
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise BadRequest("only the key of a login by tsh can be added to an agent", hint="ssh-add adds other keys")
    return wire.P256Certificate(parse_certificate_line(line).blob, key.private_numbers().private_value, comment)
