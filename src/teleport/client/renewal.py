"""Renewing the certificates of a login without asking anybody: same key, same end (`authz.renewal` decides at auth).

Two reasons. Some time has passed: roles may have changed. Or the authorities of the cluster have: the proxy's answer to
ping has their digest (`pki.trust_digest`), which is compared with what is held here, every few seconds while a rotation
is known to be under way and rarely otherwise. So a login follows a rotation: it learns the new keys while both are
trusted, changes over, and forgets the former ones.

New authorities are taken from auth alone, over TLS that the ones held so far prove; a digest is only a reason to ask.
Trust is written before the certificates that need it.

OpenSSH runs `keep_fresh` before each connection (`ssh_install`), so it is quick while nothing is due, silent whatever
happens, and never in the way for longer than `PATIENCE`. tsh does the same beside its own work (`begin`). Whoever
cannot renew goes on with what there is: the proxy says why it refuses.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from teleport.client import hosts_seen, keystore, profile
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.errors import ConnectionProblem, TeleportError

FRESH = 600.0  # seconds that a renewal is good for
RETRY = 60.0  # seconds between attempts that fail: a proxy that is away must not slow down every connection
LOOK = 10.0  # seconds between looks at what the authorities are
BUSY = 1.0  # the same, and between attempts that fail, while a rotation is under way
PATIENCE = 5.0  # seconds that a connection waits for a renewal
WAIT = 3.0  # seconds for each answer of the network
_RENEWED = "renewed"
_LOOKED = "looked"


class Due(Enum):
    """What is to be done before the next connection."""

    NOTHING = "nothing"
    LOOK = "look"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the proxy said last of the authorities."""

    when: float = 0.0  # seconds since 1970
    rotating: bool = False
    asked_for: str = ""  # the digest for which a renewal changed nothing: it is not asked again


def keep_fresh(home: Home, name: str, now: datetime) -> None:
    """Renews what the profile `name` holds, when it is due. Raises nothing, prints nothing."""
    worker = begin(home, name, now)
    if worker is not None:
        worker.join(PATIENCE)


def begin(home: Home, name: str, now: datetime) -> threading.Thread | None:
    """As `keep_fresh`, but in a thread that is given back; None when nothing is due.

    The thread does not keep the process from ending: whoever wants its work to be done joins it.
    """
    with contextlib.suppress(TeleportError, OSError):
        what = due(home, name, now)
        found = profile.load(home, name) if what is not Due.NOTHING else None
        if found is None:
            return None
        keystore.check_valid(keystore.facts(keystore.ssh_certificate_line(home, found)), now, hint="")
        if what is Due.RENEW:
            mark(home, name, now, worked=False)
        _remember(home, name, Seen(now.timestamp(), seen(home, name).rotating, seen(home, name).asked_for))
        worker = threading.Thread(target=_attempt, args=(home, found, what, now), name="renewal", daemon=True)
        worker.start()
        return worker
    return None


def _attempt(home: Home, found: Profile, what: Due, now: datetime) -> None:
    with contextlib.suppress(Exception):  # nobody is there to read of it, and ssh goes on
        if what is Due.LOOK:
            digest, rotating = ask(home, found)
            before = seen(home, found.name)
            _remember(home, found.name, Seen(now.timestamp(), rotating, before.asked_for))
            if digest in ("", before.asked_for, held_digest(home, found)):
                return
            mark(home, found.name, now, worked=False)
            renew(home, found, now)
            if held_digest(home, found) != digest:  # the proxy, or another profile, sees it otherwise
                _remember(home, found.name, Seen(now.timestamp(), rotating, digest))
        else:
            renew(home, found, now)
        mark(home, found.name, now, worked=True)


def due(home: Home, name: str, now: datetime) -> Due:
    """Whether the last attempt and the last look are long enough ago. A stamp from the future does not count."""
    last = seen(home, name)
    result, _, moment = _stamped(home, name, _RENEWED).partition(" ")
    if not _within(moment, now, FRESH if result == "ok" else BUSY if last.rotating else RETRY):
        return Due.RENEW
    if result != "ok" and not last.rotating:
        return Due.NOTHING
    return Due.NOTHING if _within(str(last.when), now, BUSY if last.rotating else LOOK) else Due.LOOK


