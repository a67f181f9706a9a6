"""The pages about other clusters: nothing without a proof, nothing for browsers, and a pipe for whoever may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.web.web_rig import running_web

from teleport.errors import AccessDenied, ConnectionProblem, NotFound
from teleport.pki.web_proof import HEADER

SITES, TUNNEL = "/webapi/sites", "/webapi/auth/tunnel?cluster=leaf"


class NoAuth:
    """Auth is not asked here."""

    async def call(self, route: Any, request: Any) -> Any:
        raise AssertionError("auth is not to be asked")


class Others:
    """One cluster, for whoever says `good`."""

    def __init__(self) -> None:
        self.peers: list[tuple[str, int]] = []

    def listed(self, proof: str, client_address: str) -> list[tuple[str, bool]]:
        if proof != "good":
            raise AccessDenied("no")
        return [("leaf", True), ("other", False)]

    async def to_auth(
        self, proof: str, peer: tuple[str, int], cluster: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if proof != "good":
            raise AccessDenied("no")
        if cluster != "leaf":
            raise NotFound(f"the cluster {cluster} is not known here")
        self.peers.append(peer)
        raise ConnectionProblem("it is away")


async def test_a_proxy_that_leads_nowhere_says_so(tmp_path: Path) -> None:
    async with running_web(tmp_path, NoAuth(), ()) as web:
        assert (await web.ask("GET", SITES)).status == 404


@pytest.mark.parametrize("path", [SITES, TUNNEL])
async def test_strangers_and_browsers_learn_nothing(tmp_path: Path, path: str) -> None:
    async with running_web(tmp_path, NoAuth(), ()) as web:
        web.service.others = Others()
        for headers in ({}, {HEADER: "bad"}, {HEADER: "good", "Origin": "https://evil.test"}):
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
            answer = await web.ask("GET", path, headers={**upgrade, **headers} if path == TUNNEL else headers)
            assert answer.status == 403, headers


async def test_the_clusters_are_listed_for_whoever_proves_who_asks(tmp_path: Path) -> None:
    async with running_web(tmp_path, NoAuth(), ()) as web:
        web.service.others = Others()
        answer = await web.ask("GET", SITES, headers={HEADER: "good"})
        assert answer.json == {"sites": [{"name": "leaf", "status": "online"}, {"name": "other", "status": "offline"}]}
