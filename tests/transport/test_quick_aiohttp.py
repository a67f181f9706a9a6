"""What a quick import of aiohttp leaves behind."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ssl
real = ssl.SSLContext.set_default_verify_paths
import teleport.transport.quick_aiohttp
assert ssl.SSLContext.set_default_verify_paths is real
from aiohttp import connector
verified = connector._SSL_CONTEXT_VERIFIED
assert verified.verify_mode == ssl.CERT_REQUIRED and verified.check_hostname
assert verified.cert_store_stats() == {"x509": 0, "crl": 0, "x509_ca": 0}
assert verified.get_ca_certs() == []
"""


def test_a_client_without_a_context_of_its_own_trusts_nobody() -> None:
    """And contexts made later are not touched."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
