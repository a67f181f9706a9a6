"""Hosts becoming part of the cluster, and renewing what they have (`certificates.md` 6).

What a host may be called is decided here: no host gets a name that another live host, a proxy or an auth server is
reached by (threat T14). A refused join reads the same whatever was wrong with the token; the audit log has the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import CertCreate, HostJoin, HostJoinFailed, TokenUsed
from teleport.auth.authorities.certify import HostGrant
from teleport.auth.caller import Caller
from teleport.auth.hosts.naming import KIND_OF_ROLE, Names
from teleport.auth.hosts.tokens import Tokens
from teleport.auth.state import ClusterState
from teleport.auth.watching import Found
from teleport.authz.locks import host_lock_denial
from teleport.backend.interface import Absent, Condition, Exists, PutOp, Write
from teleport.errors import AccessDenied, BadRequest, CompareFailed, LimitExceeded, TeleportError
from teleport.identity import Anonymous, HostIdentity, SystemRole
from teleport.pki.names import canonical_host
from teleport.resources.codec import to_json
from teleport.resources.secret import SecretText
from teleport.resources.token import TokenRole, token_id
from teleport.store import records
from teleport.store.issued import IssuedCert, issued_key
from teleport.store.records import HostRecord
from teleport.store.standing import forced_labels, host_counts, with_role
from teleport.transport.limits import RateLimit, who_tries

JOINS: Final = 2.0  # attempts a second from one address
JOIN_BURST: Final = 100.0
FAILURES: Final = 10.0  # events a second of refused joins: many addresses together must not fill the audit log
FAILURE_BURST: Final = 200.0
_JOIN_TRIES: Final = 5  # while token or host are being changed
PARALLEL_SIGNATURES: Final = 10  # `certificates.md` 6


class Joining:
    """Hosts: letting them in, and their certificates."""

    def __init__(self, state: ClusterState, tokens: Tokens, names: Names) -> None:
        self._state = state
        self._names_taken = names
        self._tokens = tokens
        self._signing = asyncio.Semaphore(PARALLEL_SIGNATURES)
        self._tries = RateLimit(JOINS, JOIN_BURST)
        self._failures = RateLimit(FAILURES, FAILURE_BURST)  # that are put on record, whoever failed
        self._unheard = 0  # attempts since the last failure on record that were not recorded

    def _others_unheard(self) -> str:
        """What the record of a failure says of those that were not heard since the last one."""
        count, self._unheard = self._unheard, 0
        return f"; before it {count} attempts, too many to be recorded one by one" if count else ""

    async def join(self, caller: Caller, request: m.JoinRequest) -> m.HostCredentials:
        """Certificates for a host that offers a good token; `AccessDenied` otherwise, the reason audited.

        Who has no certificate yet may only try so often; what goes beyond costs no write. Hosts that join through a
        proxy come from the proxy's address and share its rate.
        """
        if isinstance(caller.identity, Anonymous) and not self._tries.allow(
            who_tries(caller.host), self._state.clock.monotonic()
        ):
            self._unheard += 1
            raise LimitExceeded("too many hosts try to join from this address", hint="wait a moment and try again")
        for _ in range(_JOIN_TRIES):
            try:
                return await self._join(caller, request)
            except CompareFailed:
                continue  # somebody else came first: what is true now decides
        raise AccessDenied("the token or the host changed at this moment; try again")

    async def _join(self, caller: Caller, request: m.JoinRequest) -> m.HostCredentials:
        """One try; `CompareFailed` when the token or the host changed meanwhile."""
        secret = SecretText(request.token)
        try:
            role = _role(request.role)
            found_token = await self._tokens.find(secret)
            if found_token is None:
                raise AccessDenied("the token is unknown or has expired")
            token, token_revision = found_token
            if role not in token.system_roles:
                raise AccessDenied(f"the token is not for the role {role}")
            found = await self._state.record(records.HOSTS + request.host_id, HostRecord)
            host, revision = found if found is not None else (None, 0)
            member = host if host is not None and not host.expelled else None
            if token.spec.used_by and (member is None or token.spec.used_by != request.host_id):
                raise AccessDenied(f"the single-use token was used by the host {token.spec.used_by}")
            asked = _digest(request, role)
            again = member is not None and member.role_request.get(str(role)) == asked
            if member is not None and not again:
                # UUIDs are no secrets, and events and recordings count by them: a second role is for the host itself.
                same = isinstance(caller.identity, HostIdentity) and caller.identity.host_id == request.host_id
                if not same or str(role) in member.roles:
                    raise AccessDenied("a host with this UUID has joined already")
            credentials = await self._certify(
                HostGrant(request.host_id, request.node_name, role, await self._names(request, role)),
                request.public_ssh_key,
                request.public_tls_key,
            )
        except TeleportError as error:
            await self._refused(caller, request, secret, error)
            if isinstance(error, AccessDenied):
                raise AccessDenied(
                    f"the host {request.node_name!r} may not join as {request.role}: {_public_reason(error)}",
                    hint=error.hint
                    or "make a new token on the auth server: tctl nodes add --roles=" + request.role.lower()[:16],
                ) from None
            raise
        now = self._state.clock.now()
        record = msgspec.structs.replace(
            with_role(host or HostRecord(host_id=request.host_id), role, now),
            node_name=request.node_name,
            joined=now,
        )
        forced = forced_labels(member, role) if again else token.metadata.labels
        record = msgspec.structs.replace(
            record,
            role_request={**record.role_request, str(role): asked},
            role_labels={**record.role_labels, str(role): dict(forced)},
        )
        key = records.HOSTS + request.host_id
        writes: list[Write] = [PutOp(key, record.encode())]
        conditions: list[Condition] = [Exists(key, revision) if host is not None else Absent(key)]
        if token.spec.single_use and not token.spec.used_by:
            # Of many who come at once, one finds the token as it was.
            spent = token.used(request.host_id)
            writes.append(PutOp(records.TOKENS + token.name, to_json(spent), token.metadata.expires))
            conditions.append(Exists(records.TOKENS + token.name, token_revision))
        elif token_revision:
            conditions.append(Exists(records.TOKENS + token.name))  # not removed while the certificates were made
        await self._state.commit(
            writes,
            conditions=conditions,
            events=[
                self._state.event(TokenUsed, name=token.name, host_id=request.host_id, addr=caller.address),
                self._state.event(
                    HostJoin,
                    host_id=request.host_id,
                    hostname=request.node_name,
                    system_roles=[str(role)],
                    token=token.name,
                    addr=caller.address,
                ),
                self._certified(None, request.host_id, request.node_name, role, credentials, caller.address, "token"),
            ],
        )
        return msgspec.structs.replace(credentials, token_labels=dict(forced))

    async def _refused(self, caller: Caller, request: m.JoinRequest, secret: SecretText, error: TeleportError) -> None:
        """Puts a refused join on record, unless there are too many of them."""
        if not self._failures.allow("", self._state.clock.monotonic()):
            self._unheard += 1
            return
        await self._state.tell(
            self._state.event(
                HostJoinFailed,
                host_id=request.host_id,
                hostname=request.node_name,
                system_roles=[request.role],
                token=token_id(secret),
                addr=caller.address,
                error=error.message + self._others_unheard(),
            )
        )

    async def local_host(
        self, host_id: str, node_name: str, role: SystemRole, additional: Sequence[str], ssh_key: str, tls_key: str
    ) -> m.HostCredentials:
        """Certificates for a service in auth's own daemon; needs no token, is registered like any other."""
        credentials = await self._certify(HostGrant(host_id, node_name, role, tuple(additional)), ssh_key, tls_key)
        key = records.HOSTS + host_id
        for _ in range(10):
            found = await self._state.record(key, HostRecord)
            host, revision = found if found is not None else (HostRecord(host_id=host_id), 0)
            record = msgspec.structs.replace(with_role(host, role, self._state.clock.now()), node_name=node_name)
            try:
                await self._state.commit(
                    [PutOp(key, record.encode())],
                    conditions=[Exists(key, revision) if found is not None else Absent(key)],
                    events=[self._certified(None, host_id, node_name, role, credentials, "", "auth host")],
                )
                return credentials
            except CompareFailed:
                continue
        raise TeleportError(f"the host {host_id} could not be registered: it is being changed from elsewhere")

    async def renew(self, caller: Caller, request: m.RenewHostRequest) -> m.HostCredentials:
        """Fresh certificates for a host that still has good ones: same UUID, same role."""
        identity = caller.identity
        if not isinstance(identity, HostIdentity) or identity.role is SystemRole.ADMIN:
            raise AccessDenied("only a host renews host certificates")
        former = await self._state.record(issued_key("host", identity.serial), IssuedCert)
        denial = host_lock_denial(identity, await self._state.locks(), self._state.clock.now())
        if denial is not None:  # looked at again, after what a lock on this certificate changes was read
            raise AccessDenied(denial.public, hint=denial.hint)
        names = await self._names(request, identity.role, host_id=identity.host_id)
        credentials = await self._certify(
            HostGrant(identity.host_id, request.node_name, identity.role, names),
            request.public_ssh_key,
            request.public_tls_key,
        )
        told = self._certified(
            caller,
            identity.host_id,
            request.node_name,
            identity.role,
            credentials,
            caller.address,
            former[0].factor if former is not None else "",
            renewed_from=identity.serial,
        )
        # What ends the certificate that was shown writes its record: then there is no new one.
        conditions = [Exists(former[0].key, former[1])] if former is not None else []
        await self._state.commit([], conditions=conditions, events=[told])
        return credentials

    def _certified(
        self,
        caller: Caller | None,
        host_id: str,
        node_name: str,
        role: SystemRole,
        credentials: m.HostCredentials,
        addr: str,
        factor: str,
        *,
        renewed_from: str = "",
    ) -> CertCreate:
        """That a host's certificates were made; `caller` is None when it had none before."""
        return self._state.event(
            CertCreate,
            caller,
            cert_type="host",
            subject=host_id,
            system_roles=[str(role)],
            names=[node_name] if node_name else [],
            valid_until=credentials.expires,
            serial=credentials.serial,
            addr=addr,
            factor=factor,
            renewed_from=renewed_from,
            signed_by=credentials.signed_by,
        )

    async def still_counts(self, identity: HostIdentity) -> bool:
        """Whether a host's certificate has not been withdrawn by expelling the host."""
        found = await self._state.record(records.HOSTS + identity.host_id, HostRecord)
        return host_counts(identity, found[0] if found is not None else None)

    async def found(self, identity: HostIdentity) -> Found:
        """What the record of the host says to what it announces."""
        key = records.HOSTS + identity.host_id
        stored = await self._state.record(key, HostRecord)
        if stored is None:
            return Found(given=(Absent(key),))
        return Found(forced_labels(stored[0], identity.role), (Exists(key, stored[1]),))

    async def _certify(self, grant: HostGrant, ssh_key: str, tls_key: str) -> m.HostCredentials:
        certifier = await self._state.certifier()
        async with self._signing:
            return await asyncio.to_thread(certifier.host_credentials, grant, ssh_key, tls_key, self._state.clock.now())

    async def _names(
        self, request: m.JoinRequest | m.RenewHostRequest, role: SystemRole, *, host_id: str = ""
    ) -> tuple[str, ...]:
        """The additional names asked for, unless somebody else is reached by one of them."""
        own = host_id or getattr(request, "host_id", "")
        asked = {canonical_host(name) for name in (*request.additional_principals, *request.dns_names)}
        await self._names_taken.check(own, role, [request.node_name], asked)
        return tuple(sorted(asked))


