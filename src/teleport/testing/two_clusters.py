"""Two auth services whose clusters may come to trust each other, without proxies: a leaf reaches its root directly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import Door
from teleport.clock import Clock
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.trusted_cluster import TrustedCluster, TrustedClusterSpec
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.trusting import ACCESS


@dataclass(frozen=True, slots=True)
class TwoClusters:
    """Use `two_clusters`."""

    root: RunningAuth
    leaf: RunningAuth

    async def token(self, **fields: Any) -> str:
        """A token of the root that lets another cluster trust it."""
        request = m.AddTokenRequest(**{"roles": ["trusted_cluster"], **fields})
        return str((await self.root.call(await self.root.admin(), routes.ADD_TOKEN, request)).token)

    async def document(
        self, token: str = "", role_map: Sequence[RoleMapping] = ACCESS, *, name: str = "", **fields: Any
    ) -> TrustedCluster:
        """What an operator of the leaf writes, with the pins of the root."""
        pins = await self.root.service.cluster_api.pins()
        given = {"enabled": True, "web_proxy_addr": "127.0.0.1:3080", "ca_pins": tuple(pins), **fields}
        secret = SecretText(token) if token else None
        spec = TrustedClusterSpec(role_map=tuple(role_map), token=secret, **given)
        return TrustedCluster(metadata=Metadata(name=name or self.root.cluster), spec=spec)

    async def create(self, wanted: TrustedCluster, *, force: bool = False) -> m.Done:
        """`tctl create` on the leaf; raises what it answers."""
        item = m.Document(to_json(wanted, with_secrets=True))
        reply = await self.leaf.call(
            await self.leaf.admin(), routes.STORE["trusted_cluster"], m.StoreRequest(item=item, force=force)
        )
        assert isinstance(reply, m.Done)
        return reply

    async def establish(self, role_map: Sequence[RoleMapping] = ACCESS, **fields: Any) -> TrustedCluster:
        """The trust, as operators make it."""
        wanted = await self.document(await self.token(), role_map, **fields)
        await self.create(wanted)
        return wanted

    async def exchange(self) -> str:
        """What the leaf does every minute; what went wrong, in words."""
        return await self.leaf.service.clusters.leaf.exchange("root")

    async def cut(self) -> None:
        """Nothing answers the leaf where its root is, and no exchange is under way any more."""
        self.leaf.service.clusters.reaching.door = lambda _: Door("127.0.0.1", 1, through_proxy=False)
        assert await self.exchange()


def lead_to(leaf: RunningAuth, root: RunningAuth) -> None:
    """The leaf reaches the root's auth service without a proxy."""
    leaf.service.clusters.reaching.door = lambda _: Door(*root.address, through_proxy=False)


@asynccontextmanager
async def two_clusters(
    directory: Path, *, clock: Clock | None = None, root: str = "root", leaf: str = "leaf"
) -> AsyncIterator[TwoClusters]:
    """A root and a leaf, which know nothing of each other yet."""
    clock = clock or present_clock()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running_auth(directory / "root", clock=clock, cluster=root))
        other = await stack.enter_async_context(running_auth(directory / "leaf", clock=clock, cluster=leaf))
        lead_to(other, one)
        yield TwoClusters(one, other)
