"""Events of enhanced recording: what the kernel saw of a session (`reference/audit-events.md` 3, rows 4xxx)."""

from __future__ import annotations

from msgspec import field

from teleport.audit.events.base import ServerEvent


class _Seen(ServerEvent, frozen=True, kw_only=True):
    pid: int = 0  # process that did it, as the host counts
    ppid: int = 0  # its parent then
    cgroup_id: int = 0  # id of its cgroup (unified hierarchy)
    program: str = ""  # name of the program that runs in it, up to 15 characters


class SessionCommand(_Seen, frozen=True, kw_only=True, tag="session.command"):
    """A program was started in a session."""

    path: str = ""  # path of the program, as it was named to the kernel
    argv: list[str] = field(default_factory=list)  # all its arguments, the first one included
    argv_cut: bool = False  # whether arguments, or the end of one, are missing: more than 4095 bytes or 1000 arguments
    return_code: int = 0  # always 0: what could not be started has run nothing


class SessionDisk(_Seen, frozen=True, kw_only=True, tag="session.disk"):
    """A file was opened in a session, or its opening was refused. Files that do not exist are left out."""

    path: str = ""  # as the program named it; a relative one begins in its directory
    flags: int = 0  # flags of open(2)
    return_code: int = 0  # the descriptor, or the negative error number


class SessionNetwork(_Seen, frozen=True, kw_only=True, tag="session.network"):
    """A TCP connection was begun in a session."""

    src_addr: str = ""  # own address
    dst_addr: str = ""  # where to
    dst_port: int = 0  # port there
    version: int = 4  # 4 or 6, of the addresses
    action: str = "allow"  # always allow: nothing is blocked
    operation: str = "connect"  # always connect


class SessionEnhancedGap(ServerEvent, frozen=True, kw_only=True, tag="session.enhanced_gap"):
    """Something that was done in a session is not seen in full by enhanced recording."""

    reason: str = ""  # what is missing, and why
    lost: int = 0  # how many events are missing; 0 when nobody knows
