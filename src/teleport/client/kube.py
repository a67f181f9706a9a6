"""Kubernetes in tsh: which clusters there are, and the certificate for one of them, kept until shortly before its end.

kubectl runs `tsh kube credentials` before each of its calls, so what is kept is read without a TLS or X.509 library:
the file's first lines say of which key and until when it is. It holds no key; that is the login's own.

Where roles ask for a second factor for each session the certificate is one for a minute, and is asked for anew after
that, by whoever runs kubectl then. Its time is counted from the question to auth, by the clock of this machine alone:
one that is wrong must not make kubectl ask before each of its calls, nor show a certificate that has ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from teleport.client import keystore, session_mfa
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.errors import SECOND_FACTOR_DUE, AccessDenied, ConnectionProblem, NotFound

if TYPE_CHECKING:
    from teleport.api.messages import FoundKubeCluster
    from teleport.client.access import Access
    from teleport.client.session_mfa import Ask
    from teleport.client.webapi import Ping

EARLY: Final = timedelta(minutes=1)  # that kubectl is told the end before it
EARLY_IN_SESSION: Final = timedelta(seconds=10)  # the same, of a certificate for a minute
ONE_SESSION: Final = "# for one session"  # third line of what is kept
PORT: Final = 3026
KUBE_NAME: Final = "kube.teleport.cluster.local"  # of proxies at a port that serves everything (`pki.x509cert`)
MAX_PAGES: Final = 1000
PAGE: Final = 200  # clusters


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate for one Kubernetes cluster, with the login's key. PEM."""

    certificate: str
    key: bytes
    expires: datetime
    one_session: bool = False  # a second factor was given for it, and it is good for a minute

    @property
    def until(self) -> datetime:
        """When it is not shown any more, so that it does not end on the way."""
        return self.expires - (EARLY_IN_SESSION if self.one_session else EARLY)


@dataclass(frozen=True, slots=True)
class Where:
    """Where a proxy serves Kubernetes clients: host:port, and the name to ask for in TLS; empty: the host's."""

    address: str
    server_name: str = ""


def address_of(found: Profile, home: Home, now: datetime) -> Where:
    """Where the profile's proxy serves Kubernetes clients, as it says now. Raises `NotFound` when it does not."""
    from teleport.client.access import profile_trust
    from teleport.client.webapi import WebAPI

    ping = WebAPI(*found.web, profile_trust(home, found), now).ping()
    return where(found, kube_address(ping, *found.web))


def where(found: Profile, address: str) -> Where:
    """The address with the name to ask for there. Raises `NotFound` when there is none."""
    from teleport.client.addresses import join

    if not address:
        raise NotFound(
            f"the proxy {found.web_proxy_addr} serves no Kubernetes clients",
            hint="its file has to say proxy_service.kube_listen_addr, or proxy_service.kubernetes.enabled",
        )
    return Where(address, KUBE_NAME if address == join(*found.web) else "")


def kube_address(ping: Ping, host: str, web_port: int) -> str:
    """Where a proxy that is reached at `host` serves Kubernetes clients, host:port; empty when it does not."""
    from teleport.client.addresses import join, split_port

    if ping.kube_public_addr:
        return join(*split_port(ping.kube_public_addr, PORT))
    if ping.tls_routing and ping.kube_enabled and not ping.kube_listen_addr:
        return join(host, web_port)
    port = ping.kube_listen_addr.rpartition(":")[2]
    return join(host, int(port)) if port.isdigit() and 0 < int(port) < 65536 else ""


