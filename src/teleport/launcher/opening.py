"""What a session opens on its host beside its program: its account where that is made, PAM, the records of logins.

Opened by the session's monitor before it forks, in the order of `account`, `open`; taken back by `close` when the
session is over, and by `let_account_go` when nothing of it is left.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from teleport.launcher import accounts, session
from teleport.launcher.host_users import Held, HostUsers
from teleport.launcher.login_records import LoginRecords
from teleport.launcher.values import LauncherRefused, PamRequest, Reason, SpawnRequest

if TYPE_CHECKING:
    from teleport.launcher.pam import Ask, PamSession

PROMPT_SECONDS: Final = 120  # for an answer to what PAM asks
_RECORDS: Final = LoginRecords()
_HOST_USERS: Final = HostUsers()


class Opening:
    """One session's. Everything but `account` needs root and does nothing without."""

    def __init__(self) -> None:
        self.used_pam = False
        self._pam: PamSession | None = None
        self._tty: str | None = None  # that is in utmp
        self._held: Held | None = None

    def account(self, request: SpawnRequest) -> accounts.Account:
        """The account, made where it is missing and may be; `LauncherRefused` when there is none for this session."""
        if os.geteuid() == 0:
            sid = dict(request.session_env).get("SSH_SESSION_ID", "")
            self._held = _HOST_USERS.enter(request.login, request.host_user, sid)
        return accounts.find_account(request.login, now=time.time())

    def open(
        self, request: SpawnRequest, account: accounts.Account, tty: str | None, ask: Callable[[], Ask] | None
    ) -> tuple[accounts.Account, session.Opened]:
        """PAM, then the records; the account with the groups that modules gave it, and what the child gets.

        `ask` shows the terminal to the client and gives what asks there; None where nobody can be asked.
        """
        opened = session.Opened()
        if request.pam is not None:
            account, opened = self._open_pam(request.pam, request.client, account, tty, ask)
        if tty is not None and os.geteuid() == 0:
            opened = self._record(account, request.client, tty, opened)
        return account, opened

    def _open_pam(
        self,
        request: PamRequest,
        client: str,
        account: accounts.Account,
        tty: str | None,
        ask: Callable[[], Ask] | None,
    ) -> tuple[accounts.Account, session.Opened]:
        from teleport.launcher import pam  # only hosts that use it load it

        if os.geteuid() != 0:
            raise LauncherRefused(Reason.NOT_PRIVILEGED, "PAM is on, and this node does not run as root")
        pam.check_variables(request.environment)
        self.used_pam = True
        os.setgroups(account.groups)  # modules add to them
        former = os.umask(0o022)
        asking = ask() if request.auth and ask is not None else pam.nobody_to_ask
        self._pam = pam.PamSession(request, user=account.name, tty=tty, host=client, ask=asking)
        self._pam.open()
        mask = os.umask(former)
        account = replace(account, groups=tuple(os.getgroups()))
        return account, session.Opened(self._pam.environment(), mask, self._pam.said, motd=False)

    def _record(self, account: accounts.Account, client: str, tty: str, opened: session.Opened) -> session.Opened:
        last = _RECORDS.log_in(account.name, account.uid, tty, client, os.getpid(), time.time())
        self._tty = tty
        if last is None:
            return opened
        when = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(last.seconds))
        place = f" from {last.host}" if last.host else ""
        return replace(opened, greeting=f"{opened.greeting}Last login: {when}{place}\n")

    def close(self) -> None:
        """Takes back what was opened for the session as a whole. Idempotent."""
        if self._tty is not None:
            tty, self._tty = self._tty, None
            _RECORDS.log_out(tty, os.getpid(), time.time())
        if self._pam is not None:
            closing, self._pam = self._pam, None
            closing.close()

    def let_account_go(self) -> None:
        """Nothing of the session is left: an account that was made for sessions may go."""
        if self._held is not None:
            held, self._held = self._held, None
            with contextlib.suppress(LauncherRefused, OSError):
                _HOST_USERS.leave(held)


def ask_at(terminal: int, others: tuple[int, ...], prompt: str, shown: bool) -> str | None:
    """Asks at a terminal: a line of up to 1024 bytes. None when nobody answers, or when one of `others` has something
    to say meanwhile: the daemon or the launcher, and it can only be that the session is to end."""
    former = termios.tcgetattr(terminal)
    attributes = termios.tcgetattr(terminal)
    attributes[3] = (attributes[3] | termios.ICANON | termios.ISIG) & ~termios.ECHO
    if shown:
        attributes[3] |= termios.ECHO
    termios.tcsetattr(terminal, termios.TCSAFLUSH, attributes)
    try:
        os.write(terminal, os.fsencode(prompt))
        poll = select.poll()
        for descriptor in (terminal, *others):
            poll.register(descriptor, select.POLLIN)
        ready = dict(poll.poll(1000 * PROMPT_SECONDS))
        if terminal not in ready or len(ready) > 1:
            return None
        line = os.read(terminal, 1024)
        if not shown:
            os.write(terminal, b"\n")
        return os.fsdecode(line).removesuffix("\n") if line else None
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, former)
