"""What auth answers to users, asked through the proxy: the hosts there are, and recordings.

The session with auth is mutual TLS inside a websocket that the proxy relays; the proxy sees ciphertext only.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.sync_client import TUNNEL_PATH, SyncAuthClient, through_proxy
from teleport.client.addresses import join
from teleport.client.keystore import Credentials
from teleport.client.session_mfa import Ask, ask_when_due
from teleport.errors import ConnectionProblem
from teleport.transport.blocking import ByteStream, TLSStream
from teleport.transport.tls import cluster_client_context

if TYPE_CHECKING:
    from teleport.client.access import Access

MAX_PAGES = 1000


class _Label(msgspec.Struct, frozen=True):
    result: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str] = {}


class _Spec(msgspec.Struct, frozen=True):
    addr: str = ""
    public_addrs: list[str] = []
    hostname: str = ""
    cmd_labels: dict[str, _Label] = {}
    use_tunnel: bool = False
    silent_for: str = ""  # a duration; of a host that is lost
    tunnel_lost_for: str = ""  # a duration; of one of which its proxies say that they have no tunnel


class Node(msgspec.Struct, frozen=True):
    """A host as it announced itself. Its texts are the host's own words: escape them before showing them."""

    metadata: _Metadata
    spec: _Spec = _Spec()
    logins: list[str] | None = None  # that the user may use there; None when auth did not say
    sub_kind: str = ""  # openssh: a plain sshd, for which the proxy speaks

    @property
    def id(self) -> str:
        return self.metadata.name

    @property
    def hostname(self) -> str:
        return self.spec.hostname

    @property
    def address(self) -> str:
        """`host:port`, empty for a host behind a tunnel."""
        if self.spec.use_tunnel:
            return ""
        return self.spec.public_addrs[0] if self.spec.public_addrs else self.spec.addr

    @property
    def silent_for(self) -> str:
        """How long a lost host has not been heard of, such as `12m0s`; empty for one that is there."""
        return self.spec.silent_for

    @property
    def tunnel_lost_for(self) -> str:
        """For how long its proxies have been without a tunnel of it, as they say; empty when they have one."""
        return self.spec.tunnel_lost_for

    @property
    def labels(self) -> Mapping[str, str]:
        """Static and dynamic ones; a dynamic one wins a clash, as where they are matched."""
        return {**self.metadata.labels, **{name: label.result for name, label in self.spec.cmd_labels.items()}}

    def matches(self, wanted: Mapping[str, str]) -> bool:
        labels = self.labels
        return all(labels.get(name) == value for name, value in wanted.items())


def auth_server_name(cluster: str) -> str:
    """As `pki.x509cert.auth_server_name`, which would bring a crypto library with it; a test keeps them alike."""
    label = cluster.encode().hex()
    if len(label) > 63:
        label = hashlib.sha256(cluster.encode()).hexdigest()[:56]
    return f"{label}.teleport.cluster.local"


def auth_client(
    credentials: Credentials,
    open_web: Callable[[], ByteStream],
    web: tuple[str, int],
    ask: Ask | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> SyncAuthClient:
    """The auth API of the cluster that signed the credentials. Raises nothing until it is called.

    `ask` has a device answer when a call needs a second factor of its own.
    """
    name = auth_server_name(credentials.cluster)

    def connect(context: ssl.SSLContext) -> Callable[[], TLSStream]:
        return through_proxy(open_web, join(*web), context, name)

    own = cluster_client_context(credentials.ca_pems, credentials.tls_file, credentials.key_file)
    client = SyncAuthClient(connect(own), name, headers=headers)
    if ask is not None:
        ask_when_due(client, credentials, connect, ask)
    return client


def cluster_client(access: Access, now: datetime, ask: Ask | None = None) -> SyncAuthClient:
    """The auth API of the chosen cluster: the one that signed the credentials, or another that trusts it, to which the
    proxy leads. Raises `NotFound` for a cluster that is not known here, and else nothing until it is called."""
    credentials, cluster = access.credentials, access.cluster
    headers = {"traceparent": access.trace} if access.trace else None
    open_web = access.web_api(now).open
    if cluster == credentials.cluster:
        return auth_client(credentials, open_web, access.web, ask, headers=headers)
    from urllib.parse import quote

    from teleport.client import other_clusters

    pems = other_clusters.authorities_of(access)
    name = auth_server_name(cluster)
    connect = through_proxy(
        open_web,
        join(*access.web),
        cluster_client_context(pems, credentials.tls_file, credentials.key_file),
        name,
        target=f"{TUNNEL_PATH}?cluster={quote(cluster, safe='')}",
        headers=lambda: other_clusters.proof(credentials, cluster, datetime.now(UTC)),
        refused=other_clusters.refusal,
    )
    return SyncAuthClient(connect, name, headers=headers)


def list_nodes(client: SyncAuthClient) -> list[tuple[Node, dict[str, Any]]]:
    """All hosts that the user may see, by host name, each with the document that auth sent."""
    found: list[tuple[Node, dict[str, Any]]] = []
    start = ""
    for _ in range(MAX_PAGES):
        page = client.call(routes.LIST["node"], m.ListRequest(start_key=start))
        try:
            for number, item in enumerate(page.items):
                node, document = msgspec.json.decode(item, type=Node), msgspec.json.decode(item, type=dict)
                logins = page.logins[number] if number < len(page.logins) else None
                if logins is not None:
                    document["logins"] = logins
                found.append((msgspec.structs.replace(node, logins=logins), document))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ConnectionProblem(
                f"auth answered with a host that cannot be read: {error}",
                hint="use tsh of the version of the cluster: tctl status",
            ) from None
        if not page.next_key or page.next_key == start:
            break
        start = page.next_key
    return sorted(found, key=lambda pair: (pair[0].hostname, pair[0].id))


def download_recording(client: SyncAuthClient, sid: str, form: str = "") -> Iterator[bytes]:
    """The bytes of a session's recording. `form`: what they are for, as the event says."""
    return client.download(routes.READ_RECORDING, m.RecordingRequest(sid=sid, form=form))
