"""Which live certificates still give something, judged at one moment for many of them, without looking at a host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from teleport.auth.state import ClusterState
from teleport.authz.locks import host_lock_denial, user_lock_denial
from teleport.resources.codec import from_json
from teleport.resources.lock import Lock
from teleport.resources.user import User
from teleport.store import records
from teleport.store.issued import IssuedCert
from teleport.store.records import HostRecord
from teleport.store.standing import host_counts, user_present


@dataclass(frozen=True, slots=True)
class Standing:
    """What that depends on, as it was read."""

    cluster: str
    locks: Sequence[Lock]
    users: Mapping[str, User]
    hosts: Mapping[str, HostRecord]

    @classmethod
    async def of(cls, state: ClusterState, certs: Iterable[IssuedCert]) -> Standing:
        """Enough for these certificates."""
        names = {kind: {one.subject for one in certs if one.type == kind} for kind in ("user", "host")}
        users = {name: user for name in names["user"] if (user := await state.user(name)) is not None}
        hosts = {
            host_id: found[0]
            for host_id in names["host"]
            if (found := await state.record(records.HOSTS + host_id, HostRecord)) is not None
        }
        return cls(state.cluster, await state.locks(), users, hosts)

    @classmethod
    async def of_all(cls, state: ClusterState) -> Standing:
        """Enough for every certificate there is."""
        users = [from_json(item.value) for item in await state.backend.range(records.USERS)]
        hosts = [msgspec.json.decode(item.value, type=HostRecord) for item in await state.backend.range(records.HOSTS)]
        return cls(
            state.cluster,
            await state.locks(),
            {user.name: user for user in users if isinstance(user, User)},
            {host.host_id: host for host in hosts},
        )

    def why_stopped(self, one: IssuedCert, now: datetime) -> str:
        """Why the certificate gives nothing at `now`, to whatever it is shown; empty when it does."""
        if one.type == "host":
            host = one.host(self.cluster)
            denial = host_lock_denial(host, self.locks, now)
            plain = one.factor == "administrator"  # for a sshd, which never was a host of the cluster
            if denial is None and not plain and not host_counts(host, self.hosts.get(one.subject)):
                return "the host was expelled"
        else:
            user = user_present(one.user(self.cluster), self.users.get(one.subject), now)
            if user is None:
                return "the user is gone"
            denial = user_lock_denial(user, self.locks, now)
        return "; ".join(denial.reasons) if denial is not None else ""
