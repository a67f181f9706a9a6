"""A real rsyslog that takes syslog over TLS and writes what it got to a file, one message a line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from teleport.testing.loopback import LOOPBACK, free_port
from teleport.testing.processes import wait_until

MISSING: Final = "there is no rsyslog with TLS here: apt-get install rsyslog rsyslog-openssl"
_CONFIG: Final = """\
global(
  workDirectory="{folder}"
  maxMessageSize="128k"
  defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{cert}"
  defaultNetstreamDriverKeyFile="{key}"
)
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="{auth}"{peers})
input(type="imtcp" address="{host}" port="{port}" maxFrameSize="128000")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{out}" template="raw" asyncWriting="off" flushInterval="1")
"""


def program() -> str | None:
    """Where it is, when it can speak TLS."""
    found = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    drivers = list(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so"))
    return found if drivers else None


class Rsyslog:
    """One receiver with files in a folder."""

    def __init__(self, folder: Path, *, ca: Path, cert: Path, key: Path, client: str = "") -> None:
        """With `client` it takes events from who has a certificate of that name only."""
        self.folder = folder
        self.port = free_port()
        self.out = folder / "events"
        folder.mkdir(parents=True, exist_ok=True)
        peers = f' permittedPeer="{client}"' if client else ""
        config = _CONFIG.format(
            folder=folder,
            ca=ca,
            cert=cert,
            key=key,
            host=LOOPBACK,
            port=self.port,
            out=self.out,
            auth="x509/name" if client else "anon",
            peers=peers,
        )
        (folder / "rsyslog.conf").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Rsyslog:
        return self.start()

    def __exit__(self, *about: object) -> None:
        self.kill()

    def start(self) -> Rsyslog:
        command = [program() or "", "-n", "-f", str(self.folder / "rsyslog.conf"), "-i", str(self.folder / "pid")]
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process = self._process

        def listens() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()
            return _listens(self.port)

        wait_until("rsyslog takes connections", listens)
        return self

    def kill(self) -> None:
        """As a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def messages(self) -> list[str]:
        """What it has written by now."""
        return self.out.read_text().splitlines() if self.out.exists() else []


def _listens(port: int) -> bool:
    wanted = f":{port:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[1].endswith(wanted) and row[3] == "0A" for row in rows)
