"""Certificates a second, as auth signs them: the SSH and TLS pair of a login, and the SSH certificate alone.

The reference is what no implementation can do without: the bare signatures of the two authorities' keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bench.measure import Row, Table, in_turns
from teleport.auth.authorities.certify import Certifier, UserGrant
from teleport.auth.authorities.keys import StoredKeys
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.pki.trust import AuthorityKind

_ROUND = 0.5  # seconds for each measurement
_CLUSTER = "bench.test"
_TTL = timedelta(hours=12)


def per_second(action: Callable[[], object]) -> float:
    """How often `action` can be done in a second, by one thread."""
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < _ROUND:
        for _ in range(20):
            action()
        count += 20
    return count / took


def rows(table: Table) -> None:
    """Adds both rows."""
    now = datetime.now(UTC).replace(microsecond=0)
    keys = StoredKeys()
    user, host = (keys.make(kind, _CLUSTER, now) for kind in (AuthorityKind.USER, AuthorityKind.HOST))
    certifier = Certifier(user, host, keys)
    key, authority = generate_p256(), generate_ed25519()
    line = key.public.line()
    roles, logins = ("access", "editor"), ("root", "admin", "deploy")
    grant = UserGrant("alice", roles, logins, {"team": ("db", "web")}, _TTL, _CLUSTER)
    request = UserCertRequest(key.public, "alice", logins, roles, _TTL, route_to_cluster=_CLUSTER)
    ed, p256 = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    message = b"x" * 700

    def two_signatures() -> None:
        ed.sign(message)
        p256.sign(message, ec.ECDSA(hashes.SHA256()))

    found = in_turns(
        {
            "pair": lambda: per_second(lambda: certifier.user_certs(grant, line, now)),
            "two signatures": lambda: per_second(two_signatures),
            "ssh": lambda: per_second(lambda: issue_user_cert(request, authority, _CLUSTER, now)),
            "one signature": lambda: per_second(lambda: ed.sign(message)),
        }
    )
    table.add(Row("user certificates, SSH and TLS", found["pair"], "/s", found["two signatures"], "bare signatures"))
    table.add(Row("user certificates, SSH alone", found["ssh"], "/s", found["one signature"], "bare signatures"))
