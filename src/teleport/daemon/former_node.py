"""How the newer process of a host reaches sessions that an older one, which it replaced, runs to their end.

Each process with a node listens on a Unix socket of its own, named by its epoch, in a folder that only this host's
administrator enters. Who comes by it is asked for the same vouch, certificate and permit as anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from teleport.daemon.host import Host
from teleport.errors import ConnectionProblem

log = logging.getLogger(__name__)

HERE: Final = ("127.0.0.1", 0)  # where such a connection comes from, unless the line before it says otherwise
SECONDS: Final = 5.0  # for an older process to take a connection
Accepted = Callable[[asyncio.Transport, tuple[str, int]], None]


def _folder(host: Host) -> Path:
    return host.data_dir / "nodes"


def former_nodes(host: Host) -> list[Path]:
    """The sockets of this host's other processes, the newest first."""
    found = {int(path.name): path for path in _folder(host).glob("*") if path.name.isdecimal()}
    return [path for epoch, path in sorted(found.items(), reverse=True) if epoch != host.epoch]


@asynccontextmanager
async def found_by_successors(host: Host, accepted: Accepted) -> AsyncIterator[None]:
    """While the block runs connections by this process's own socket are taken. A host whose data_dir has too long a
    name has none: after it was replaced, nobody comes back to its sessions."""
    folder = _folder(host)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # whoever restored or copied it: no other user of the host connects
    path = folder / str(host.epoch)
    _remove(path)

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            accepted(transport, HERE)

    try:
        server = await asyncio.get_running_loop().create_unix_server(Taken, path)
    except OSError as error:
        log.warning("no socket for successors at %s: %s", path, error)
        yield
        return
    try:
        yield
    finally:
        server.close()
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


async def connect_former(path: Path, line: bytes, protocol: asyncio.Protocol) -> None:
    """Connects `protocol` with the older process that listens there; `line` goes first. Raises `ConnectionProblem`."""

    class First(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(line)
            transport.set_protocol(protocol)
            protocol.connection_made(transport)

    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().create_unix_connection(First, str(path))
    except ConnectionRefusedError as error:  # it was killed
        _remove(path)
        raise ConnectionProblem("That process of this host is gone.", hint="open a new session") from error
    except OSError as error:
        raise ConnectionProblem(f"{path} cannot be reached: {error}", hint="try again") from error
