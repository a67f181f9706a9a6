"""What auth would say in the lab: roles, locks and leases that a test changes, the nodes, counted connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec

from teleport.authz.certificate import certificate_denial
from teleport.authz.decision import AccessDenial, ClusterDefaults, Policy
from teleport.authz.ssh import SSHAccessRequest, lease_lifetime, why_second_factor_due
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, LimitExceeded, TeleportError
from teleport.identity import UserIdentity
from teleport.pki.sshformat import parse_certificate
from teleport.resources.lock import Lock
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.store.resolve import RegisteredNode
from teleport.transport.places import Place

CODE = "123456"  # the second factor of everybody in the lab


class LabRules:
    """One role, `access`, that the test may replace, and locks."""

    def __init__(self, logins: Iterable[str] = ()) -> None:
        self.role = Role(
            metadata=Metadata(name="access"),
            spec=RoleSpec(allow=Conditions(logins=tuple(logins), node_labels={"*": ("*",)})),
        )
        self.more: dict[str, Role] = {}  # other roles, by name
        self.locked: list[Lock] = []
        self.leased: list[MfaLease] = []
        self.cluster = ClusterDefaults()
        self.age = 0.0

    def policy(self) -> Policy:
        return Policy({"access": self.role, **self.more}, self.cluster, self.age)

    def locks(self) -> Sequence[Lock]:
        return self.locked

    def leases(self, user: str, key: str, client_address: str) -> Sequence[MfaLease]:
        return [lease for lease in self.leased if lease.spec.user == user]

    def allow(self, **changes: object) -> None:
        """Changes what the role allows."""
        allow = msgspec.structs.replace(self.role.spec.allow, **changes)
        self.role = msgspec.structs.replace(self.role, spec=msgspec.structs.replace(self.role.spec, allow=allow))

    def deny(self, **changes: object) -> None:
        """Changes what the role denies."""
        deny = msgspec.structs.replace(self.role.spec.deny, **changes)
        self.role = msgspec.structs.replace(self.role, spec=msgspec.structs.replace(self.role.spec, deny=deny))

    def options(self, **changes: object) -> None:
        """Changes the role's options."""
        spec = msgspec.structs.replace(self.role.spec, options=Options(**changes))  # type: ignore[arg-type]
        self.role = msgspec.structs.replace(self.role, spec=spec)


class LabDirectory:
    """The registered nodes."""

    def __init__(self) -> None:
        self.registered: list[RegisteredNode] = []
        self.hidden: set[str] = set()
        self.forbidden: AccessDenial | None = None  # of everybody, from now on
        self.rules: LabRules | None = None  # by which a second factor is due

    def nodes(self) -> Iterable[RegisteredNode]:
        return self.registered

    def why_no_session(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        return self.forbidden or certificate_denial(
            identity, cluster=identity.cluster, now=SystemClock().now(), client_address=client_address
        )

    def second_factor_due(
        self, identity: UserIdentity, node: RegisteredNode, key: str, client_address: str
    ) -> AccessDenial | None:
        if self.rules is None:
            return None
        request = SSHAccessRequest(
            identity=identity,
            login="",
            cluster=identity.cluster,
            now=SystemClock().now(),
            node_id=node.host_id,
            node_hostname=node.hostname,
            client_address=client_address,
            key=key,
            vouched=True,
            leases=self.rules.leases(identity.name, key, client_address),
        )
        return why_second_factor_due(request, self.rules.policy())

    def why_hidden(self, identity: UserIdentity, node: RegisteredNode) -> tuple[str, ...]:
        return ("no role reaches it",) if node.host_id in self.hidden else ()

    def most_recent(self) -> bool:
        return False


class LabLeases:
    """Leases as auth would make them, for the one code there is (`proxy.needs.Leases`)."""

    def __init__(self, rules: LabRules) -> None:
        self._rules = rules
        self.asked: list[str] = []  # codes that came
        self.link = ""  # where a hardware key would approve
        self.approve: MfaLease | None = None  # what it gives when somebody says that they did
        self.hold_back = False  # what is made stays out of view

    def lifetime(self, identity: UserIdentity, key: str, client_address: str) -> timedelta | None:
        return lease_lifetime(
            identity,
            self._rules.policy(),
            key=key,
            client_address=client_address,
            leases=self._rules.leases(identity.name, key, client_address),
            now=SystemClock().now(),
        )

    async def ways(self, certificate: bytes, client_address: str) -> tuple[bool, str]:
        return True, self.link

    async def approved(self, identity: UserIdentity, key: str, client_address: str) -> bool:
        if self.approve is not None:
            self._rules.leased.append(self.approve)
        return self.approve is not None

    async def obtain(self, identity: UserIdentity, certificate: bytes, client_address: str, code: str) -> None:
        self.asked.append(code)
        if code != CODE:
            raise AccessDenied("the code is wrong or was used before", hint="wait for the next one")
        key, now = parse_certificate(certificate).body.public_key.fingerprint(), SystemClock().now()
        expires = now + (self.lifetime(identity, key, client_address) or timedelta(0))
        spec = MfaLeaseSpec(
            user=identity.name, key=key, client_address=client_address, device="d", granted=now, expires=expires
        )
        name = lease_name(identity.name, key, client_address)
        if not self.hold_back:
            self._rules.leased.append(MfaLease(metadata=Metadata(name=name, expires=expires), spec=spec))


class LabControl:
    """Counts connections as auth would, in memory (`transport.places.Control`)."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.held: dict[str, str] = {}  # id of the place: user
        self._changed = asyncio.Event()
        self.away = False
        self.renewed = 0

    def _there(self) -> None:
        if self.away:
            raise TeleportError("auth cannot be reached")

    async def hold(self, place: Place) -> float:
        self._there()
        if list(self.held.values()).count(place.user) >= place.most:
            raise LimitExceeded("as many connections as the roles allow")
        self.held[place.id] = place.user
        self._changed.set()
        return self.seconds

    async def wait_held(self, number: int) -> None:
        """Returns when so many places are held."""
        async with asyncio.timeout(10):
            while len(self.held) != number:
                self._changed.clear()
                await self._changed.wait()

    async def renew(self, places: Sequence[Place]) -> tuple[float, frozenset[str]]:
        self._there()
        self.renewed += 1
        return self.seconds, frozenset(place.id for place in places if place.id not in self.held)

    async def release(self, places: Sequence[Place]) -> None:
        self._there()
        for place in places:
            self.held.pop(place.id, None)
        self._changed.set()
