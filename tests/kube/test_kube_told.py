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


SAID = 'groups "developers" is forbidden: User "system:serviceaccount:t:k" cannot impersonate resource "groups"'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            json.dumps({"kind": "Status", "message": SAID}),
            f"{SAID} (an administrator of the Kubernetes cluster can let",
        ),
        (json.dumps({"kind": "Status", "message": "no\x1b[31m entry"}), "no [31m entry"),
        ("{" * 100_000, "The API server refuses to say what it has."),
        ("[]", "The API server refuses to say what it has."),
        ("", "The API server refuses to say what it has."),
    ],
)
async def test_an_api_server_that_refuses_to_say_what_it_has(tmp_path: Path, body: str, told: str) -> None:
    """It does so when our account may not act as the person: kubectl would print the word unknown, or that there are no
    pods. Everything else that it refuses goes on as it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
            await writer.drain()

    async with kube_lab(tmp_path) as lab, lab.odd_server(serve):
        for accept, status in ((DISCOVERY, 403), ("application/json", 400)):
            async with lab.connected(lab.pair(kube_cluster="odd")) as wire:
                answer = await wire.ask("GET /api?timeout=32s", f"Accept: {accept}")
                assert answer.status == status
                assert told in (json.loads(answer.body)["message"] if status == 400 else answer.body.decode())
        async with lab.connected(lab.pair(kube_cluster="odd")) as wire:
            answer = await wire.ask(f"GET {PODS}", "Accept: application/json")
            assert (answer.status, answer.body) == (403, body.encode())
