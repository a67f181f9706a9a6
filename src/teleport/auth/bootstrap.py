"""The first start: authorities, presets, configuration, in one transaction; later starts: only what is missing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from teleport.audit.events import AuthorityCreate, RoleCreated
from teleport.auth import records
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, PutOp, Write
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.x509cert import new_tls_authority, pem_of
from teleport.resources.authority import Authority, AuthorityType, JWTKeyPair, KeySet, SSHKeyPair, TLSKeyPair
from teleport.resources.cluster import ClusterName, ClusterNameSpec
from teleport.resources.codec import Resource, to_json
from teleport.resources.presets import preset_roles
from teleport.resources.secret import SecretText


def new_authority(kind: AuthorityType, cluster: str, now: datetime) -> Authority:
    """A fresh authority: Ed25519 for SSH, P-256 for TLS and tokens (decision 3 of the design)."""
    if kind is AuthorityType.JWT:
        pair = generate_p256()
        keys = KeySet(
            jwt=(
                JWTKeyPair(
                    public_key=pair.public.spki_pem().decode(),
                    private_key=SecretText(pair.pkcs8_pem().reveal().decode()),
                ),
            )
        )
        return Authority.new(kind, cluster, keys)
    ssh, tls = generate_ed25519(), generate_p256()
    keys = KeySet(
        ssh=(
            SSHKeyPair(
                public_key=ssh.public.line(f"{cluster}-{kind}"),
                private_key=SecretText(ssh.openssh_pem().reveal().decode()),
            ),
        ),
        tls=(
            TLSKeyPair(
                cert=pem_of(new_tls_authority(cluster, tls, now)).decode(),
                key=SecretText(tls.pkcs8_pem().reveal().decode()),
            ),
        ),
    )
    return Authority.new(kind, cluster, keys)


async def bootstrap(state: ClusterState, settings: Sequence[tuple[str, Resource]]) -> bool:
    """Makes what a cluster cannot be without; whether this was the first start.

    `settings` are the cluster's configuration resources by name, as the file says; they are stored at every start.
    Presets are made when missing and never overwritten. Two daemons starting at once make one cluster.
    """
    now = state.clock.now()
    first = await state.backend.get(records.CLUSTER + "cluster-name") is None
    if first:
        name = ClusterName(spec=ClusterNameSpec(cluster_name=state.cluster, cluster_id=str(uuid.uuid4()), created=now))
        authorities = [new_authority(kind, state.cluster, now) for kind in AuthorityType]
        writes: list[Write] = [PutOp(records.CLUSTER + "cluster-name", to_json(name))]
        writes += [
            PutOp(records.authority_key(authority.type, state.cluster), to_json(authority, with_secrets=True))
            for authority in authorities
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
    for key, resource in settings:
        value = to_json(resource)
        item = await state.backend.get(records.CLUSTER + key)
        if item is None or item.value != value:
            await state.backend.put(records.CLUSTER + key, value)
    return first
