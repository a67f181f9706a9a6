"""How refusals read: each sort of kubectl prints the sentence, and nobody is told to log in for what we did wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from teleport.testing.kube_lab import kube_lab

PODS = "/api/v1/namespaces/dev/pods"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io"
DISCOVERY = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList,application/json"


@pytest.mark.parametrize(
    ("line", "accept", "status", "kind"),
    [
        ("GET /api", DISCOVERY, 403, "text/plain; charset=utf-8"),
        ("GET /apis?timeout=32s", DISCOVERY, 403, "text/plain; charset=utf-8"),
        # kubectl before 1.26 takes a 403 for a cluster without any resources
        ("GET /api?timeout=32s", "application/json, */*", 400, "application/json"),
        ("GET /apis", "", 400, "application/json"),
        ("GET /version", "application/json", 403, "application/json"),
        (f"GET {PODS}", TABLE, 403, "application/json"),
        # of a watch that it asks for as a table, it reads no Status
        (f"GET {PODS}?watch=true", TABLE, 403, "text/plain; charset=utf-8"),
        (f"GET {PODS}?watch=true", "application/json", 403, "application/json"),
        (f"POST {PODS}", TABLE, 403, "application/json"),
    ],
)
async def test_a_refusal(tmp_path: Path, line: str, accept: str, status: int, kind: str) -> None:
    async with kube_lab(tmp_path) as lab, lab.connected(lab.pair(roles=("no-such-role",))) as wire:
        answer = await wire.ask(line, *([f"Accept: {accept}"] if accept else []))
        assert (answer.status, answer.headers["content-type"]) == (status, kind)
        assert b"roles" in answer.body or b"no Kubernetes cluster" in answer.body
        if kind == "application/json":
            told = json.loads(answer.body)
            assert (told["kind"], told["code"], told["status"]) == ("Status", status, "Failure")
        (event,) = await lab.events.wait_for("kube.request")
        assert getattr(event, "response_code", 0) == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [(PODS, 502), (f"{PODS}/web/log", 502), ("/api", 502), (f"{PODS}/web/proxy/login", 401)],
)
async def test_credentials_of_ours_that_the_api_server_does_not_take(tmp_path: Path, path: str, status: int) -> None:
    """The person, who can do nothing about them, is not told to log in; what a proxied program answers goes on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with (
        kube_lab(tmp_path) as lab,
        lab.odd_server(serve),
        lab.connected(lab.pair(kube_cluster="odd")) as wire,
    ):
        answer = await wire.ask(f"GET {path}")
        assert answer.status == status
        (event,) = await lab.events.wait_for("kube.request")
        assert getattr(event, "response_code", 0) == status
        if status == 502:
            assert b"The API server of odd does not take our credentials" in answer.body
            assert getattr(event, "success", True) is False