def _digest(request: m.JoinRequest, role: SystemRole) -> str:
    """What tells a request that is made again from another one for the same host.

    A host that was killed between auth's answer and writing it down asks again with the same token, keys and names,
    and gets the same: certificates for its own keys, of which nobody else has any use.
    """
    asked = [
        token_id(SecretText(request.token)),  # not the secret: hosts see these records
        request.host_id,
        request.node_name,
        str(role),
        request.public_ssh_key,
        request.public_tls_key,
        sorted(request.additional_principals),
        sorted(request.dns_names),
    ]
    return hashlib.sha256(b"teleport-join-v1\n" + msgspec.json.encode(asked)).hexdigest()


def _role(text: str) -> SystemRole:
    """The role that is asked for. Raises `BadRequest` for one that no host can have, or not with this version."""
    role = _system_role(text)
    if role in KIND_OF_ROLE:
        return role
    raise BadRequest(
        f"nothing joins as {text[:64].lower()} yet: this version has no such service",
        hint="join as node or proxy; tokens of this type are kept for a version that has the service",
    )


def _system_role(text: str) -> SystemRole:
    if text.lower() == TokenRole.TRUSTED_CLUSTER:
        raise BadRequest(
            "no host joins with the type trusted_cluster: a token of it lets another cluster trust this one",
            hint="put it into a trusted_cluster resource there: tctl create",
        )
    for role in SystemRole:
        if role.value.lower() == text.lower() and role is not SystemRole.ADMIN:
            return role
    raise BadRequest(f"{text[:64]!r} is no role that a host can have")


def _public_reason(error: AccessDenied) -> str:
    """What the host is told: nothing that helps to guess tokens."""
    if "token" in error.message:
        return "the token is unknown, has expired, was used up, or is not for this role"
    return error.message
