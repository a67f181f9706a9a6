"""Somebody who uses a cluster: a home, a password, an authenticator, and the commands `tsh` and `ssh`.

Nothing of the home of whoever runs the tests is read.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from teleport.auth.factors import passwords
from teleport.testing.processes import BIN, Ran, plain_environment, run, wait_until

if TYPE_CHECKING:
    from teleport.testing.cluster import Cluster

PASSWORD = "correct horse battery"

ON_ITS_WAY = 10.0  # seconds for which a code is good at least


class Person:
    """Somebody with a home, a password and an authenticator."""

    def __init__(self, cluster: Cluster, name: str, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.name = name
        self.home = home
        self.totp_secret = ""
        self._last_period = 0

    @property
    def environment(self) -> dict[str, str]:
        return plain_environment(self.home)

    @property
    def ssh_config(self) -> Path:
        return self.home / "ssh_config"

    def code(self) -> str:
        """A code of the authenticator that was not used yet and is good now, or as soon as there is one; and for some
        seconds more, in which it arrives."""
        oldest = int(time.time() + ON_ITS_WAY) // passwords.TOTP_PERIOD - passwords.TOTP_SKEW
        period = max(self._last_period + 1, oldest)

        def due() -> bool:
            return period <= int(time.time()) // passwords.TOTP_PERIOD + passwords.TOTP_SKEW

        wait_until("a code that is good", due, 2 * passwords.TOTP_PERIOD)
        self._last_period = period
        return passwords.totp_code(self.totp_secret, period)

    def web(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One call of the proxy's web API, over TLS that the cluster's own authority proves: status and JSON."""
        context = ssl.create_default_context(cadata=self.cluster.authority())
        with (
            socket.create_connection((self.cluster.web_host, self.cluster.web_port), 10) as raw,
            context.wrap_socket(raw, server_hostname="teleport.cluster.local") as secure,
        ):
            connection = http.client.HTTPConnection(self.cluster.public_host, self.cluster.web_port)
            connection.sock = secure
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def accept(self, url: str) -> None:
        """Follows a link as the page does."""
        token = urlsplit(url).path.rpartition("/")[2]
        _, answer = self.web("GET", f"/webapi/users/password/token/{token}")
        self.totp_secret = answer.get("totp_secret", "")
        body = {
            "token": token,
            "password": base64.b64encode(PASSWORD.encode()).decode(),
            "second_factor_token": self.code() if self.totp_secret else "",
        }
        status, said = self.web("PUT", "/webapi/users/password/token", body)
        assert status == 200, said

    def tsh_with_key(self, key: Path, *arguments: str, stdin: str = "") -> Ran:
        """`tsh` at a machine whose hardware key, a file, is plugged in."""
        command = [sys.executable, "-m", "teleport.testing.authenticator", str(key), *arguments]
        return run(*command, environment=self.environment, stdin=stdin, seconds=30.0)

    def tsh(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        return run(BIN / "tsh", *arguments, environment=self.environment, stdin=stdin, seconds=seconds)

    def log_in(self, *arguments: str) -> Ran:
        """`tsh login` with the pin, password and code on stdin; then writes what `tsh config` prints for ssh."""
        done = self.tsh(
            "login",
            f"--proxy={self.cluster.web_address}",
            f"--user={self.name}",
            f"--ca-pin={self.cluster.ca_pin()}",
            *arguments,
            stdin=f"{PASSWORD}\n{self.code() if self.totp_secret else ''}\n",
        ).ok()
        self.ssh_config.write_text(self.tsh("config").ok().stdout)
        return done

    def ssh_arguments(self, *arguments: str | Path) -> list[str]:
        """Plain ssh with the configuration that `log_in` wrote and nothing else, asking nobody."""
        options = ["-F", str(self.ssh_config), "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null"]
        return ["ssh", *options, *(str(word) for word in arguments)]

    def ssh(self, *arguments: str | Path, stdin: bytes | str = b"", seconds: float = 60.0) -> Ran:
        return run(*self.ssh_arguments(*arguments), environment=self.environment, stdin=stdin, seconds=seconds)
