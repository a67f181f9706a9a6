"""A second factor for one session: certificates of the same key that live for a minute, marked for one target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from teleport.client import keystore
from teleport.client.access import Access
from teleport.errors import ConnectionProblem

if TYPE_CHECKING:
    from teleport.api import messages as m

LIFE = timedelta(minutes=1)
_SLACK = timedelta(minutes=2)  # between the clocks of this machine and auth


def for_session(
    access: Access,
    host: str,
    port: int,
    login: str,
    now: datetime,
    ask: Callable[[m.FactorChallenge], m.FactorResponse],
) -> Access:
    """`access` with a certificate for one session on `host`; `ask` has a device answer.

    Raises what auth answers, and `ConnectionProblem` when the answer is not what was asked for.
    """
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.cluster import auth_client
    from teleport.pki.sshformat import USER, parse_certificate_line

    credentials = access.credentials
    before = credentials.parsed().body
    with auth_client(credentials, access.web_api(now).open, access.web) as client:
        challenge = client.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest(host=host, port=port, login=login))
        request = m.SessionCertRequest(host=host, port=port, login=login, factor=ask(challenge))
        reply = client.call(routes.SESSION_CERT, request)
    given = parse_certificate_line(reply.cert).body
    same = given.public_key == before.public_key and given.key_id == before.key_id and given.type == USER
    ends = keystore.facts(reply.cert).expires
    if not same or ends > now + LIFE + _SLACK or given.principals != (login,):
        raise ConnectionProblem("auth answered with a certificate that was not asked for", hint="tsh login")
    return replace(access, credentials=replace(credentials, ssh_certificate=reply.cert))
