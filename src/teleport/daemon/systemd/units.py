"""The text of each unit, from a few values. Pure: nothing is read or written here.

Auth and proxy start no process for anybody, so their unit takes everything from them that they do not need. Whatever a
unit takes from a node it takes from every session on that host, so that unit takes nothing: what a person may do there
is up to the account that they log in as.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from teleport.errors import BadRequest

DIRECTORY: Final = Path("/etc/systemd/system")
PROGRAM: Final = Path("/usr/local/bin/teleport")
USER: Final = "teleport"
FILES: Final = 65_536

_STATE: Final = Path("/var/lib")
_RUNTIME: Final = Path("/run")
# what systemd, a shell and a person read alike: no blank, quote, backslash, dollar or percent sign
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_+:@,.-]+)+")
_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


class Unit(StrEnum):
    """Which services a unit runs."""

    SERVICE = "teleport"  # auth and proxy
    NODE = "teleport-node"
    COMBINED = "combined"

    @property
    def file_name(self) -> str:
        return "teleport.service" if self is Unit.COMBINED else f"{self.value}.service"

    @property
    def config(self) -> Path:
        return Path("/etc/teleport-node.yaml" if self is Unit.NODE else "/etc/teleport.yaml")

    @property
    def data_dir(self) -> Path:
        return Path("/var/lib/teleport-node" if self is Unit.NODE else "/var/lib/teleport")

    @property
    def pid_file(self) -> Path:
        return Path(
            {Unit.SERVICE: "/run/teleport/teleport.pid", Unit.NODE: "/run/teleport-node.pid"}.get(
                self, "/run/teleport.pid"
            )
        )

    @property
    def environment(self) -> Path:
        return Path("/etc/default/teleport-node" if self is Unit.NODE else "/etc/default/teleport")


_DESCRIPTIONS: Final = {
    Unit.SERVICE: "Teleport access plane: auth and proxy",
    Unit.NODE: "Teleport access plane: sessions on this host",
    Unit.COMBINED: "Teleport access plane",
}

# Nothing in here is needed to serve certificates, to keep a database and to pass bytes between connections.
_CLOSED: Final = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
""".splitlines()


@dataclass(frozen=True, slots=True)
class Values:
    """What differs between hosts. None stands for what the unit usually has."""

    unit: Unit
    program: Path = PROGRAM
    config: Path | None = None
    data_dir: Path | None = None
    pid_file: Path | None = None
    environment: Path | None = None
    files: int = FILES
    user: str = USER
    low_ports: bool = False  # below 1024, for a daemon that is not root

    def __post_init__(self) -> None:
        for name in ("program", "config", "data_dir", "pid_file", "environment"):
            path = getattr(self, name)
            if path is not None and (not _PATH.fullmatch(str(path)) or ".." in path.parts):
                raise BadRequest(
                    f"{str(path)!r} cannot stand in a unit",
                    hint="an absolute path of letters, digits and the signs _ + : @ , . -",
                )
        if not _NAME.fullmatch(self.user) or self.user == "root":
            raise BadRequest(
                f"{self.user!r} is no user for auth and proxy",
                hint=f"an account of its own that is not root, as {USER}; --unit={Unit.COMBINED} runs as root",
            )
        if self.unit is not Unit.SERVICE and (self.low_ports or self.user != USER or self.data_dir is not None):
            raise BadRequest(
                f"--low-ports, --user and --data-dir concern --unit={Unit.SERVICE}, which is not root",
                hint="leave them out: root may use any port and directory",
            )


def unit_text(values: Values) -> str:
    """The whole unit file."""
    return "\n".join(_lines(values)) + "\n"


def _lines(values: Values) -> Iterator[str]:
    unit = values.unit
    pid_file = values.pid_file or unit.pid_file
    yield f"# {unit.file_name}, as `teleport install systemd --unit={unit}` prints it."
    yield f"# Changes belong in a file beside it: systemctl edit {unit.file_name.removesuffix('.service')}"
    yield "[Unit]"
    yield f"Description={_DESCRIPTIONS[unit]}"
    yield "Wants=network-online.target"
    yield "After=network-online.target"
    yield "StartLimitIntervalSec=0"
    yield ""
    yield "[Service]"
    yield "Type=notify"
    yield "NotifyAccess=main"
    yield f"EnvironmentFile=-{values.environment or unit.environment}"
    yield f"ExecStart={values.program} start --config={values.config or unit.config} --pid-file={pid_file}"
    yield f"""ExecReload=/bin/sh -c 'kill -HUP "$$(cat {pid_file})"'"""
    yield f"PIDFile={pid_file}"
    yield "KillMode=control-group"
    yield "Restart=always"
    yield "RestartPreventExitStatus=0 78"
    yield "RestartSec=2"
    yield "TimeoutStartSec=180"
    yield f"LimitNOFILE={values.files}"
    yield "OOMPolicy=continue"
    if unit is Unit.SERVICE:
        yield from _as_user(values, pid_file)
    else:
        yield "TasksMax=infinity"
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _as_user(values: Values, pid_file: Path) -> Iterator[str]:
    yield ""
    yield f"User={values.user}"
    yield f"Group={values.user}"
    data_dir = values.data_dir or values.unit.data_dir
    if _STATE in data_dir.parents:
        yield f"StateDirectory={data_dir.relative_to(_STATE)}"
        yield "StateDirectoryMode=0700"
    else:
        yield f"ReadWritePaths={data_dir}"
    if pid_file.parent != _RUNTIME and _RUNTIME in pid_file.parents:
        yield f"RuntimeDirectory={pid_file.parent.relative_to(_RUNTIME)}"
    else:
        raise BadRequest(
            f"the user {values.user} cannot keep {pid_file}: it has no place of its own there",
            hint=f"name one in a directory below {_RUNTIME}, as {values.unit.pid_file}",
        )
    yield f"LogsDirectory={USER}"
    capability = "CAP_NET_BIND_SERVICE" if values.low_ports else ""
    yield f"CapabilityBoundingSet={capability}"
    yield f"AmbientCapabilities={capability}"
    yield from _CLOSED
