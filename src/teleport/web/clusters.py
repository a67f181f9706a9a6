"""The web pages about clusters that trust this one: which there are, and the way to their auth services.

Both are for users who prove themselves (`pki.web_proof`): who reaches what is nobody else's business, and strangers are
not led into networks that they cannot reach by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from aiohttp import web

from teleport.errors import AccessDenied
from teleport.pki.web_proof import HEADER
from teleport.web.bodies import reply
from teleport.web.tunnel import peer_of, relay


class OtherClusters(Protocol):
    """The clusters that trust this one."""

    def listed(self, proof: str, client_address: str) -> list[tuple[str, bool]]:
        """Those that whoever made the proof may go to, and whether each is connected. Raises `TeleportError`."""
        ...

    async def to_auth(
        self, proof: str, peer: tuple[str, int], cluster: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to that cluster's auth, for whoever made the proof. Raises `TeleportError`."""
        ...


class Site(msgspec.Struct, frozen=True):
    """A cluster, as it is listed."""

    name: str
    status: str  # online, offline


class Sites(msgspec.Struct, frozen=True):
    """All that somebody may go to."""

    sites: list[Site]


def proof_of(request: web.Request) -> str:
    """The proof that came with the request. Raises `AccessDenied`."""
    proof = request.headers.get(HEADER, "")
    if not proof:
        raise AccessDenied("other clusters are for users of this one: this request does not say whose it is")
    return proof


def list_clusters(request: web.Request, others: OtherClusters) -> web.Response:
    """Answers with the clusters that the user may go to."""
    found = others.listed(proof_of(request), peer_of(request)[0])
    return reply(Sites([Site(name, "online" if online else "offline") for name, online in found]))


async def relay_to_cluster(
    request: web.Request, others: OtherClusters, cluster: str, carried: Callable[[], None]
) -> web.StreamResponse:
    """Answers with a websocket that carries a connection to the auth service of `cluster`; `carried` is called for each
    piece."""
    proof, client = proof_of(request), peer_of(request)
    return await relay(request, lambda: others.to_auth(proof, client, cluster), carried=carried)
