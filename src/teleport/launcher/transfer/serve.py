"""Where a process that moves files begins and ends. It runs after every privilege was dropped, in place of an exec."""

from __future__ import annotations

import os
import signal
import types
from typing import NoReturn

from teleport.launcher import processes
from teleport.launcher.accounts import Account
from teleport.launcher.transfer import rsync, sftp
from teleport.launcher.transfer.control import Control, Ended, say
from teleport.launcher.transfer.scp_sink import Sink
from teleport.launcher.transfer.scp_source import Source
from teleport.launcher.values import Kind, Transfer


def serve(account: Account, kind: Kind, transfer: Transfer, control: int, report: int) -> NoReturn:
    """Moves files until the client, or the daemon, has had enough; never returns.

    `report` is closed once nothing can fail any more that would refuse the session.
    """
    # Its user may neither read this process's memory nor stop it: what it tells the daemon has to be true.
    processes.set_undumpable()
    signal.set_wakeup_fd(-1)  # the monitor's, which was closed: its number may be a file's by now
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = Control(control, transfer)
    start = os.path.realpath(".")
    status = 1
    try:
        os.close(report)  # from here on the daemon knows of this process, and answers
        # Of the account, not where this starts: what cannot be entered must not make `~` of rules stand for `/`.
        channel.home(os.path.realpath(account.home))
        if kind is Kind.RSYNC:
            os._exit(rsync.run(account, transfer, channel, start))  # it returns only when there is no rsync to become
        processes.set_no_new_privileges()
        processes.set_title(f"teleport: {kind} of {account.name}")
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end)
        server = _server(channel, kind, transfer, start)
        try:
            status = server.run()
        except Ended:
            status = 255
        finally:
            _ending.append(0)  # no signal cuts short what is left to tell
            server.close()
    except Ended:
        status = 255
    except BaseException as error:
        if not isinstance(error, SystemExit):
            say(f"The file transfer failed on the node: {error!r}")
        status = 255
    finally:
        os._exit(status)


def _server(control: Control, kind: Kind, transfer: Transfer, home: str) -> sftp.Server | Sink | Source:
    if kind is Kind.SFTP:
        return sftp.Server(control, home)
    return Sink(control, transfer, home) if transfer.sink else Source(control, transfer, home)


_ending: list[int] = []


def _end(number: int, frame: types.FrameType | None) -> None:
    if not _ending:
        _ending.append(number)
        raise Ended
