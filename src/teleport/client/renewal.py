"""Renewing the certificates of a login without asking anybody: same key, same end (`authz.renewal` decides at auth).

OpenSSH runs `keep_fresh` before each connection (`ssh_install`), so it is quick while nothing is due, silent whatever
happens, and never in the way for longer than `PATIENCE`. Whoever cannot renew goes on with what there is: the proxy
says why it refuses.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime

from teleport.client import hosts_seen, keystore, profile
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.errors import ConnectionProblem, TeleportError

FRESH = 600.0  # seconds that a renewal is good for
RETRY = 60.0  # seconds between attempts that fail: a proxy that is away must not slow down every connection
PATIENCE = 5.0  # seconds that a connection waits for a renewal
WAIT = 3.0  # seconds for each answer of the network
_STAMP = "renewed"


def keep_fresh(home: Home, name: str, now: datetime) -> None:
    """Renews what the profile `name` holds, when it is due. Raises nothing, prints nothing."""
    with contextlib.suppress(TeleportError, OSError):
        if not due(home, name, now):
            return
        found = profile.load(home, name)
        if found is None:
            return
        keystore.check_valid(keystore.facts(keystore.ssh_certificate_line(home, found)), now, hint="")
        mark(home, name, now, worked=False)
        worker = threading.Thread(target=_attempt, args=(home, found, now), name="renewal", daemon=True)
        worker.start()
        worker.join(PATIENCE)


def _attempt(home: Home, found: Profile, now: datetime) -> None:
    with contextlib.suppress(Exception):  # nobody is there to read of it, and ssh goes on
        renew(home, found, now)
        mark(home, found.name, now, worked=True)


def due(home: Home, name: str, now: datetime) -> bool:
    """Whether the last attempt is long enough ago. A stamp from the future does not count."""
    result, _, moment = (home.read(hosts_seen.FOLDER, _stamp(name)) or b"").decode("ascii", "replace").partition(" ")
    try:
        age = now.timestamp() - float(moment)
    except ValueError:
        return True
    return not -1 <= age < (FRESH if result == "ok" else RETRY)


def mark(home: Home, name: str, now: datetime, *, worked: bool) -> None:
    """Remembers an attempt; a login counts as one that worked."""
    text = f"{'ok' if worked else 'failed'} {int(now.timestamp())}"
    home.write(text.encode(), hosts_seen.FOLDER, _stamp(name))


def forget(home: Home, name: str) -> None:
    """Removes what `mark` wrote."""
    home.remove(hosts_seen.FOLDER, _stamp(name))


def _stamp(name: str) -> str:
    return f"{name}.{_STAMP}"


def renew(home: Home, found: Profile, now: datetime) -> None:
    """Gets fresh certificates and known hosts. Raises `TeleportError`; then nothing was changed."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.access import profile_trust
    from teleport.client.cluster import auth_client
    from teleport.client.dial import open_web
    from teleport.client.login import check_answer, store_renewed
    from teleport.client.webapi import Certificates, Signer
    from teleport.pki.keys import PrivateKey
    from teleport.pki.x509verify import load_certificate

    credentials = keystore.credentials_of(home, found, now)
    trust = profile_trust(home, found)
    before = keystore.facts(credentials.ssh_certificate)
    key = PrivateKey.load(credentials.private_key).public
    with auth_client(credentials, lambda: open_web(*found.web, trust, timeout=WAIT), found.web) as client:
        reply = client.call(routes.RENEW_USER, m.Empty())
    signers = tuple(
        Signer(one.domain_name, tuple(one.checking_keys), tuple(one.tls_certs)) for one in reply.host_signers
    )
    certificates = Certificates(reply.username, reply.cert, reply.tls_cert, signers)
    check_answer(certificates, key, found.user, found.root_cluster, trust)
    ends = keystore.facts(certificates.ssh).expires, load_certificate(certificates.tls.encode()).not_valid_after_utc
    if max(ends) > before.expires:
        raise ConnectionProblem("auth answered with a certificate that lives longer than the login", hint="tsh login")
    if home.read(*KeyFiles(found.name, found.user).key, private=True) != credentials.private_key.reveal():
        return  # somebody logged in, or out, meanwhile
    store_renewed(home, found, certificates)
