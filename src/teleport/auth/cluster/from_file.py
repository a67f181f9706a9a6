"""`teleport start --bootstrap`: what a file of resources makes of a new cluster, instead of an empty one.

The file is what `tctl get all --with-secrets` printed. Authorities in it are taken as they are, with their private
keys, so that pins and the trust in them stay; users keep password, second factors and since when they exist. Join
tokens are left out: they may have been used since.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from teleport.audit.events import Event, LockCreated, RoleCreated, UserCreate
from teleport.audit.outbox import outbox_write
from teleport.auth.factors.passkeys import known_by_passkeys
from teleport.auth.people import local_auth
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, PutOp, Write
from teleport.backend.parts import in_parts
from teleport.backup.settle import without_shown_codes
from teleport.errors import BadRequest
from teleport.resources.authority import Authority
from teleport.resources.cluster import ClusterName, Origin, Singleton, origin_of, setting_name
from teleport.resources.codec import Resource, to_json, without_secrets
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.presets import preset_roles
from teleport.resources.role import Role
from teleport.resources.token import Token
from teleport.resources.user import User, UserStatus
from teleport.store import records
from teleport.store.records import UserSecret

log = logging.getLogger(__name__)

BY: Final = "teleport start --bootstrap"
_AT_ONCE: Final = 200  # writes in one transaction


@dataclass(frozen=True, slots=True)
class Given:
    """What the file gives, checked: nothing of it contradicts itself."""

    cluster: str = ""  # of the authorities; empty when there are none
    authorities: Sequence[Authority] = ()
    roles: Sequence[Role] = ()
    users: Sequence[User] = ()
    locks: Sequence[Lock] = ()
    settings: Sequence[Singleton] = ()
    left_out: Counter[str] = field(default_factory=Counter)


def given(resources: Sequence[Resource]) -> Given:
    """Sorts what was read. Raises `BadRequest` when it cannot make a cluster."""
    authorities, roles, users, locks = list[Authority](), list[Role](), list[User](), list[Lock]()
    settings, left_out, named = list[Singleton](), Counter[str](), set[str]()
    for one in resources:
        match one:
            case Authority():
                authorities.append(one)
                if without_secrets(one) != one:  # those of other clusters have no private keys here
                    named.add(one.spec.cluster_name)
            case Role():
                roles.append(one)
            case User():
                users.append(one)
            case Lock():
                locks.append(one)
            case ClusterName():
                named.add(one.spec.cluster_name)
            case Token():
                left_out["token"] += 1
            case _ if isinstance(one, Singleton):
                if origin_of(one) is Origin.DYNAMIC:
                    settings.append(one)
            case _:
                raise BadRequest(
                    f"a {one.kind} cannot be given to a new cluster: {one.name}",
                    hint="tctl get all --with-secrets prints what can",
                )
    if len(named) > 1:
        raise BadRequest(
            f"the file is of several clusters: {', '.join(sorted(named))}",
            hint="leave the authorities of all but one out",
        )
    cluster = next(iter(named), "")
    lacking = [one for one in authorities if one.spec.cluster_name == cluster and without_secrets(one) == one]
    if lacking:
        raise BadRequest(
            f"the authority {lacking[0].type} of {cluster} comes without its private keys",
            hint="tctl get all --with-secrets prints them",
        )
    known = {role.name for role in roles} | {role.name for role in preset_roles("")}
    for user in users:
        if unknown := [role for role in user.roles if role not in known]:
            raise BadRequest(
                f"user {user.name!r}: there is no role {', '.join(map(repr, unknown))} in the file",
                hint="tctl get all prints users and roles",
            )
    return Given(cluster, authorities, roles, users, locks, settings, left_out)


async def store(state: ClusterState, given: Given) -> None:
    """Writes all but the authorities, before the cluster has its name: a start that breaks off begins again."""
    now = state.clock.now()
    told: list[tuple[list[Write], Event]] = []
    for role in given.roles:
        event = state.event(RoleCreated, name=role.name, updated_by=BY)
        told.append(([PutOp(records.ROLES + role.name, to_json(role))], event))
    for user in given.users:
        if user.expired(now):
            continue
        told.append((_user(user, now), state.event(UserCreate, name=user.name, roles=list(user.roles), updated_by=BY)))
    for lock in given.locks:
        expires = lock.metadata.expires
        if expires is None or expires > now:
            put: list[Write] = [PutOp(records.LOCKS + lock.name, to_json(lock), expires)]
            told.append((put, state.event(LockCreated, name=lock.name, updated_by=BY)))
    plain: list[Write] = [
        PutOp(records.CLUSTER + setting_name(Kind(setting.kind)), to_json(setting)) for setting in given.settings
    ]
    unnamed = [Absent(records.CLUSTER + "cluster-name")]
    await state.commit(plain, events=[], conditions=unnamed)
    groups: list[list[Write]] = [[*writes, PutOp(*outbox_write(event))] for writes, event in told]
    for part in in_parts(groups, most=_AT_ONCE):
        await state.commit(part, events=[], conditions=unnamed)
    for kind, count in given.left_out.items():
        log.info("bootstrap: %d of the kind %s are left out: they may have been used since; make new ones", count, kind)


def _user(user: User, now: datetime) -> list[Write]:
    """A user and what proves it; a lockout after failed logins holds on."""
    secret = local_auth.from_document(user.spec.local_auth) if user.spec.local_auth is not None else UserSecret()
    status = user.spec.status
    if status.is_locked and status.lock_expires is not None and status.lock_expires > now:
        secret = msgspec.structs.replace(secret, locked_until=status.lock_expires)
    spec = msgspec.structs.replace(user.spec, local_auth=None, status=UserStatus())
    return [
        PutOp(records.USERS + user.name, to_json(msgspec.structs.replace(user, spec=spec))),
        PutOp(records.USER_SECRETS + user.name, without_shown_codes(secret, now).encode()),
        *known_by_passkeys(user.name, secret),
    ]
