"""Recording at the proxy as this daemon runs it: what it knows, whom it asks, where its recordings go."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.authz.forwarding import USUAL_PORTS
from teleport.authz.locks import host_lock_denial
from teleport.backend.interface import Event, Put
from teleport.clock import Clock
from teleport.daemon.connection_count import RemoteControl
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.recorded import Recorded
from teleport.daemon.view import View
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.pki.live_proof import Evidence
from teleport.pki.names import canonical_host
from teleport.pki.refusal import CertificateRefused, Refusal
from teleport.pki.sshformat import parse_certificate
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import AuthorityKind
from teleport.proxy.recording.needs import RecordingConfig
from teleport.proxy.recording.service import RecordingService
from teleport.recording.trust import signer
from teleport.resources.cluster import RecordingMode
from teleport.resources.values import HostPort
from teleport.ssh.client_connection import HostCheck
from teleport.ssh.surface import ServerLimits
from teleport.store.records import NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from teleport.authz.decision import Policy
    from teleport.identity import UserIdentity
    from teleport.proxy.ssh_router import SshRouter
    from teleport.resources.destinations import Address
    from teleport.resources.lock import Lock
    from teleport.resources.mfa_lease import MfaLease
    from teleport.resources.server import Server

FOLDER = "upload-proxy"  # below the log directory


def host_of(event: Event) -> str:
    """The host whose presence changed, or is gone."""
    return (event.item.key if isinstance(event, Put) else event.key).removeprefix(NODES)


class RecordingView:
    """What of the cluster decides (`proxy.recording.needs.View`)."""

    def __init__(self, view: View) -> None:
        self._view = view

    def policy(self) -> Policy:
        return self._view.policy()

    def locks(self) -> Sequence[Lock]:
        return self._view.locks()

    def leases(self, user: str, key: str, client_address: str) -> Sequence[MfaLease]:
        return self._view.leases(user, key, client_address)

    def present(self, identity: UserIdentity) -> UserIdentity | None:
        return self._view.present(identity)

    def verify_user(self, certificate: bytes) -> UserIdentity:
        return self._view.verify_any_user(certificate)

    def trusts_user_authority(self, signer: bytes) -> bool:
        return self._view.trusts_user_authority(signer)

    def let_go(self, signer: bytes) -> bool:
        return self._view.let_go(signer)

    def node(self, host_id: str) -> Server | None:
        return self._view.node(host_id)

    @property
    def everything(self) -> bool:
        return self._view.recording_mode() in (RecordingMode.PROXY, RecordingMode.PROXY_SYNC)

    def records(self, node: Server) -> bool:
        return node.agentless or self.everything

    def host_check(self, node: Server) -> HostCheck | None:
        """Its sshd shows a certificate of the cluster's host authority, made out to the very host that is meant."""
        if not self._view.recording().spec.proxy_checks_host_keys:
            return None

        def check(certificate: bytes) -> None:
            now = self._view.clock.now()
            trusted = self._view.ssh_authorities(AuthorityKind.HOST)
            try:
                identity = verify_host_cert(certificate, trusted, now, hostname=node.host_id)
                own = identity.host_id == node.host_id  # or it is one with which a proxy shows the name
            except CertificateRefused:
                if not node.agentless:
                    raise
                own = False
            if not own and node.agentless:
                # one that was signed by hand: tctl auth sign --host=NAME
                identity = verify_host_cert(certificate, trusted, now, hostname=canonical_host(node.hostname))
                own = identity.role is SystemRole.NODE and not self._view.knows_host(identity.host_id)
            if not own:
                raise CertificateRefused(
                    Refusal.WRONG_HOST,
                    f"The certificate for {node.hostname!a} is another host's.",
                    detail=identity.host_id,
                    hint="run the host's script anew: tctl nodes add --type=openssh",
                )
            if not node.agentless:
                self._view.verify_host(certificate)  # whether it still belongs to the cluster
            denial = host_lock_denial(identity, self._view.locks(), now)
            if denial is not None:
                raise AccessDenied(f"the host {node.hostname} is locked", hint="tctl get lock")

        return check

    def reserved(self, node: Server, host: str, address: Address, port: int) -> str:
        if port in USUAL_PORTS:
            return "a usual port of the cluster's services"
        if address.is_loopback:
            own = HostPort.parse(node.spec.addr, 0).port if node.spec.addr else 0
            return "the host's own sshd" if port == own else ""
        names = {str(address), canonical_host(host.rstrip("."))}
        for other in self._view.nodes():
            for text in (other.spec.addr, *other.spec.public_addrs):
                place = HostPort.parse(text, 0) if text else HostPort("", 0)
                if place.port == port and canonical_host(place.host) in names:
                    return "a port of the cluster's services"
        return ""

    def mode(self) -> str:
        """No node service is there to record, so it is the proxy that does, whatever the mode."""
        match self._view.recording_mode():
            case RecordingMode.NODE_SYNC | RecordingMode.PROXY_SYNC:
                return str(RecordingMode.PROXY_SYNC)
        return str(RecordingMode.PROXY)


class RecordingAuth:
    """What auth gives (`proxy.recording.needs.Auth`)."""

    def __init__(self, client: AuthClient) -> None:
        self._client = client

    async def name(self, host_id: str, public_key: str) -> tuple[str, datetime]:
        asked = m.OpensshNameRequest(host_id=host_id, public_key=public_key)
        made = await self._client.call(routes.OPENSSH_NAME, asked)
        return made.ssh_cert, made.expires

    async def certificate(self, certificate: bytes, client_address: str, evidence: Evidence, public_key: str) -> str:
        asked = m.SignOpensshRequest(
            certificate=parse_certificate(certificate).line(),
            client_addr=client_address,
            public_key=public_key,
            exchange=_text(evidence.exchange),
            hash_name=evidence.hash_name,
            request=_text(evidence.request),
            signature=_text(evidence.signature),
        )
        return (await self._client.call(routes.SIGN_OPENSSH, asked)).ssh_cert


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class RecordingSide:
    """Everything of recording at the proxy in one daemon."""

    def __init__(
        self,
        host: Host,
        nodename: str,
        view: View,
        client: AuthClient,
        emitter: Emitter,
        clock: Clock,
        router: SshRouter,
        held: Callable[[], Credentials],
    ) -> None:
        seen = RecordingView(view)
        self.recorded = Recorded(
            FOLDER,
            host,
            nodename,
            client,
            emitter,
            clock,
            sign=signer(lambda: (held().ssh_key, held().ssh_cert)),
            quota=0,
            mode=seen.mode,
        )
        self.service = RecordingService(
            RecordingConfig(view.cluster, UUID(host.host_id), nodename, ServerLimits()),
            view=seen,
            auth=RecordingAuth(client),
            recordings=self.recorded.spool,
            emitter=emitter,
            clock=clock,
            in_background=router.in_background,
            control=RemoteControl(client),
            reach=router.reach,
        )
        router.recording = self.service
