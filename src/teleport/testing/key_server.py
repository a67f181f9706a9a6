"""SoftHSM's keys behind a process of another account: p11-kit's server, as docs/operations.md sets it up."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from teleport.testing.processes import alive, descendants, wait_until

_PLACES: Final = ("/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")


def _module(name: str) -> Path | None:
    return next((path for base in _PLACES if (path := Path(base) / name).exists()), None)


HOLDER: Final = _module("softhsm/libsofthsm2.so")
CLIENT: Final = _module("pkcs11/p11-kit-client.so")
WHY_NOT: Final = (
    "needs SoftHSM and p11-kit: apt-get install softhsm2 p11-kit p11-kit-modules"
    if HOLDER is None or CLIENT is None or shutil.which("p11-kit") is None or shutil.which("softhsm2-util") is None
    else ""
)


class KeyServer:
    """One token in a process of its own. As root it runs as `account` (uid, gid), whose files nobody else reads."""

    def __init__(self, folder: Path, label: str, pin: str, account: tuple[int, int] | None) -> None:
        self._account, self._label = account, label
        self.tokens, self.socket, self.log = folder / "tokens", folder / "keys", folder / "log"
        self.tokens.mkdir(mode=0o700, parents=True)
        conf = folder / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {self.tokens}\nlog.level = ERROR\n")
        if account is not None:
            for path in (folder, self.tokens):
                os.chown(path, *account)
        self._environment = {"PATH": "/usr/bin:/bin", "SOFTHSM2_CONF": str(conf), "HOME": str(folder)}
        words = ("--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", pin)
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True, **self._as_account())
        self._process: subprocess.Popen[bytes] | None = None

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {"env": self._environment}
        uid, gid = self._account
        return {"env": self._environment, "user": uid, "group": gid, "extra_groups": ()}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def address(self) -> str:
        """For P11_KIT_SERVER_ADDRESS."""
        return f"unix:path={self.socket}"

    def start(self) -> Self:
        """Returns once it can be connected to."""
        self.socket.unlink(missing_ok=True)
        words = ["p11-kit", "server", "--foreground", f"--name={self.socket}", f"--user={_own_name()}"]
        words += [f"--provider={HOLDER}", f"pkcs11:token={self._label}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, **self._as_account())
        try:
            wait_until("the process with the keys listens", self.socket.is_socket)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._process.poll()}\n{self.log.read_text()}") from None
        return self

    def kill(self) -> None:
        """It and what serves the connections that there are."""
        if self._process is None:
            return
        pids = [*descendants(self._process.pid), self._process.pid]
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        wait_until("the process with the keys is gone", lambda: not any(map(alive, pids)))
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _own_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
