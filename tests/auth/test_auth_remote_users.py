"""Users of a trusted cluster at the leaf's auth API: who they are there, and what of the root gets in nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import from_json, to_json
from teleport.store import records
from teleport.testing.auth import Credentials
from teleport.testing.two_clusters import TwoClusters, two_clusters


async def of_root(both: TwoClusters, name: str, roles: list[str]) -> Credentials:
    """A user of the root who talks to the leaf's auth."""
    await both.root.user(name, roles)
    key = generate_p256()
    request = m.SignUserRequest(name=name, public_key=key.public.line(), ttl=3600)
    certs = await both.root.call(await both.root.admin(), routes.SIGN_USER, request)
    return both.leaf.keep(key, certs.tls_cert)


async def enable(both: TwoClusters, enabled: bool) -> None:
    key = records.TRUSTED_CLUSTERS + "root"
    item = await both.leaf.backend.get(key)
    assert item is not None
    found: Any = from_json(item.value)
    changed = msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, enabled=enabled))
    await both.leaf.backend.put(key, to_json(changed))


async def test_a_user_of_the_root_is_who_the_role_map_says(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        alice = await of_root(both, "alice", ["access", "editor"])
        await both.establish((RoleMapping(remote="access", local=("auditor",)),))
        await both.leaf.service.believe_now()
        said = await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())
        assert (said.kind, said.name, said.roles, said.cluster) == ("user", "remote-alice-root", ["auditor"], "leaf")
        await both.leaf.call(alice, routes.LIST["node"], m.ListRequest())
        with pytest.raises(AccessDenied):
            await both.leaf.call(alice, routes.LIST["role"], m.ListRequest())
        with pytest.raises((AccessDenied, NotFound)):
            await both.leaf.call(alice, routes.RENEW_USER, m.RenewUserRequest())
        with pytest.raises((AccessDenied, NotFound)):
            await both.leaf.call(alice, routes.OWN_FACTORS, m.Empty())


async def test_nobody_of_the_root_gets_in_without_trust_without_a_mapped_role_or_as_a_host(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        alice, bob = await of_root(both, "alice", ["access"]), await of_root(both, "bob", ["auditor"])
        with pytest.raises(TeleportError):
            await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())
        await both.establish((RoleMapping(remote="access", local=("access",)),))
        await both.leaf.service.believe_now()
        assert (await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())).name == "remote-alice-root"
        with pytest.raises(AccessDenied, match="is mapped"):
            await both.leaf.call(bob, routes.WHO_AM_I, m.Empty())
        for role in (SystemRole.ADMIN, SystemRole.AUTH, SystemRole.PROXY, SystemRole.NODE):
            host = await both.root.host(role)
            with pytest.raises(TeleportError):
                await both.leaf.call(host, routes.WHO_AM_I, m.Empty())
        own = await both.leaf.user("leo", ["access"])
        with pytest.raises(TeleportError):
            await both.root.call(own, routes.WHO_AM_I, m.Empty())
        await enable(both, False)
        with pytest.raises(TeleportError):
            await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())
        await enable(both, True)
        assert (await both.leaf.call(alice, routes.WHO_AM_I, m.Empty())).roles == ["access"]


async def test_a_user_of_the_root_leads_elsewhere_only_where_a_cluster_is(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        await both.establish()
        alice = await both.root.user("alice", ["access"])
        certs = await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster="leaf"))
        assert [signer.domain_name for signer in certs.host_signers] == ["root", "leaf"]
        with pytest.raises(NotFound, match="is not known here"):
            await both.root.call(alice, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster="other"))
        lea = await both.leaf.user("lea", ["access"])
        with pytest.raises(NotFound, match="is not known here"):
            await both.leaf.call(lea, routes.RENEW_USER, m.RenewUserRequest(route_to_cluster="root"))
        certs = await both.leaf.call(lea, routes.RENEW_USER, m.RenewUserRequest())
        assert [signer.domain_name for signer in certs.host_signers] == ["leaf"], "the root's hosts are none of theirs"
