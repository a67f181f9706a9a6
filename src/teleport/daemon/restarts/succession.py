"""What signals ask of a running daemon (`operations.md` 1), and which of two processes of one host does what.

    SERVING ──USR2, HUP──► a child is starting ──fails──► SERVING
       ▲                        │ ready
       │                        ├─ USR2: BESIDE (both accept; the child speaks for the host)
       │◄── the child ends ─────┘        │ QUIT
       │                        ├─ HUP ──┴──► LEAVING to the child ──clients have left──► ends
       │◄── the child dies ─────────────────────┘
       └─ QUIT: LEAVING alone ──clients have left──► ends

Requests are taken one after another; TERM and INT do not come here, they end the daemon in any state. A HUP that comes
while a child starts for another, or to a process that leaves, goes on to the child, which may have read the
configuration before it was changed. A child that dies while its parent leaves does not leave nobody serving: the
parent, which still has the sockets, takes up again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from teleport.audit import spool
from teleport.daemon import dump
from teleport.daemon.announce import Announcer
from teleport.daemon.host import Host, last_epoch, write_private
from teleport.daemon.restarts.child import Child, own_command, start_child
from teleport.daemon.restarts.handover import Inherited
from teleport.daemon.restarts.leaving import Doors, hand_over, leave_alone
from teleport.daemon.restarts.supervisor import Supervisor
from teleport.daemon.sockets import Sockets
from teleport.errors import TeleportError

log = logging.getLogger(__name__)

LEAVES_WITHIN: Final = 2.0  # seconds


class Request(StrEnum):
    """What a signal asks."""

    DUMP = "dump"  # USR1
    CHILD = "child"  # USR2
    REPLACE = "replace"  # HUP
    LEAVE = "leave"  # QUIT
    CHILD_ENDED = "child ended"  # asked by this module of itself


class Succession:
    """Serves requests in a task; knows the child and the parent."""

    def __init__(
        self,
        host: Host,
        sockets: Sockets,
        doors: Doors,
        announcers: Mapping[str, Announcer],
        pid_file: Path | None,
        inherited: Inherited | None,
        stop: asyncio.Event,
        facts: Callable[[], Mapping[str, str]],
        gone: Callable[[], None],
        supervisor: Supervisor,
    ) -> None:
        """`gone` is called when a child or the parent has ended: it may have left recordings."""
        self._gone = gone
        self._supervisor = supervisor
        self._host = host
        self._sockets = sockets
        self._doors = doors
        self._announcers = announcers
        self._pid_file = pid_file
        self._inherited = inherited
        self._stop = stop
        self._facts = facts
        self._command = own_command()
        self._child: Child | None = None
        self._parent = -1  # pidfd, while it lives
        self._parentless = asyncio.Event()
        self._guard = -1  # while it is open, the child knows that this process serves
        self._leaving: asyncio.Task[None] | None = None
        self._parent_follows = False
        self._requests: asyncio.Queue[Request] = asyncio.Queue()

    @property
    def superseded(self) -> bool:
        """Whether a newer process speaks for this host."""
        return self._child is not None and self._child.alive

    # the life of this process

    def begin(self) -> None:
        """Every service takes connections: signals and the pid file are this process's, and a parent may leave."""
        self._claim()
        if self._inherited is not None:
            self._watch_parent()
            self._inherited.tell_ready()
        else:
            self._supervisor.ready(self._serving())

    async def run(self, requests: asyncio.Queue[Request]) -> None:
        """Serves requests until cancelled."""
        self._requests = requests
        try:
            while True:
                try:
                    await self._serve(await requests.get())
                except (TeleportError, OSError) as error:
                    log.error("%s", error)
        finally:
            if self._leaving is not None:
                self._leaving.cancel()
                await asyncio.gather(self._leaving, return_exceptions=True)

    def end(self) -> None:
        """This process is about to stop its services. What another one speaks for is not withdrawn."""
        self._parent_follows = self._inherited is not None and self._inherited.parent_serves()
        if self.superseded or self._parent_follows:
            for announcer in self._announcers.values():
                announcer.hush()

    def forget(self) -> None:
        """All has ended: what is left of this process outside of it goes, unless it is another one's already."""
        self._close_guard()
        self._forget_parent()
        if self._child is not None:
            if self.superseded:
                self._supervisor.goes_on(self._child.pid)
            self._child.forget()
        if self._parent_follows:
            return  # the parent writes its own over it: at no moment there is none
        with suppress(OSError):
            if self._pid_file is not None and self._pid_file.read_text().strip() == str(os.getpid()):
                self._pid_file.unlink()

    # requests

    async def _serve(self, request: Request) -> None:
        match request:
            case Request.DUMP:
                for line in dump.lines({**self._facts(), **self._own_facts()}):
                    log.warning("%s", line)
            case Request.CHILD:
                await self._start_child()
            case Request.REPLACE if self._leaving is not None and self.superseded and self._child is not None:
                self._hand_on(self._child)
            case Request.REPLACE:
                if await self._start_child():
                    self._begin_leaving()
            case Request.LEAVE:
                self._begin_leaving()
            case Request.CHILD_ENDED:
                await self._without_child()

    async def _start_child(self) -> bool:
        """Whether a new process is ready to take over."""
        if self._leaving is not None:
            log.warning("no new process is started: this one is leaving already")
            return False
        if self.superseded and self._child is not None:
            log.warning("no new process is started: pid %d is there already; QUIT leaves it to that", self._child.pid)
            return False
        # a parent that is being replaced leaves a moment after it heard that this process is ready
        if self._inherited is not None and not await self._inherited.parent_leaves(LEAVES_WITHIN):
            log.warning("no new process is started: the one that started this one still serves; QUIT that one first")
            return False
        log.info("starting a new process: %s", self._command[0])
        self._supervisor.status("a new process is starting")
        self._drop_replacements()  # the new process reads the configuration after they came
        for announcer in self._announcers.values():
            announcer.hush()
        try:
            self._child, self._guard = await start_child(
                self._command,
                self._sockets.handed(),
                self._host.lock,
                self._child_ended,
                first=self._supervisor.first,
            )
        except TeleportError as error:
            log.error("the new process failed, this one (pid %d) serves on: %s", os.getpid(), error)
            self._supervisor.status(f"{self._serving()}; the new process failed: {error}")
            self._speak()
            self._claim()  # the child may have claimed it before it failed
            return False
        except BaseException:
            self._speak()
            raise
        log.info("the new process is ready: pid %d", self._child.pid)
        self._supervisor.newest(self._child.pid)  # a child of an earlier release does not say so itself
        self._supervisor.status(f"{self._serving()}, beside pid {self._child.pid}")
        return True

    def _hand_on(self, child: Child) -> None:
        """A HUP that this process takes no more is for the new one, which may have read the configuration before it
        was changed."""
        log.info("this one is leaving already: pid %d is told SIGHUP", child.pid)
        self._drop_replacements()
        self._close_guard()  # so that the child, which may be quicker than the task that leaves, sees it
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGHUP)

    def _drop_replacements(self) -> None:
        """Of several HUPs that wait one new process comes, not as many."""
        waiting = [self._requests.get_nowait() for _ in range(self._requests.qsize())]
        for request in waiting:
            if request is not Request.REPLACE:
                self._requests.put_nowait(request)

    def _begin_leaving(self) -> None:
        if self._leaving is not None:
            log.info("leaving already")
            return
        self._leaving = asyncio.create_task(self._leave(), name="leaving")

    async def _leave(self) -> None:
        try:
            if self.superseded and self._child is not None:
                self._supervisor.status(f"pid {self._child.pid} serves; clients of pid {os.getpid()} are leaving")
                self._close_guard()
                await hand_over(self._doors)
                if self._parent >= 0:
                    # Whoever supervises this host (systemd) sees the end of its own children only. Ending in the order
                    # of age makes each process such a child first.
                    log.info("the last client has left; the process that started this one ends first")
                    await self._parentless.wait()
            else:
                self._supervisor.status("nothing new is accepted; the clients are leaving")
                for announcer in self._announcers.values():
                    await announcer.withdraw()
                await leave_alone(self._doors, self._sockets.close_one)
        except Exception:
            log.exception("leaving failed")
        log.info("the last client has left")
        self._stop.set()

    # the parent's end

    def _watch_parent(self) -> None:
        """Looks for what the parent was recording as soon as it has ended, which it may do at any time, by KILL too."""
        assert self._inherited is not None
        parent = self._inherited.parent
        with suppress(OSError):
            self._parent = os.pidfd_open(parent)
        if self._parent >= 0 and os.getppid() == parent:
            asyncio.get_running_loop().add_reader(self._parent, self._parent_ended)
        else:
            self._parent_ended()  # before this: the number may be another process's already

    def _parent_ended(self) -> None:
        self._forget_parent()
        self._parentless.set()
        log.info("the process that started this one has ended")
        if self._leaving is None:
            self._supervisor.ready(self._serving())
        self._gone()

    def _forget_parent(self) -> None:
        if self._parent >= 0:
            asyncio.get_running_loop().remove_reader(self._parent)
            os.close(self._parent)
            self._parent = -1

    # the child's end

    def _child_ended(self, child: Child) -> None:
        level = logging.INFO if child.status == 0 else logging.ERROR
        log.log(level, "the new process (pid %d) %s", child.pid, child.shown_end())
        self._requests.put_nowait(Request.CHILD_ENDED)
        self._gone()

    async def _without_child(self) -> None:
        child, self._child = self._child, None
        self._close_guard()
        if child is None or self._stop.is_set():
            return
        if self._leaving is not None:
            if child.status == 0 or await asyncio.to_thread(self._newer_lives):
                return  # it was stopped, or has handed over to another: that is no reason to begin again
            self._leaving.cancel()
            await asyncio.gather(self._leaving, return_exceptions=True)
            if self._stop.is_set():
                return
            self._leaving = None
            await self._doors.resume()
        log.warning("pid %d serves again", os.getpid())
        self._supervisor.status(f"{self._serving()} again: the new process has ended")
        self._speak()
        self._claim()

    def _newer_lives(self) -> bool:
        """Whether a process of a later epoch is there; each holds the lock of its audit spool."""
        directory = self._host.log_dir / "spool"
        for epoch in spool.epochs(directory):
            if epoch > self._host.epoch:
                held = spool.lock_epoch(spool.epoch_directory(directory, epoch))
                if held is None:
                    return True
                os.close(held)
        return False

    # who speaks for this host

    def _speak(self) -> None:
        epoch = last_epoch(self._host.data_dir)
        for announcer in self._announcers.values():
            announcer.speak(epoch)

    def _claim(self) -> None:
        """Signals and the pid file are this process's. Process 1 of a container hears of it first: whoever has read the
        file, and sends it a signal, means this one. Raises `OSError` when the file cannot be written."""
        self._supervisor.newest(os.getpid())
        if self._pid_file is not None:
            write_private(self._pid_file, f"{os.getpid()}\n", 0o644)

    def _close_guard(self) -> None:
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1

    def _serving(self) -> str:
        return f"pid {os.getpid()} serves: {self._facts()['services']}"

    def _own_facts(self) -> dict[str, str]:
        child = "none" if self._child is None else f"pid {self._child.pid}"
        state = "leaving" if self._leaving is not None else "serving"
        doors = ", ".join(f"{name} {door.open}" for name, door in self._doors.every().items())
        return {"epoch": str(self._host.epoch), "state": state, "child": child, "connections": doors}
