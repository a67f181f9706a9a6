"""Debian's pebble: an ACME directory for tests (RFC 8555), which looks at names on a port of this machine."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from teleport.testing.loopback import free_port
from teleport.testing.processes import wait_until
from teleport.testing.public_authority import PublicAuthority

PROGRAMS = ("pebble", "pebble-challtestsrv")


@dataclass
class Directory:
    """`uri` is asked for certificates; `trust` is a file with the root of its own HTTPS certificate."""

    uri: str
    trust: Path
    management: str
    log_file: Path

    def get(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.trust))
        with urllib.request.urlopen(self.management + path, context=context, timeout=20) as answer:
            found: bytes = answer.read()
        return found

    @property
    def root(self) -> bytes:
        """Of what it issues, PEM."""
        return self.get("/roots/0")

    def log(self) -> str:
        return self.log_file.read_text()


def why_no_directory() -> str:
    """Which program is missing; empty when none is."""
    return ", ".join(one for one in PROGRAMS if shutil.which(one) is None)


@contextmanager
def directory(
    folder: Path, look_at: int, *, life: int = 0, port: int = 0, addresses: str = "127.0.0.1"
) -> Iterator[Directory]:
    """Runs one that looks at port `look_at`, and issues certificates that live `life` seconds (0: its usual 5 years).
    Every name leads to `addresses`. It refuses one nonce of twenty, as pebble does."""
    folder.mkdir(parents=True, exist_ok=True)
    trust, listen, manage, dns, http, control = (
        folder / "trust.pem",
        port or free_port(),
        *(free_port() for _ in range(4)),
    )
    if not trust.exists():
        authority = PublicAuthority("Directory")
        chain, key = authority.issue("localhost", "127.0.0.1").write(folder, "pebble")
        trust.write_bytes(authority.root)
    chain, key = folder / "pebble.crt", folder / "pebble.key"
    config = {
        "listenAddress": f"127.0.0.1:{listen}",
        "managementListenAddress": f"127.0.0.1:{manage}",
        "certificate": str(chain),
        "privateKey": str(key),
        "httpPort": http,
        "tlsPort": look_at,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "retryAfter": {"authz": 1, "order": 1},
        **({"certificateValidityPeriod": life} if life else {}),
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    resolver = [
        *("pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{dns}"),
        *("-management", f"127.0.0.1:{control}", "-defaultIPv6", "", "-defaultIPv4", addresses),
    ]
    program = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1"}
    log_file = folder / "pebble.log"
    made = Directory(f"https://localhost:{listen}/dir", trust, f"https://localhost:{manage}", log_file)
    with log_file.open("ab") as log:
        running = [
            subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            for words in (resolver, program)
        ]
    try:
        wait_until("the directory answers", lambda: all(one.poll() is None for one in running) and _answers(made), 30)
        yield made
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait(10)


def _answers(made: Directory) -> bool:
    try:
        return bool(made.root)
    except OSError:
        return False
