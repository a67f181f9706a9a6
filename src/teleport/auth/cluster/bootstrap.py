"""The first start: authorities, presets, configuration, in one transaction; later starts: only what is missing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from teleport.audit.events import AuthorityCreate, RoleCreated
from teleport.auth.cluster.settings import Settings
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, PutOp, Write
from teleport.errors import CompareFailed, TeleportError
from teleport.pki.trust import AuthorityKind
from teleport.resources.cluster import ClusterName, ClusterNameSpec, Singleton
from teleport.resources.codec import to_json
from teleport.resources.presets import preset_roles
from teleport.store import records

if TYPE_CHECKING:
    from teleport.auth.cluster.from_file import Given


_TRIES = 8  # at presets, which other auth servers make, too


class MadeElsewhere(TeleportError):
    """Another auth server made the cluster at this moment: look at it, and start as a later one."""


async def bootstrap(state: ClusterState, settings: Sequence[Singleton], given: Given | None = None) -> bool:
    """Makes what a cluster cannot be without; whether this was the first start.

    `settings` are the cluster's configuration resources that the file decides; `given` is what a new cluster is made
    with (`--bootstrap`).
    Presets are made when missing and never overwritten. Two daemons starting at once make one cluster: to the other
    one this raises `MadeElsewhere`.
    """
    now = state.clock.now()
    first = await state.backend.get(records.CLUSTER + "cluster-name") is None
    if first:
        name = ClusterName(spec=ClusterNameSpec(cluster_name=state.cluster, cluster_id=str(uuid.uuid4()), created=now))
        if given is not None:
            from teleport.auth.cluster import from_file

            with _first():
                await from_file.store(state, given)
        brought = list(given.authorities) if given is not None else []
        own = {str(one.type) for one in brought if one.spec.cluster_name == state.cluster}
        lacking = [kind for kind in AuthorityKind if kind.value not in own]
        made = brought + await asyncio.to_thread(
            lambda: [state.keys.make(kind, state.cluster, now) for kind in lacking]
        )
        writes: list[Write] = [PutOp(records.CLUSTER + "cluster-name", to_json(name))]
        writes += [
            PutOp(records.authority_key(one.type, one.spec.cluster_name), to_json(one, with_secrets=True))
            for one in made
        ]
        events = [
            state.event(
                AuthorityCreate,
                name=authority.spec.cluster_name,
                authority=str(authority.type),
                updated_by="teleport start --bootstrap" if authority in brought else "teleport start",
            )
            for authority in made
        ]
        with _first():
            await state.commit(writes, events=events, conditions=[Absent(records.CLUSTER + "cluster-name")])
    await _openssh_authority(state)
    await _presets(state)
    await Settings(state).merge(settings)
    return first


@contextmanager
def _first() -> Iterator[None]:
    try:
        yield
    except CompareFailed:
        raise MadeElsewhere("another auth server has made the cluster at this moment", hint="start again") from None


async def _presets(state: ClusterState) -> None:
    """Makes the preset roles that are missing."""
    for attempt in range(1, _TRIES + 1):
        missing = [
            role
            for role in preset_roles(str(uuid.uuid4()))
            if await state.backend.get(records.ROLES + role.name) is None
        ]
        if not missing:
            return
        try:
            await state.commit(
                [PutOp(records.ROLES + role.name, to_json(role)) for role in missing],
                events=[state.event(RoleCreated, name=role.name, updated_by="teleport start") for role in missing],
                conditions=[Absent(records.ROLES + role.name) for role in missing],
            )
        except CompareFailed:  # another auth server makes them, too
            if attempt == _TRIES:
                raise


async def _openssh_authority(state: ClusterState) -> None:
    """Makes the authority of hosts with a plain sshd in a cluster that is older than it."""
    key = records.authority_key(AuthorityKind.OPENSSH, state.cluster)
    if await state.backend.get(key) is not None:
        return
    made = await asyncio.to_thread(state.keys.make, AuthorityKind.OPENSSH, state.cluster, state.clock.now())
    event = state.event(AuthorityCreate, name=state.cluster, authority=str(made.type), updated_by="teleport start")
    with suppress(CompareFailed):  # another auth server made it at this moment
        await state.commit([PutOp(key, to_json(made, with_secrets=True))], events=[event], conditions=[Absent(key)])
