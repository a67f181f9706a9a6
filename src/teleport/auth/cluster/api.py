"""The cluster itself over the API: status, who am I, its public authority, signing for others, proxies' addresses."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Final

from teleport import __version__
from teleport.api import messages as m
from teleport.audit.events import AuthSign, CertCreate
from teleport.auth.authorities.following import authority_status
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.backend.interface import Exists
from teleport.errors import AccessDenied, BadRequest, CompareFailed
from teleport.identity import Anonymous, HostIdentity, SystemRole, UserIdentity
from teleport.pki.keys import PublicKey
from teleport.pki.pin import ca_pin
from teleport.pki.sshcert import HOST_LIFETIME
from teleport.pki.x509subject import USAGES
from teleport.resources.authority import AuthorityType
from teleport.resources.codec import from_json
from teleport.resources.names import canonical_host
from teleport.resources.server import Server
from teleport.resources.user import User
from teleport.store import records

MAX_SIGNED: Final = timedelta(days=400)  # of `tctl auth sign`; nothing is unlimited


class ClusterAPI:
    """Handlers about the cluster as a whole."""

    def __init__(self, state: ClusterState, authorizer: Authorizer, version: str = __version__) -> None:
        self._state = state
        self._authorizer = authorizer
        self._version = version

    async def ca(self, caller: Caller, request: m.Empty) -> m.ClusterCA:
        host = await self._state.authority("host")
        return m.ClusterCA(
            cluster=self._state.cluster, tls_certs=list(host.trusted_tls_certs), now=self._state.clock.now()
        )

    async def pins(self) -> list[str]:
        host = await self._state.authority("host")
        return [ca_pin(cert.encode()) for cert in host.trusted_tls_certs]

    async def status(self, caller: Caller, request: m.Empty) -> m.ClusterStatus:
        authorities = [await self._state.authority(kind) for kind in AuthorityType]
        return m.ClusterStatus(
            cluster=self._state.cluster,
            version=self._version,
            authorities=[authority_status(authority) for authority in authorities],
            ca_pins=await self.pins(),
            now=self._state.clock.now(),
        )

    async def who_am_i(self, caller: Caller, request: m.Empty) -> m.WhoAmI:
        match caller.identity:
            case UserIdentity() as user:
                kind, name, roles = "user", user.name, list(user.roles)
            case HostIdentity() as host:
                kind, name, roles = "host", host.host_id, [str(host.role)]
            case Anonymous():
                kind, name, roles = "anonymous", "", []
        return m.WhoAmI(kind=kind, name=name, roles=roles, cluster=self._state.cluster, client_addr=caller.address)

    async def sign_user(self, caller: Caller, request: m.SignUserRequest) -> m.UserCerts:
        """Certificates in a user's name, for an administrator: longer than the user's own roles would allow."""
        self._only_administrator(caller)
        user, revision = await self._state.need(records.USERS, request.name, User)
        if not 60 <= request.ttl <= MAX_SIGNED.total_seconds():
            raise BadRequest(f"certificates are signed for 1m to {MAX_SIGNED.days} days", hint="--ttl=12h")
        grant = await self._authorizer.grants.by_administrator(
            user,
            request.ttl,
            route_to_cluster=request.route_to_cluster or self._state.cluster,
            source_ip=request.source_ip,
        )
        if request.for_sshd:
            if not grant.source_ip:
                raise BadRequest("only an address makes a certificate one for a plain sshd", hint="--source-ip=ADDRESS")
            grant = replace(grant, for_sshd=True)
        if request.usage or request.kube_cluster:
            if request.usage not in USAGES or (request.kube_cluster and request.usage != "usage:kube"):
                raise BadRequest(f"{request.usage[:64]!r} is no use that a certificate is limited to", hint="--format")
            grant = replace(grant, usage=request.usage, kube_cluster=request.kube_cluster)
        certifier = await self._state.certifier()
        now = self._state.clock.now()
        certs = await asyncio.to_thread(certifier.user_certs, grant, request.public_key, now)
        told = [
            self._state.event(
                AuthSign,
                caller,
                subject=user.name,
                format=request.format,
                ttl=f"{request.ttl:.0f}s",
                valid_until=certs.expires,
                source_ip=grant.source_ip,
            ),
            self._state.certified(caller, grant, PublicKey.parse(request.public_key), certs, factor="administrator"),
        ]
        try:
            await self._state.commit([], conditions=[Exists(records.USERS + user.name, revision)], events=told)
        except CompareFailed:
            raise CompareFailed(
                f"the user {user.name!r} was changed at this moment; nothing was signed",
                hint="look at it and try again",
            ) from None
        return await self._authorizer.told_of_clusters(certs, user, grant)

    async def sign_host(self, caller: Caller, request: m.SignHostRequest) -> m.HostCredentials:
        """A host certificate for a plain sshd."""
        self._only_administrator(caller)
        ttl = timedelta(seconds=request.ttl) if request.ttl > 0 else HOST_LIFETIME
        if ttl > HOST_LIFETIME:
            raise BadRequest(f"host certificates live up to {HOST_LIFETIME.days} days", hint="sign again before then")
        if zoned := next((name for name in request.principals if "%" in name), ""):
            raise BadRequest(
                f"{zoned!r} has a zone (%), which means something on one machine only",
                hint="sign for the host's name, or for an address that others reach",
            )
        principals = list(dict.fromkeys(canonical_host(name) for name in request.principals))
        certifier = await self._state.certifier()
        now = self._state.clock.now()
        host_id = str(uuid.uuid4())
        credentials = await asyncio.to_thread(
            certifier.plain_host_cert, host_id, principals, request.public_key, ttl, now
        )
        shown = ",".join(principals)
        await self._state.tell(
            self._state.event(
                AuthSign, caller, subject=shown, format="openssh", ttl=f"{ttl.total_seconds():.0f}s",
                valid_until=credentials.expires,
            ),
            self._state.event(
                CertCreate, caller, cert_type="host", subject=host_id, system_roles=[str(SystemRole.NODE)],
                valid_until=credentials.expires, serial=credentials.serial, names=principals, addr=caller.address,
                factor="administrator", signed_by=credentials.signed_by,
            ),
        )  # fmt: skip
        return credentials

    async def sign_server(self, caller: Caller, request: m.SignServerRequest) -> m.ServerCert:
        """A TLS server certificate for a database."""
        self._only_administrator(caller)
        if request.format not in ("db", "mongodb"):
            raise BadRequest(f"{request.format[:64]!r} is no form of a server's certificate", hint="--format=db")
        ttl = timedelta(seconds=request.ttl) if request.ttl > 0 else HOST_LIFETIME
        organization = self._state.cluster if request.format == "mongodb" else ""
        certifier = await self._state.certifier()
        signed = await asyncio.to_thread(
            certifier.server_cert, request.names, organization, request.public_key, ttl, self._state.clock.now()
        )
        shown = ",".join(request.names)
        await self._state.tell(
            self._state.event(
                AuthSign, caller, subject=shown, format=request.format, ttl=f"{ttl.total_seconds():.0f}s",
                valid_until=signed.expires,
            ),
            self._state.event(CertCreate, caller, cert_type="server", subject=shown, valid_until=signed.expires),
        )  # fmt: skip
        return signed

    def _only_administrator(self, caller: Caller) -> None:
        identity = caller.identity
        if not (isinstance(identity, HostIdentity) and identity.role is SystemRole.ADMIN):
            raise AccessDenied("only tctl on an auth server signs for others")

    async def web_address(self) -> str:
        """Where people reach a proxy; a placeholder that says what to do when none is up."""
        for server in await self._present(records.PROXIES):
            if server.spec.public_addrs:
                return server.spec.public_addrs[0]
        return "<proxyhost>:3080"

    async def web_addresses(self) -> list[str]:
        """Every address under which people reach a proxy, as these announce it; those that are heard of first."""
        return [address for server in await self._present(records.PROXIES) for address in server.spec.public_addrs]

    async def auth_addresses(self) -> list[str]:
        """Where hosts reach the auth servers, as these announce it."""
        found: list[str] = []
        for server in await self._present(records.AUTH_SERVERS):
            found += [*server.spec.public_addrs[:1]] or [server.spec.addr]
        return found

    async def _present(self, prefix: str) -> list[Server]:
        """The services whose presence has not ended, those that are heard of before those that are lost."""
        now = self._state.clock.now()
        found = [from_json(item.value) for item in await self._state.backend.range(prefix)]
        servers = [one for one in found if isinstance(one, Server) and not one.expired(now)]
        return sorted(servers, key=lambda server: server.lost(now))
