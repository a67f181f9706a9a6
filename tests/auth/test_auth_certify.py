"""What certificates say of their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from teleport.auth.authorities.certify import Certifier, UserGrant
from teleport.auth.authorities.keys import StoredKeys
from teleport.errors import BadRequest
from teleport.pki.keys import generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.trust import AuthorityKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("ttl", "lives"), [(MINUTE, MINUTE), (timedelta(hours=1), timedelta(hours=1) - timedelta(milliseconds=900))]
)
def test_who_was_made_this_second_gets_a_certificate_for_one_session_too(ttl: timedelta, lives: timedelta) -> None:
    """Certificates of a user begin with the second after the user was made, and none lives less than a minute."""
    keys = StoredKeys()
    user, host = (keys.make(kind, "example.com", NOW) for kind in (AuthorityKind.USER, AuthorityKind.HOST))
    certifier = Certifier(user, host, keys)
    since, now = NOW + timedelta(seconds=1), NOW + timedelta(milliseconds=100)
    grant = UserGrant("mara", ("access",), ("root",), {}, ttl, "example.com", since=since)
    made = parse_certificate_line(certifier.user_certs(grant, generate_p256().public.line(), now).cert)
    assert made.body.valid_before == int((since + lives).timestamp())
    short = UserGrant("mara", ("access",), ("root",), {}, MINUTE / 2, "example.com", since=since)
    with pytest.raises(BadRequest, match="at least a minute"):
        certifier.user_certs(short, generate_p256().public.line(), now)
