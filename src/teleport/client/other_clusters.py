"""Clusters that trust the one somebody is logged in to: which are known, and what the proxy is asked about them.

What is known of them came with the login: their host authorities, told by the auth service of the own cluster. TLS to
another cluster's auth ends there and is proved by these, so that the proxies between can only refuse.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from teleport.client.addresses import join
from teleport.errors import AccessDenied, ConnectionProblem, NotFound, TeleportError
from teleport.resources.names import canonical_address

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.keystore import Credentials

_KINDS = {403: AccessDenied, 404: NotFound}


def known(credentials: Credentials) -> list[str]:
    """The clusters that are known, the own one first."""
    names = [credentials.cluster, *(name for name, _ in credentials.authorities if name)]
    return list(dict.fromkeys(names))


def unknown(cluster: str, names: Sequence[str]) -> NotFound:
    """The error for a cluster that is none of these."""
    near = difflib.get_close_matches(cluster, names, n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return NotFound(f"the cluster {cluster[:100]} is not known here{meant}", hint="tsh clusters")


def authorities_of(access: Access) -> tuple[str, ...]:
    """The TLS certificates (PEM) of the host authority of the chosen cluster. Raises `NotFound`."""
    pems = tuple(pem for name, pem in access.credentials.authorities if name == access.cluster)
    if not pems:
        raise unknown(access.cluster, known(access.credentials))
    return pems


def towards(access: Access, host: str) -> Access:
    """`access` for the cluster that the name of a host ends with, where that is another one that is known."""
    if canonical_address(host):
        return access
    name = host.rstrip(".").lower()
    fitting = [one for one in known(access.credentials) if name.endswith(f".{one.lower()}")]
    cluster = max(fitting, key=len, default=access.cluster)
    return replace(access, cluster=cluster) if cluster != access.cluster else access


def proof(credentials: Credentials, cluster: str, now: datetime) -> Mapping[str, str]:
    """The header by which the proxy learns who asks: for the way to a cluster's auth, or, with none, for the list."""
    from teleport.pki import sshsig
    from teleport.pki.keys import PrivateKey
    from teleport.pki.web_proof import CLUSTERS, HEADER, encode, to_auth_of

    key = PrivateKey.load(credentials.private_key)
    made = encode(
        credentials.parsed().blob,
        lambda message: sshsig.sign(key, message),
        audience=credentials.cluster,
        purpose=to_auth_of(cluster) if cluster else CLUSTERS,
        now=now,
    )
    return {HEADER: made}


def refusal(status: int, body: bytes) -> TeleportError | None:
    """What the proxy says when it leads nowhere; None when it says nothing."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(said, str) or not said:
        return None
    return _KINDS.get(status, ConnectionProblem)(" ".join(said.split())[:500], hint="tsh clusters")


def reachable(access: Access, now: datetime) -> list[tuple[str, bool]]:
    """The clusters that trust this one and that the user may go to, and whether each is connected. Raises
    `TeleportError`."""
    from teleport.transport.blocking import HTTPOver

    connection = HTTPOver(access.web_api(now).open(), join(*access.web))
    try:
        connection.request("GET", "/webapi/sites", headers=proof(access.credentials, "", now))
        response = connection.getresponse()
        body = response.read(1 << 20)
    except OSError as error:
        raise ConnectionProblem(f"the proxy does not say which clusters there are: {error}", hint="try again") from None
    finally:
        connection.close()
    if response.status == 404:
        return []  # a proxy that leads to none
    if response.status != 200:
        raise refusal(response.status, body) or ConnectionProblem(
            f"the proxy does not say which clusters there are: HTTP status {response.status}", hint="try again"
        )
    try:
        sites = [(one["name"], one["status"]) for one in json.loads(body)["sites"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConnectionProblem("the proxy's list of clusters cannot be read", hint="try again") from None
    return [(str(name), status == "online") for name, status in sites]
