"""The second factor of one terminal: asked in the page, proved to auth as the user, good for this host and login.

Auth makes a certificate of the session's own key that lives for a minute; the proxy uses it for this connection alone.
"""

from __future__ import annotations

from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, ConnectionProblem
from teleport.pki.keys import PublicKey
from teleport.pki.sshformat import parse_certificate_line
from teleport.web import messages as wm
from teleport.web.session import Caller
from teleport.web.terminal_reach import Destination
from teleport.web.terminal_socket import TerminalSocket
from teleport.wire.web_terminal import Kind

TRIES: Final = 3
SECONDS: Final = 120.0  # for a person to answer


class FactorRefused(AccessDenied):
    """No answer counted."""


class Answer(wm.KeyProof, frozen=True, kw_only=True):
    """What a page answers."""

    second_factor_token: str = ""

    def response(self) -> m.FactorResponse:
        """As auth takes it. Raises `BadRequest` when there is nothing in it."""
        key = self.factor()
        if key is not None:
            return key
        code = self.second_factor_token.replace(" ", "")
        if not code:
            raise BadRequest("the answer has neither a code nor a key's signature")
        return m.FactorResponse(challenge_id=self.challenge_id, totp_code=code)


async def session_certificate(caller: Caller, socket: TerminalSocket, key: PublicKey, to: Destination) -> str:
    """A certificate for one session there, once the page has proved a second factor. Raises `TeleportError`, and what
    `TerminalSocket.expect` raises."""
    error = ""
    for _ in range(TRIES):
        asked = m.SessionChallengeRequest(host=to.host, port=to.port, login=to.login)
        made = await caller.call(routes.SESSION_CHALLENGE, asked)
        keys = wm.assertion_options(made.webauthn) if made.webauthn is not None else None
        question = wm.LoginChallenge(challenge_id=made.id, totp_challenge=made.totp, webauthn_challenge=keys)
        await socket.send(Kind.FACTOR, {**msgspec.to_builtins(question), "webauthn_challenge": keys, "error": error})
        answer = await socket.expect(Kind.FACTOR, Answer, SECONDS)
        try:
            proved = m.SessionCertRequest(host=to.host, port=to.port, login=to.login, factor=answer.response())
            return _checked(await caller.call(routes.SESSION_CERT, proved), key, to.login)
        except (AccessDenied, BadRequest) as refused:
            error = refused.message
    raise FactorRefused(error, hint="open the terminal again")


def _checked(made: m.UserCerts, key: PublicKey, login: str) -> str:
    """The certificate, if it is what was asked for."""
    body = parse_certificate_line(made.cert).body
    if body.public_key != key or body.principals != (login,):
        raise ConnectionProblem("auth answered with a certificate that was not asked for", hint="try again")
    return made.cert
