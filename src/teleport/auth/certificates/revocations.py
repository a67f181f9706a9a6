"""The OpenSSH revocation list of the cluster: which SSH certificates a plain sshd must not take any more.

What it says is what `authz` and `store.standing` say of each live certificate without looking at a host: locks on it,
its user, its roles and its second factor; a user that is gone; a host that was expelled. Locks on logins and on single
hosts cannot be said in such a list.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.auth.authorizer import Authorizer
from teleport.auth.caller import Caller
from teleport.auth.certificates.standing import Standing
from teleport.auth.state import ClusterState
from teleport.errors import AccessDenied
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.keys import PublicKey
from teleport.pki.krl import Revoked, build_krl
from teleport.resources.kinds import Kind, Verb
from teleport.store.issued import ISSUED, IssuedCert

SERIALS: Final = ("user", "host")  # authorities whose certificates are in the inventory


class Revocations:
    """The handler of `revocation_list`."""

    def __init__(self, state: ClusterState, authorizer: Authorizer) -> None:
        self._state = state
        self._authorizer = authorizer
        self._made: m.RevocationList | None = None
        self._making = asyncio.Lock()

    async def revocation_list(self, caller: Caller, request: m.RevocationListRequest) -> m.RevocationList:
        """For nodes and proxies, which keep it as a file, and for those who may list users and locks.

        After a lock every host asks: one list is made for all of them, of the revision that they have heard of.
        """
        hosts = (SystemRole.NODE, SystemRole.PROXY, SystemRole.ADMIN)
        if isinstance(caller.identity, HostIdentity) and caller.identity.role not in hosts:
            raise AccessDenied("only nodes and proxies keep a revocation list")
        for kind in (Kind.USER, Kind.LOCK):
            await self._authorizer.require(caller, Verb.LIST, kind)
        async with self._making:
            made = self._made
            if made is None or not request.at_least or made.version < request.at_least:
                made = self._made = await self._make()
            return made

    async def _make(self) -> m.RevocationList:
        version = await self._state.backend.revision()
        standing = await Standing.of_all(self._state)
        items = await self._state.backend.range(ISSUED)
        keys = {
            kind: [PublicKey.parse(line) for line in (await self._state.authority(kind)).trusted_ssh_keys]
            for kind in (*SERIALS, "openssh")
        }
        values = [item.value for item in items]
        return await asyncio.to_thread(_list, keys, values, standing, version, self._state.clock.now())


def _list(
    keys: dict[str, list[PublicKey]], values: Sequence[bytes], standing: Standing, version: int, now: datetime
) -> m.RevocationList:
    """On a thread: there may be many certificates."""
    serials: dict[str, set[int]] = {kind: set() for kind in SERIALS}
    for value in values:
        one = msgspec.json.decode(value, type=IssuedCert)
        if standing.why_stopped(one, now):
            serials[one.type].add(int(one.serial))
    locks = [lock.spec.target for lock in standing.locks if lock.in_force(now)]
    locked = {int(target.serial) for target in locks if target.serial}
    users = {target.user for target in locks if target.user}
    key_ids = {"user": users, "openssh": users}  # what proxies enter plain hosts with names its user, too
    revoked = [
        Revoked(key, sorted(serials.get(kind, set()) | locked), sorted(key_ids.get(kind, ())))
        for kind in keys
        for key in keys[kind]
    ]
    made = build_krl(revoked, version=version, made=now, comment=f"teleport cluster {standing.cluster}")
    return m.RevocationList(
        krl=base64.b64encode(made).decode(), version=version, serials=sum(map(len, serials.values())) + len(locked)
    )
