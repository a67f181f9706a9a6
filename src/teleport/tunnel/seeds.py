"""Where the tunnels of a cluster end, as the web page of a configured proxy says (`protocols.md` 2.1).

The page is fetched over TLS that proves nothing: what it says is where to try, and whoever answers there still has to
prove that it is a proxy of the cluster (`agent`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import aiohttp
import msgspec

from teleport.errors import BadRequest
from teleport.transport.blocking import shown_address
from teleport.transport.problems import said
from teleport.transport.site_proxy import for_aiohttp
from teleport.transport.tls import unproved_client_context
from teleport.tunnel.reaching import PORT, tunnel_address

log = logging.getLogger(__name__)

SECONDS: Final = 5.0  # for one page
MAX_PAGE: Final = 64 * 1024  # bytes


class _SSH(msgspec.Struct):
    public_addr: str = ""
    ssh_public_addr: str = ""
    tunnel_listen_addr: str = ""
    ssh_tunnel_public_addr: str = ""


class _Proxy(msgspec.Struct):
    ssh: _SSH = msgspec.field(default_factory=_SSH)


class _Page(msgspec.Struct):
    proxy: _Proxy = msgspec.field(default_factory=_Proxy)


def addresses_of(page: bytes, host: str) -> list[str]:
    """Where to try, in order (`protocols.md` 2.1): what the proxy at `host` advertises for tunnels; then the port of
    its tunnel listener where it advertises SSH, where it advertises the web, and at the address by which it was
    reached (a public address is often not set). Raises `ValueError` for what is no such page."""
    try:
        ssh = msgspec.json.decode(page, type=_Page).proxy.ssh
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    found = []
    with suppress(BadRequest):
        found.append(str(tunnel_address(ssh.ssh_tunnel_public_addr)))
    port = PORT
    with suppress(BadRequest):
        port = tunnel_address(ssh.tunnel_listen_addr).port
    for public in (ssh.ssh_public_addr, ssh.public_addr):
        with suppress(BadRequest):
            found.append(str(replace(tunnel_address(public), port=port)))
    found.append(shown_address(host, port))
    return list(dict.fromkeys(found))


async def tunnel_addresses(proxies: Sequence[tuple[str, int]]) -> list[str]:
    """Where the first of the configured proxies that answers says that tunnels end; nothing when none does."""
    with suppress(ConnectionRefusedError):
        return await seeds(proxies)
    return []


async def seeds(proxies: Sequence[tuple[str, int]]) -> list[str]:
    """The same for an agent, which has to know a proxy that is away from a network that is: raises
    `ConnectionRefusedError` when each of their machines said that nobody listens."""
    refused = 0
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        for host, port in proxies:
            shown = shown_address(host, port)
            try:
                async with session.get(
                    f"https://{shown}/webapi/ping",
                    ssl=unproved_client_context(),
                    allow_redirects=False,  # whoever answers proves nothing, and leads nowhere
                    **for_aiohttp(host, port),
                ) as reply:
                    page = await reply.content.read(MAX_PAGE)
                    found = addresses_of(page, host)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                log.warning("the proxy %s does not say where tunnels end: %s", shown, said(error))
                below = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
                refused += isinstance(below, ConnectionRefusedError)
                continue
            if found:
                return found
    if proxies and refused == len(proxies):
        raise ConnectionRefusedError("no configured proxy runs")
    return []
