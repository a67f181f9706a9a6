"""`python -m bench.scale.clients CLIENTS.json`: a process of clients that connect to simulated hosts.

A connect is what `tsh ssh` does until a session could begin: SSH to the proxy with a user certificate, a channel that
the proxy's router leads to the host's tunnel, there SSH with the host's node service, whose certificate must be of the
very host that was asked for and which decides about the user. Both connections are then closed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import msgspec

from bench.scale.values import Ask, Clients, Said, descriptors, read
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, TeleportError
from teleport.pki.keys import PublicKey
from teleport.pki.sshverify import verify_host_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.ssh.client import connect
from teleport.ssh.client_connection import ClientKey

SECONDS = 30.0  # for one connect


class Connects:
    def __init__(self, told: Clients) -> None:
        self._told = told
        keys = tuple(PublicKey.parse(line) for line in told.host_authorities)
        self._authorities = [TrustedSSHAuthority(AuthorityKind.HOST, told.cluster, keys)]
        self._clock = SystemClock()
        self._key = ClientKey(told.key.encode(), told.certificate)

    async def one(self, number: int) -> float:
        """Seconds. Raises `TeleportError`."""
        name, host_id = self._told.names[number], self._told.ids[number]

        def of_proxy(certificate: bytes) -> None:
            verify_host_cert(certificate, self._authorities, self._clock.now(), hostname="localhost")

        def of_node(certificate: bytes) -> None:
            found = verify_host_cert(certificate, self._authorities, self._clock.now(), hostname=name)
            if found.host_id != host_id:
                raise AccessDenied(f"asked for {name} {host_id}, {found.host_id} answers")

        began = time.perf_counter()
        proxy = await connect(
            ("127.0.0.1", self._told.ssh), login=self._told.login, key=self._key, check=of_proxy, seconds=SECONDS
        )
        try:
            async with asyncio.timeout(SECONDS):
                node = await proxy.through(name, 0, login=self._told.login, check=of_node)
            took = time.perf_counter() - began
            node.abort()
        finally:
            proxy.abort()
        return took

    async def many(self, ask: Ask) -> Said:
        numbers = random.Random(ask.seed)
        of = ask.of or len(self._told.names)
        chosen = iter([numbers.randrange(of) for _ in range(ask.count)])
        seconds: list[float] = []
        failed: list[str] = []

        async def client() -> None:
            for number in chosen:
                try:
                    seconds.append(await self.one(number))
                except (TeleportError, TimeoutError, OSError) as error:
                    failed.append(f"{self._told.names[number]}: {type(error).__name__}: {error}")

        await asyncio.gather(*(client() for _ in range(ask.at_once)))
        return Said(seconds=seconds, failed=failed)


async def main(path: str) -> None:
    descriptors()
    connects = Connects(read(path, Clients))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said = await connects.many(msgspec.json.decode(line, type=Ask))
        sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
