"""What `tsh ls` asks of auth: every page of the nodes that a user may see, over one connection, unread."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from bench.programs import BenchmarkFailed
from teleport.api import messages as m
from teleport.api.codec import encode_call
from teleport.api.routes import LIST
from teleport.pki.x509cert import auth_server_name
from teleport.transport.tls import cluster_client_context


@dataclass(frozen=True, slots=True)
class Listed:
    """`seconds` from the first request to the last byte of the last page, `bytes` of the bodies."""

    nodes: int
    pages: int
    seconds: float
    bytes: int


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next_key: str = ""


def listed(port: int, cluster: str, ca_certs: list[str], certificate: Path, key: Path) -> Listed:
    """Raises `BenchmarkFailed`."""
    return asyncio.run(_listed(port, cluster, ca_certs, certificate, key))


async def _listed(port: int, cluster: str, ca_certs: list[str], certificate: Path, key: Path) -> Listed:
    context = cluster_client_context(ca_certs, certificate, key)
    nodes = pages = size = 0
    seconds, start = 0.0, ""
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", auto_decompress=False) as session:
        while True:
            call = encode_call(LIST["node"], m.ListRequest(start_key=start))
            began = time.perf_counter()
            async with session.request(
                call.method, call.target, data=call.body or None, ssl=context, server_hostname=auth_server_name(cluster)
            ) as reply:
                body = await reply.read()
            if pages:  # the first one pays for the connection, and is asked for twice
                seconds += time.perf_counter() - began
            if reply.status != 200:
                raise BenchmarkFailed(f"auth lists no nodes: {reply.status} {body[:300]!r}")
            pages += 1
            if pages == 1:
                continue
            page = msgspec.json.decode(body, type=_Page)
            nodes, size, start = nodes + len(page.items), size + len(body), page.next_key
            if not start:
                return Listed(nodes, pages - 1, seconds, size)
