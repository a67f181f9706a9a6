"""The first start: authorities, presets, configuration, in one transaction; later starts: only what is missing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from teleport.audit.events import AuthorityCreate, RoleCreated
from teleport.auth.settings import Settings
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, PutOp, Write
from teleport.pki.trust import AuthorityKind
from teleport.resources.cluster import ClusterName, ClusterNameSpec, Singleton
from teleport.resources.codec import to_json
from teleport.resources.presets import preset_roles
from teleport.store import records


async def bootstrap(state: ClusterState, settings: Sequence[Singleton]) -> bool:
    """Makes what a cluster cannot be without; whether this was the first start.

    `settings` are the cluster's configuration resources that the file decides.
    Presets are made when missing and never overwritten. Two daemons starting at once make one cluster.
    """
    now = state.clock.now()
    first = await state.backend.get(records.CLUSTER + "cluster-name") is None
    if first:
        name = ClusterName(spec=ClusterNameSpec(cluster_name=state.cluster, cluster_id=str(uuid.uuid4()), created=now))
        authorities = await asyncio.to_thread(
            lambda: [state.keys.make(kind, state.cluster, now) for kind in AuthorityKind]
        )
        writes: list[Write] = [PutOp(records.CLUSTER + "cluster-name", to_json(name))]
        writes += [
            PutOp(records.authority_key(made.type, state.cluster), to_json(made, with_secrets=True))
            for made in authorities
        ]
        events = [
            state.event(AuthorityCreate, name=state.cluster, authority=str(authority.type), updated_by="teleport start")
            for authority in authorities
        ]
        await state.commit(writes, events=events, conditions=[Absent(records.CLUSTER + "cluster-name")])
    missing = [
        role for role in preset_roles(str(uuid.uuid4())) if await state.backend.get(records.ROLES + role.name) is None
    ]
    if missing:
        await state.commit(
            [PutOp(records.ROLES + role.name, to_json(role)) for role in missing],
            events=[state.event(RoleCreated, name=role.name, updated_by="teleport start") for role in missing],
            conditions=[Absent(records.ROLES + role.name) for role in missing],
        )
    await Settings(state).merge(settings)
    return first
