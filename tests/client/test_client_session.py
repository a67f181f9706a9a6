"""What tsh does about connections that are lost before anything was asked of the host."""

from __future__ import annotations

import asyncio

import pytest

from teleport.client import session
from teleport.errors import AccessDenied, ConnectionLost, ConnectionProblem
from teleport.ssh.client import connect
from teleport.ssh.client_connection import ClientKey
from teleport.testing.lab_certificates import Authorities


class Closing:
    """Accepts connections and closes them, after some bytes; counts them."""

    def __init__(self, says: bytes = b"") -> None:
        self.says = says
        self.count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        writer.write(self.says)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-Teleport\r\n"], ids=["at once", "after the version"])
async def test_a_connection_that_ends_without_a_word_is_lost_and_made_anew_some_times(
    says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "AGAIN", (0.001, 0.001))
    user = Authorities().user(["root"])
    key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
    closing = Closing(says)
    server = await asyncio.start_server(closing.serve, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()[:2]
        with pytest.raises(ConnectionLost):
            await session._unless_lost(lambda: connect(address, login="root", key=key, check=lambda _: None))
    assert closing.count == 3


@pytest.mark.parametrize("error", [AccessDenied("no"), ConnectionProblem("it is not there")])
async def test_an_answer_is_not_asked_for_again(error: Exception) -> None:
    asked = []

    async def refused() -> None:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        await session._unless_lost(refused)
    assert len(asked) == 1


async def test_nothing_listens_is_an_answer() -> None:
    user = Authorities().user(["root"])
    key = ClientKey(user.key.openssh_pem().reveal(), user.certificate.line())
    server = await asyncio.start_server(Closing().serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionProblem) as caught:
        await connect(address, login="root", key=key, check=lambda _: None)
    assert not isinstance(caught.value, ConnectionLost)