def clusters(access: Access, now: datetime) -> list[FoundKubeCluster]:
    """The Kubernetes clusters of the chosen cluster that the person may use, by name. Raises `TeleportError`."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.cluster import cluster_client

    found: list[FoundKubeCluster] = []
    with cluster_client(access, now) as client:
        for _ in range(MAX_PAGES):
            asked = m.FindKubeClustersRequest(start=len(found), limit=PAGE)
            page = client.call(routes.FIND_KUBE_CLUSTERS, asked)
            found += page.items
            if not page.items or page.next_start != len(found):
                break
    return found


def credentials(
    home: Home, found: Profile, kube_cluster: str, now: datetime, cluster: str = "", ask: Ask | None = None
) -> Held:
    """The certificate for a Kubernetes cluster of `cluster`, the proxy's own unless it is said: the one that is kept,
    else a new one from auth, for which `ask` has a device answer where a second factor is due. Raises
    `TeleportError`."""
    cluster = cluster or found.root_cluster
    files = KeyFiles(found.name, found.user)
    key = home.read(*files.key, private=True)
    if key is None:
        raise AccessDenied(f"{found.user} is not logged in to {found.web_proxy_addr}", hint=found.login_command)
    place = _place(files, cluster, kube_cluster)
    kept = _kept(home, place, key)
    if kept is not None and now < kept.until:
        return kept
    made = _issued(home, found, kube_cluster, cluster, now, ask)
    marked = f"{ONE_SESSION}\n" if made.one_session else ""
    text = f"# key {_key_id(key)}\n# expires {made.expires.isoformat()}\n{marked}{made.certificate}"
    home.write(text.encode(), *place)
    return made


def exec_credential(held: Held) -> str:
    """As kubectl reads it from a plugin (client.authentication.k8s.io/v1beta1)."""
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "kind": "ExecCredential",
            "spec": {},
            "status": {
                "expirationTimestamp": held.until.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "clientCertificateData": held.certificate,
                "clientKeyData": held.key.decode(),
            },
        }
    )


def _place(files: KeyFiles, cluster: str, kube_cluster: str) -> tuple[str, ...]:
    """Where it is kept. The names of Kubernetes clusters may have any characters."""
    return (*files.kube_folder, quote(cluster, safe=""), f"{quote(kube_cluster, safe='')}-x509.pem")


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _kept(home: Home, place: tuple[str, ...], key: bytes) -> Held | None:
    data = home.read(*place)
    first, _, rest = (data or b"").decode("ascii", "replace").partition("\n")
    second, _, certificate = rest.partition("\n")
    if first != f"# key {_key_id(key)}" or not second.startswith("# expires "):
        return None  # of a former login
    try:
        expires = datetime.fromisoformat(second.removeprefix("# expires "))
    except ValueError:
        return None
    third, _, rest = certificate.partition("\n")
    if third == ONE_SESSION:
        return Held(rest, key, expires.astimezone(UTC), one_session=True)
    return Held(certificate, key, expires.astimezone(UTC))


def _issued(home: Home, found: Profile, kube_cluster: str, cluster: str, now: datetime, ask: Ask | None) -> Held:
    """A certificate that auth makes for the login's key; it ends when the login does, or after a minute."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.access import profile_trust
    from teleport.client.cluster import auth_client
    from teleport.client.dial import open_web
    from teleport.pki.keys import PrivateKey
    from teleport.pki.x509verify import certificate_key, load_certificate

    own = keystore.credentials_of(home, found, now)
    trust = profile_trust(home, found)
    begun = time.monotonic()
    with auth_client(own, lambda: open_web(*found.web, trust), found.web) as client:
        asked = m.RenewUserRequest(kube_cluster=kube_cluster, route_to_cluster=cluster)
        try:
            reply = client.call(routes.RENEW_USER, asked)
        except AccessDenied as error:
            if SECOND_FACTOR_DUE not in error.message or ask is None:
                raise
            proof = session_mfa.kube_proof(client, kube_cluster, ask)
            at = now + timedelta(seconds=time.monotonic() - begun)  # before auth looks at its clock
            given = session_mfa.kube_certificate(client, own, proof, at)
            return Held(given, own.private_key.reveal(), at + session_mfa.LIFE, one_session=True)
    made = load_certificate(reply.tls_cert.encode())
    if certificate_key(made) != PrivateKey.load(own.private_key).public:
        raise ConnectionProblem("auth answered with a certificate for another key", hint=found.login_command)
    return Held(reply.tls_cert, own.private_key.reveal(), made.not_valid_after_utc)