def _within(moment: str, now: datetime, seconds: float) -> bool:
    try:
        return -1 <= now.timestamp() - float(moment) < seconds
    except ValueError:
        return False


def mark(home: Home, name: str, now: datetime, *, worked: bool) -> None:
    """Remembers an attempt; a login counts as one that worked."""
    _stamp(home, name, _RENEWED, f"{'ok' if worked else 'failed'} {int(now.timestamp())}")


def seen(home: Home, name: str) -> Seen:
    """What was remembered of the last look."""
    words = _stamped(home, name, _LOOKED).split(" ")
    try:
        return Seen(float(words[0]), words[1] == "rotating", words[2])
    except (ValueError, IndexError):
        return Seen()


def _remember(home: Home, name: str, what: Seen) -> None:
    _stamp(home, name, _LOOKED, f"{what.when:.3f} {'rotating' if what.rotating else 'still'} {what.asked_for}")


def forget(home: Home, name: str) -> None:
    """Removes what was remembered."""
    for kind in (_RENEWED, _LOOKED):
        home.remove(hosts_seen.FOLDER, f"{name}.{kind}")


def _stamped(home: Home, name: str, kind: str) -> str:
    return (home.read(hosts_seen.FOLDER, f"{name}.{kind}") or b"").decode("ascii", "replace")


def _stamp(home: Home, name: str, kind: str, text: str) -> None:
    home.write(text.encode(), hosts_seen.FOLDER, f"{name}.{kind}")


def held_digest(home: Home, found: Profile) -> str:
    """The digest of what this login holds: authorities, known hosts, and whose key signed the certificate."""
    from teleport.client import known_hosts
    from teleport.pki.sshformat import parse_certificate_line
    from teleport.pki.trust_digest import trust_digest

    files = KeyFiles(found.name, found.user)
    clusters = {found.root_cluster, *keystore.clusters_of(home, files)}
    lines = [" ".join(line.split()[2:4]) for name in clusters for line in known_hosts.of_cluster(home, name)]
    pems = [pem for name in clusters for pem in keystore.authorities_of(home, files, name)]
    signer = parse_certificate_line(keystore.ssh_certificate_line(home, found)).signer
    return trust_digest(lines, pems, signer)


def ask(home: Home, found: Profile) -> tuple[str, bool]:
    """What the proxy says of the authorities: their digest (empty: it says nothing), and whether they are being
    rotated. Raises `TeleportError`."""
    from teleport.client.access import profile_trust
    from teleport.client.dial import open_web
    from teleport.client.webapi import authorities_now

    return authorities_now(open_web(*found.web, profile_trust(home, found), timeout=WAIT), found.web_proxy_addr)


def left_behind(home: Home, found: Profile, now: datetime) -> bool:
    """Whether a rotation went on without this login, so that only a new one helps. It is renewed if it still can be.

    A proxy that does not answer says nothing about it. Raises nothing.
    """
    from teleport.client.dial import Untrusted
    from teleport.errors import AccessDenied

    try:
        digest, _ = ask(home, found)
        if digest in ("", held_digest(home, found)):
            return False
        renew(home, found, now)
    except (Untrusted, AccessDenied):
        return True
    except (TeleportError, OSError):
        pass
    return False


def renew(home: Home, found: Profile, now: datetime) -> None:
    """Gets fresh certificates and known hosts, for the chosen cluster and the own one. Raises `TeleportError`; then
    nothing was changed."""
    if found.cluster != found.root_cluster:
        _renew(home, found.with_cluster(found.root_cluster), now)
    _renew(home, found, now)


def _renew(home: Home, found: Profile, now: datetime) -> None:
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
        reply = client.call(routes.RENEW_USER, m.RenewUserRequest(route_to_cluster=found.cluster))
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
    if os.environ.get("SSH_AUTH_SOCK"):
        from teleport.client import ssh_agent

        ssh_agent.refresh(os.environ, home, found, now)
