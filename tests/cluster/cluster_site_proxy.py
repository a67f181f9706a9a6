"""The HTTP proxy of a site: tinyproxy as people run it, and a small one that knows the cluster's name.

Names of the cluster that are made here exist for these alone: what reaches the cluster by them went through.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster_packages import ENVIRONMENT, install

from teleport.testing.cluster import LOOPBACK, at, free_port, wait_until

HOME = "cluster.invalid"  # a name that nobody else resolves (RFC 6761)
WHO, SECRET = "ann", "not-4-others"


@contextmanager
def tinyproxy(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A tinyproxy that asks for a password: its host:port, and where was asked for beyond it."""
    if ":" in LOOPBACK:
        pytest.skip("tinyproxy is led on by an IPv4 address here, and tests listen on IPv6")
    if shutil.which("tinyproxy", path=ENVIRONMENT["PATH"]) is None and (why := install("tinyproxy-bin", "tinyproxy")):
        pytest.skip(why)
    with leading_home() as (upstream, asked):
        port, config = free_port(), folder / "tinyproxy.conf"
        lines = [f"Port {port}", f"Listen {LOOPBACK}", "Timeout 60", "MaxClients 50", f"BasicAuth {WHO} {SECRET}"]
        lines += [f"Upstream http {upstream.removeprefix('http://')}", "DisableViaHeader Yes", "LogLevel Critical"]
        config.write_text("\n".join(lines) + "\n")
        program = shutil.which("tinyproxy", path=ENVIRONMENT["PATH"])
        assert program is not None
        with (folder / "tinyproxy.log").open("wb") as log:
            running = subprocess.Popen([program, "-d", "-c", config], env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            wait_until("tinyproxy listens", lambda: _listens(port))
            yield at(port), asked
        finally:
            running.terminate()
            running.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextmanager
def leading_home() -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that leads every CONNECT to the loopback, and where was asked for."""
    asked: list[str] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ")[1].decode())
        far_reader, far_writer = await asyncio.open_connection(LOOPBACK, int(asked[-1].rpartition(":")[2]))
        writers.append(far_writer)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass  # either end went
            finally:
                target.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, LOOPBACK, 0), loop).result(10)

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in writers:  # a loop that stops at once would leave their sockets open
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    try:
        yield f"http://{at(server.sockets[0].getsockname()[1])}", asked
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
