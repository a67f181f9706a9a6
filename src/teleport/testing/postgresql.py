"""Real PostgreSQL servers on loopback, for tests; each with files of its own, gone afterwards.

A server does not run as root: there it runs as the user that Debian's package makes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

from teleport.testing.etcd import free_ports

PATIENCE: Final = 30.0  # seconds
MISSING: Final = "there is no PostgreSQL server here: apt-get install postgresql"
SUPERUSER: Final = "postgres"
HBA: Final = "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\n"


@cache
def programs() -> Path | None:
    """Where the newest installed server's programs are; None when there are none that can be run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("initdb")
    if not found and named is None:
        return None
    if os.geteuid() == 0 and _account() is None:
        return None
    return found[-1].parent if found else Path(named or "").resolve().parent


class PostgresqlServer:
    """`with PostgresqlServer() as server:`; it is up then. Blocking: call it from a thread where a loop runs."""

    def __init__(self, *more: str, hba: str = HBA) -> None:
        """`more`: settings, such as `wal_level=logical`."""
        (self.port,) = free_ports(1)
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self.data = self.directory / "data"
        self._hba = hba
        self._settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.directory}",
            "fsync=off",  # the machine does not lose power
            "shared_buffers=16MB",
            "max_connections=60",
            *more,
        ]
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresqlServer:
        try:
            self.initialize()
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self.remove()

    def initialize(self) -> None:
        """Make its files, unless they are there."""
        if not self.data.exists():
            own(self.directory)
            self._run("initdb", "--no-sync", "-A", "trust", "-U", SUPERUSER, "-E", "UTF8", "-D", str(self.data))
            self.place("pg_hba.conf", self._hba.encode())

    def place(self, name: str, content: bytes) -> None:
        """A file in its data directory, which nobody else may read."""
        path = self.data / name
        path.write_bytes(content)
        path.chmod(0o600)
        own(path)

    def base_backup(self, of: PostgresqlServer, *more: str) -> None:
        """Become a copy of another server, before the start: a standby with `-R`."""
        own(self.directory)
        source = (*of._as_superuser(), "-X", "stream", "-c", "fast")
        self._run("pg_basebackup", "--no-sync", *source, *more, "-D", str(self.data))

    def start(self) -> None:
        command = [str(_programs() / "postgres"), "-D", str(self.data)]
        for setting in self._settings:
            command += ["-c", setting]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=self.directory, **_as_account()
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        ready = (str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port))
        while subprocess.run(ready).returncode:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """At once, and all its processes with it, as when its machine loses power."""
        self._stop(signal.SIGQUIT)

    def stop(self) -> None:
        """As an administrator does it who waits for nobody."""
        self._stop(signal.SIGINT)

    def restart(self) -> None:
        """Kill it and start it again with what it has on disk."""
        self.kill()
        self.start()

    def reload(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def promote(self) -> None:
        """A standby becomes a primary."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """What `psql` prints for each, as the superuser."""
        commands = [word for statement in statements for word in ("-c", statement)]
        return self._run(
            "psql",
            *("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"),
            *self._as_superuser(),
            *("-d", database),
            *commands,
        ).strip()

    def dump(self, schema: str) -> str:
        """Everything in a schema, as `restore` takes it."""
        return self._run("pg_dump", *self._as_superuser(), "-n", schema, "postgres")

    def restore(self, dumped: str) -> None:
        path = self.directory / "dump.sql"
        path.write_text(dumped)
        self._run("psql", "-X", "-q", *self._as_superuser(), "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", str(path))

    def _as_superuser(self) -> tuple[str, ...]:
        return "-h", str(self.directory), "-p", str(self.port), "-U", SUPERUSER

    def url(self, user: str = SUPERUSER, database: str = "postgres", *, port: int = 0, options: str = "") -> str:
        """A connection string without TLS."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}?sslmode=disable{options}"

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stop(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _run(self, program: str, *arguments: str) -> str:
        ran = subprocess.run(
            [str(_programs() / program), *arguments],
            capture_output=True,
            text=True,
            cwd=self.directory,
            **_as_account(),
        )
        if ran.returncode:
            raise RuntimeError(f"{program} failed: {ran.stderr[-2000:]}")
        return str(ran.stdout)


def _programs() -> Path:
    found = programs()
    if found is None:
        raise RuntimeError(MISSING)
    return found


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _as_account() -> dict[str, Any]:
    account = _account()
    if os.geteuid() != 0 or account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}


def own(directory: Path) -> None:
    """Give it to the user that servers run as."""
    account = _account()
    if os.geteuid() == 0 and account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)
