"""Live certificates: listing them, and ending one before its time.

Ending is a lock on the serial number, so that it reaches whatever decides by locks: nodes, proxies and auth, new
connections and open ones. A certificate that was renewed has handed its rights on, so those that came of it end too,
and the record of each is written in the same transaction: a renewal that is under way fails or is seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import CertRevoked, Event, LockCreated
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.certificates.standing import Standing
from teleport.auth.sessions.opened import open_sessions
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, Condition, Exists, Item, PutOp, Write
from teleport.errors import AccessDenied, BadRequest, CompareFailed
from teleport.identity import HostIdentity, SystemRole
from teleport.resources.codec import checked, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.store import records
from teleport.store.issued import ISSUED, IssuedCert, LastUse, issued_key, last_use_key

TYPES: Final = ("user", "host")
MAX_PAGE: Final = 1000
MOST_ENDED: Final = 100  # certificates in one transaction: each a condition, of which etcd takes 128
SLACK: Final = timedelta(hours=1)  # clocks of hosts may be slow: a lock outlives its certificate by so much
_TRIES: Final = 10


class Certificates:
    """The handlers of the certificate inventory."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer

    async def page(self, caller: Caller, request: m.ListCertsRequest) -> m.CertsPage:
        """A page of live certificates. Who may list users may list theirs; hosts' need a rule for host_cert."""
        _refuse_hosts(caller)
        if request.type not in TYPES:
            raise BadRequest(f"certificates are of users or hosts, not {request.type[:64]!r}")
        kind = Kind.USER if request.type == "user" else Kind.HOST_CERT
        for verb in (Verb.LIST, Verb.READ_NO_SECRETS):
            await self._authorizer.require(caller, verb, kind)
        if not 1 <= request.limit <= MAX_PAGE:
            raise BadRequest(f"a page has 1 to {MAX_PAGE} items, not {request.limit}")
        prefix = f"{ISSUED}{request.type}/"
        start = prefix + request.start_key if request.start_key else ""
        items = await self._state.backend.range(prefix, start=start, limit=request.limit)
        found = [_record(item) for item in items]
        shown = [one for one in found if request.subject in ("", one.subject)]
        standing = await Standing.of(self._state, shown)
        return m.CertsPage(
            items=[await self._info(one, standing) for one in shown],
            next_key=found[-1].serial if len(items) == request.limit else "",
        )

    async def _info(self, one: IssuedCert, standing: Standing) -> m.CertInfo:
        found = await self._state.record(last_use_key(one.type, one.serial), LastUse)
        return m.CertInfo(
            type=one.type,
            serial=one.serial,
            subject=one.subject,
            issued=one.issued,
            expires=one.expires,
            roles=one.roles,
            system_roles=one.system_roles,
            logins=one.logins,
            names=one.names,
            key_fingerprint=one.key_fingerprint,
            addr=one.addr,
            by=one.by,
            factor=one.factor,
            mfa_device=one.mfa_device,
            source_ip=one.source_ip,
            renewed_from=one.renewed_from,
            last_use=found[0].when if found is not None else None,
            stopped=standing.why_stopped(one, self._state.clock.now()),
        )

    async def revoke(self, caller: Caller, request: m.RevokeCertRequest) -> m.RevokedCerts:
        """Ends a certificate and those that it was renewed to. One that is not in the inventory is locked alone."""
        _refuse_hosts(caller)
        target = LockTarget(serial=request.serial)
        facts = {"resource": {"kind": "lock", "spec": {"target": {"serial": request.serial}}}}
        await self._authorizer.require(caller, Verb.CREATE, Kind.LOCK, facts)
        checked(Lock(metadata=Metadata(name="new"), spec=LockSpec(target=target, message=request.message)))
        ended: m.RevokedCerts | None = None
        for _ in range(_TRIES):
            try:
                more = await self._revoke(caller, request, ended.serials if ended is not None else ())
            except CompareFailed:
                continue  # one of them was changed at this moment
            if more is None:
                assert ended is not None, "the first time there is something to end"
                return ended
            ended = more if ended is None else _together(ended, more)
            if not more.known:
                return ended
            # once more: what a renewal made between the look and the end is not among them; after the end none is made
        raise CompareFailed(
            f"the certificate {request.serial} is being renewed all the time", hint="lock its user: tctl lock --user="
        )

    async def _revoke(
        self, caller: Caller, request: m.RevokeCertRequest, done: Collection[str]
    ) -> m.RevokedCerts | None:
        """Ends what is not among `done`; None when that is all."""
        named: tuple[IssuedCert, int] | None = None
        for kind in TYPES:
            named = named or await self._state.record(issued_key(kind, request.serial), IssuedCert)
        if named is None:
            ending, conditions, live = [], list[Condition](), set[str]()
            conditions += [Absent(issued_key(kind, request.serial)) for kind in TYPES]
        else:
            family = [(one, revision) for one, revision in await self._family(named[0]) if one.serial not in done]
            if not family:
                return None
            ending, conditions = (
                [one for one, _ in family],
                [Exists(one.key, revision) for one, revision in family if revision],
            )
            live = {one.key for one, revision in family if revision}
        now = self._state.clock.now()
        locks = [self._lock(one.serial, request.message, one) for one in ending] or [
            self._lock(request.serial, request.message, None)
        ]
        writes: list[Write] = [
            PutOp(one.key, msgspec.structs.replace(one, revoked=now).encode(), one.expires)
            for one in ending
            if one.key in live
        ]
        events: list[Event] = []
        for lock in locks:
            writes.append(PutOp(records.LOCKS + lock.name, to_json(lock), lock.metadata.expires))
            target = {"serial": lock.spec.target.serial}
            events.append(self._state.event(LockCreated, caller, name=lock.name, target=target))
        serials = [lock.spec.target.serial for lock in locks]
        events.append(
            self._state.event(
                CertRevoked,
                caller,
                cert_type=named[0].type if named else "",
                subject=named[0].subject if named else "",
                serial=request.serial,
                serials=serials,
                message=request.message,
            )
        )
        await self._state.commit(writes, conditions=conditions, events=events)
        return m.RevokedCerts(
            serials=serials,
            locks=[lock.name for lock in locks],
            known=named is not None,
            subject=named[0].subject if named else "",
            type=named[0].type if named else "",
        )

    def _lock(self, serial: str, message: str, one: IssuedCert | None) -> Lock:
        end = max(one.expires, self._state.clock.now()) + SLACK if one is not None else None
        spec = LockSpec(target=LockTarget(serial=serial), message=message, expires=end)
        return Lock(metadata=Metadata(name=str(uuid.uuid4()), expires=end), spec=spec)

    async def _family(self, first: IssuedCert) -> list[tuple[IssuedCert, int]]:
        """The certificate and what came of it, again and again, with their revisions; the named one first.

        A certificate for one session ends within a minute, and the session goes on: it counts for as long as that is
        open, with the revision 0.
        """
        items = await self._state.backend.range(f"{ISSUED}{first.type}/")
        every = {one.serial: (one, item.revision) for item in items for one in [_record(item)]}
        for session in await open_sessions(self._state):
            if session.cert is not None:
                every.setdefault(session.cert.serial, (session.cert, 0))
        if first.serial not in every:
            raise CompareFailed("the certificate ended at this moment")
        chosen = renewed_from({first.serial}, [one for one, _ in every.values()])
        chosen.discard(first.serial)
        ordered = [first.serial, *sorted(chosen, key=lambda serial: every[serial][0].issued)]
        if len(ordered) > MOST_ENDED:
            raise BadRequest(
                f"{len(ordered)} certificates came of {first.serial}: too many to end one by one",
                hint=f"stop the {first.type}: tctl lock --{'user' if first.type == 'user' else 'node'}={first.subject}",
            )
        return [every[serial] for serial in ordered]


def _together(one: m.RevokedCerts, more: m.RevokedCerts) -> m.RevokedCerts:
    return msgspec.structs.replace(one, serials=[*one.serials, *more.serials], locks=[*one.locks, *more.locks])


def renewed_from(serials: Iterable[str], among: Sequence[IssuedCert]) -> set[str]:
    """`serials`, and every certificate that came of them by renewals."""
    children: dict[str, list[str]] = {}
    for one in among:
        if one.renewed_from:
            children.setdefault(one.renewed_from, []).append(one.serial)
    found, waiting = set[str](), list(serials)
    while waiting:
        serial = waiting.pop()
        if serial not in found:
            found.add(serial)
            waiting += children.get(serial, [])
    return found


def _record(item: Item) -> IssuedCert:
    return msgspec.json.decode(item.value, type=IssuedCert)


def _refuse_hosts(caller: Caller) -> None:
    if isinstance(caller.identity, HostIdentity) and caller.identity.role is not SystemRole.ADMIN:
        raise AccessDenied("hosts have no business with the certificates of others")
