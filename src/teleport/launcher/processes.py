"""What Python lacks of Linux's process handling: subreapers, death signals, a process's descendants, titles.

A session's monitor is a *subreaper* (prctl(2)): whatever its session starts stays below it, however often it forks,
calls setsid or is orphaned. "No children left" (ECHILD) is therefore proof that nothing of the session is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    arguments = [ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)]
    if _libc.prctl(option, *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def set_subreaper(on: bool) -> None:
    """Orphaned descendants become children of this process (or no longer do)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def set_death_signal(number: int) -> None:
    """The kernel sends this process `number` when its parent ends; 0 for none. Lost at a change of credentials."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_undumpable() -> None:
    """Nobody but root may trace this process, read its memory or take its descriptors, also not its own user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_no_new_privileges() -> None:
    """Nothing that this process ever runs gains rights from the file that it is."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


_PROC_SUPER_MAGIC = 0x9FA0


def on_procfs(descriptor: int) -> bool:
    """Whether what is open lies on any procfs, wherever that is mounted (statfs(2), f_type)."""
    found = (ctypes.c_uint * 64)()  # struct statfs is shorter; f_type is its first field, and these 32 bits of it count
    if _libc.fstatfs(descriptor, found) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(found[0]) == _PROC_SUPER_MAGIC


def rename_new(old: bytes, new: bytes, old_folder: int, new_folder: int) -> None:
    """Renames, and `FileExistsError` where there is something by the new name (renameat2(2), RENAME_NOREPLACE)."""
    if _libc.renameat2(old_folder, old, new_folder, new, 1) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def clear_ambient_capabilities() -> None:
    """Capabilities that a service manager gave to an ordinary user's daemon do not pass into its sessions."""
    with contextlib.suppress(OSError):  # EINVAL: a kernel without them
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name (proc(5)): state, ppid, pgrp, session, tty, tpgid, ... ."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def foreground_group(pid: int) -> int | None:
    """The foreground process group of the terminal that controls `pid`; None without one."""
    try:
        group = int(_stat(pid)[5])
    except (OSError, IndexError, ValueError):
        return None
    return group if group > 1 else None


def children(pid: int) -> list[int]:
    """The children of `pid`, those of all its threads; best effort, as the kernel's list may miss new ones."""
    try:
        found: list[int] = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
        return found
    except FileNotFoundError:
        if os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
            return []  # `pid` is gone
    except ProcessLookupError:
        return []
    return _children_by_scan(pid)


def _children_by_scan(pid: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN: every process is looked at."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                if int(_stat(int(name))[1]) == pid:
                    found.append(int(name))
    return found


def descendants(root: int) -> list[int]:
    """All processes below `root`, parents before their children."""
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children(pid)]
        found += level
    return found


def signal_process(pid: int, number: int, *, below: int) -> None:
    """Sends a signal to a process that is still a descendant of `below`.

    Between reading /proc and sending, a number may have been given to another process: the descriptor pins the process
    first, then its ancestry is checked, then it gets the signal. A process that is gone or not ours to signal is
    passed over.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):
        descriptor = -1  # an old kernel, or no descriptor left: then by number
    try:
        ancestor = pid
        while ancestor != below:
            if ancestor <= 1:
                return
            ancestor = int(_stat(ancestor)[1])
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(pid, number)
    except (OSError, IndexError, ValueError):
        return
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def signal_descendants(root: int, *numbers: int, spare: frozenset[int] = frozenset()) -> None:
    """Sends each signal to all processes below `root`, except children named in `spare` and what is below them."""
    for child in children(root):
        if child in spare:
            continue
        for pid in (child, *descendants(child)):
            for number in numbers:
                signal_process(pid, number, below=root)


def kill_descendants(root: int, *, spare: frozenset[int] = frozenset()) -> None:
    """One round of SIGKILL. Everything is stopped first, until no new process shows up, so that none forks away."""
    seen: set[int] = set()
    for _ in range(5):
        signal_descendants(root, signal.SIGSTOP, spare=spare)
        now = {pid for child in children(root) if child not in spare for pid in (child, *descendants(child))}
        if now <= seen:
            break
        seen = now
    signal_descendants(root, signal.SIGKILL, spare=spare)


def reap() -> tuple[dict[int, int], bool]:
    """Wait statuses of the children that have ended, by pid, and whether any child is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


def close_all_but(*keep: int) -> None:
    """Closes every other descriptor, also those that an earlier, higher limit left above today's."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def set_title(title: str) -> None:
    """What `ps` shows for this process, in place of the daemon's arguments; best effort, cut to their length.

    The arguments lie in this process's own memory (proc(5), arg_start and arg_end of /proc/PID/stat).
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        with open("/proc/self/comm", "w", encoding="utf-8") as file:
            file.write(title[:15])
        fields = _stat(os.getpid())
        start, end = int(fields[45]), int(fields[46])
        with open("/proc/self/cmdline", "rb") as file:
            shown = file.read()
        if 0 < start < end and len(shown) == end - start:
            text = title.encode()[: end - start - 1]
            ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
