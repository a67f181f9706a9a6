"""Failed connections in one line."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from teleport.transport.problems import said
from teleport.transport.tls import unproved_client_context


async def test_a_refused_connection_is_called_so() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as raised:
                await session.get(f"https://127.0.0.1:{bound.getsockname()[1]}/", ssl=unproved_client_context())
    assert said(raised.value) == "Connection refused"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "nothing came for too long"),
        (OSError("odd"), "odd"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_every_failure_has_words(error: Exception, words: str) -> None:
    assert said(error) == words
