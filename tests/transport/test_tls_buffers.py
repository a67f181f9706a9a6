"""The buffers of TLS connections, which nobody can choose for one of them."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, ssl
from asyncio import sslproto
from teleport.transport import tls_buffers
tls_buffers.keep_small()
async def made():
    loop = asyncio.get_running_loop()
    return sslproto.SSLProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None, server_hostname="a")
assert len(asyncio.run(made())._ssl_buffer) == tls_buffers.BYTES
"""


def test_a_tls_connection_has_a_small_buffer() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
