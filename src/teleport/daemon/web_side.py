"""What the sessions of browsers need of their proxy: its view of the cluster, and the way to auth for their users."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from teleport.api import messages as m
from teleport.api.client import AuthClient
from teleport.authz.api import APIAccessRequest, APIPermit, evaluate_api_access
from teleport.authz.web_session import why_ended
from teleport.backend.interface import Deleted, Event
from teleport.daemon.former_node import connect_former, former_nodes
from teleport.daemon.host import Host
from teleport.daemon.view import View
from teleport.errors import AccessDenied, NotFound
from teleport.identity import SystemRole, UserIdentity
from teleport.pki.keys import PrivateKey
from teleport.pki.sshformat import parse_certificate, parse_certificate_line
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import auth_server_name
from teleport.resources.kinds import Kind, Verb
from teleport.resources.names import canonical_host
from teleport.ssh.surface import Peer
from teleport.store.records import LOCKS, ROLES, USERS, WEB_SESSIONS
from teleport.transport.led import LedConnector
from teleport.transport.tls import client_context_of
from teleport.transport.vouching import VouchingConnector
from teleport.web.session import Dial, Pair
from teleport.web.terminal_reach import Way

AUTH_PORT: Final = 3025
CONNECTIONS: Final = 6  # of one session to the auth of another cluster
BYTES: Final = 4 * 1024 * 1024  # of what that answers


class WebWays:
    """`web.session.Ways`, by the view of a proxy."""

    def __init__(
        self, view: View, auth_servers: Sequence[tuple[str, int]], vouch_to_auth: Callable[[str, int], bytes]
    ) -> None:
        """`vouch_to_auth` makes the line that tells auth where a browser is."""
        self._view = view
        self._auth_servers = tuple(auth_servers)
        self._vouch = vouch_to_auth

    def identify(self, certificate: str) -> UserIdentity:
        return self._view.verify_user(parse_certificate_line(certificate).blob)

    def user_signer(self) -> bytes:
        return self._view.user_signer()

    def why_ended(self, identity: UserIdentity, expires: datetime) -> str:
        now = self._view.clock.now()
        return why_ended(identity, self._view.present(identity), self._view.locks(), now, expires)

    def may(self, identity: UserIdentity, kind: Kind, verb: Verb) -> bool:
        present = self._view.present(identity)
        if present is None:
            return False
        request = APIAccessRequest(
            identity=present,
            verb=verb,
            kind=kind,
            cluster=self._view.cluster,
            now=self._view.clock.now(),
            client_address=present.source_ip,
            locks=self._view.locks(),
        )
        return isinstance(evaluate_api_access(request, self._view.policy()), APIPermit)

    def user_caller(self, pair: Pair, address: tuple[str, int]) -> AuthClient:
        return AuthClient(
            self._auth_servers,
            _contexts(pair, self._view.tls_authorities),
            auth_server_name(self._view.cluster),
            connector=lambda: VouchingConnector(lambda: self._vouch(*address)),
        )

    def cluster_caller(self, pair: Pair, cluster: str, dial: Dial) -> AuthClient:
        def authorities() -> tuple[str, ...]:
            found = self._view.authority_of(AuthorityKind.HOST, cluster)
            if found is None:
                raise NotFound(f"the cluster {cluster[:100]!r} is not known here", hint="tsh clusters")
            return tuple(found.trusted_tls_certs)

        name = auth_server_name(cluster)
        return AuthClient(
            [(name, AUTH_PORT)],  # which is not looked up: `dial` knows the way
            _contexts(pair, authorities),
            name,
            connector=lambda: LedConnector(dial, CONNECTIONS),
            most=BYTES,
        )

    def follow(self, changed: Callable[[], None], removed: Callable[[str], None]) -> Callable[[], None]:
        def gone(event: Event) -> None:
            if isinstance(event, Deleted):
                removed(event.key.removeprefix(WEB_SESSIONS))

        ends = [self._view.cache.subscribe(prefix, lambda _: changed()) for prefix in (LOCKS, USERS, ROLES)]
        ends.append(self._view.cache.subscribe(WEB_SESSIONS, gone))

        def stop() -> None:
            for end in ends:
                end()

        return stop


class Shells:
    """`web.terminal_reach.ShellWays`, by the view of a proxy and its SSH service."""

    def __init__(
        self,
        view: View,
        accept: Callable[[asyncio.Transport], None],
        own: tuple[Host, Callable[[str, Peer], bytes]] | None = None,
    ) -> None:
        """`own`: the host that this runs on, and the line that vouches for a client to the node of a host."""
        self._view = view
        self._accept = accept
        self._own = own

    def accept(self, transport: asyncio.Transport) -> None:
        self._accept(transport)

    def former(self, host_id: str, peer: tuple[str, int]) -> list[Way]:
        if self._own is None or self._own[0].host_id != host_id:
            return []
        host, vouching = self._own
        return [
            lambda protocol, path=path: connect_former(path, vouching(host_id, Peer(*peer)), protocol)  # type: ignore[misc]
            for path in former_nodes(host)
        ]

    def prove(self, certificate: bytes, role: SystemRole, cluster: str, name: str) -> str:
        if cluster in ("", self._view.cluster):
            found = self._view.verify_host(certificate)
        else:
            found = self._view.verify_host_of(cluster, certificate, role)
        if found.role is not role:
            raise AccessDenied(
                f"its certificate is that of a {found.role}, not of a {role}", hint="check the name of the host"
            )
        if name and canonical_host(name) not in parse_certificate(certificate).body.principals:
            raise AccessDenied(f"its certificate is not made out to {name!a}", hint="name the host as the list does")
        return found.host_id


def _contexts(pair: Pair, authorities: Callable[[], tuple[str, ...]]) -> Callable[[], ssl.SSLContext]:
    """What TLS needs, made anew when the certificates or the authorities are others."""
    made: list[tuple[m.UserCerts, tuple[str, ...], ssl.SSLContext]] = []

    def context() -> ssl.SSLContext:
        (certs, key), trusted = pair(), authorities()
        if not made or made[0][0] is not certs or made[0][1] != trusted:
            made[:] = [(certs, trusted, _context(trusted, certs, key))]
        return made[0][2]

    return context


def _context(trusted: Sequence[str], certs: m.UserCerts, key: PrivateKey) -> ssl.SSLContext:
    return client_context_of(trusted, certs.tls_cert.encode(), key.pkcs8_pem().reveal())
