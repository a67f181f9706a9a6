"""`teleport start`: the daemon.

The order matters: the configuration is read whole, then the launcher is forked while this process has neither
threads nor a loop, and only then come the imports that bring both (decision 16). Before all that a child of a running
daemon takes what it was given, so that a failure of any kind is told to its parent.
"""

from __future__ import annotations

import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.daemon.config import Config, StartFlags
    from teleport.daemon.handover import Inherited
    from teleport.daemon.welcome import Welcome
    from teleport.launcher import LauncherEnd

# Importing makes many objects that stay, and some that go at once (the first form of each class with slots), whose room
# the next ones can have: only young objects are looked through, three or four times.
_WHILE_IMPORTING: Final = (20_000, 1_000_000, 1_000_000)
_USUAL: Final = gc.get_threshold()


@click.command()
@click.option("-d", "--debug", is_flag=True, help="Log more, to stderr.")
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("--config-string", hidden=True, default="", help="Configuration as base64 of its YAML.")
@click.option("--bootstrap", metavar="FILE", default="", help="Resources to load into an empty storage.")
@click.option("-r", "--roles", metavar="LIST", default="", help="Services to run: proxy,node,auth.")
@click.option("--pid-file", metavar="FILE", default="", help="Where to write the process id.")
@click.option("--advertise-ip", metavar="ADDRESS", default="", help="Address that others reach this host by.")
@click.option("-l", "--listen-ip", metavar="IP", default="", help="Address to bind all services to.")
@click.option("--auth-server", metavar="ADDRESS", multiple=True, help="Auth server to join; may be repeated.")
@click.option("--token", metavar="FILE", default="", help="Join token, or better the path of a file that holds it.")
@click.option("--ca-pin", metavar="PIN", multiple=True, help="sha256:... as `tctl status` prints it; may be repeated.")
@click.option("--nodename", metavar="NAME", default="", help="Name of this host in the cluster.")
@click.option("--labels", metavar="LIST", default="", help='Labels: a=b,c=[1m:"command args"].')
@click.option("--diag-addr", metavar="ADDRESS", default="", help="Serve /healthz and /readyz there.")
@click.option("--permit-user-env", is_flag=True, help="Read ~/.tsh/environment at session start.")
@click.option("--insecure", is_flag=True, help="Do not check certificates of other servers; for trials only.")
@click.option("--insecure-no-tls", is_flag=True, help="The proxy speaks plain HTTP; TLS ends at a balancer.")
@click.option("--fips", is_flag=True, help="Refused: see the message.")
def start(
    debug: bool,
    config_file: str | None,
    config_string: str,
    bootstrap: str,
    roles: str,
    pid_file: str,
    advertise_ip: str,
    listen_ip: str,
    auth_server: tuple[str, ...],
    token: str,
    ca_pin: tuple[str, ...],
    nodename: str,
    labels: str,
    diag_addr: str,
    permit_user_env: bool,
    insecure: bool,
    insecure_no_tls: bool,
    fips: bool,
) -> None:
    """Start the services of this host: auth, proxy, node, or some of them."""
    gc.set_threshold(*_WHILE_IMPORTING)
    from teleport.daemon import handover
    from teleport.daemon.config import StartFlags

    inherited = handover.take(os.environ)
    if bootstrap:
        raise BadRequest(
            "--bootstrap: this version cannot fill a new cluster from a file yet",
            hint="start without it, then: tctl create -f FILE",
        )
    flags = StartFlags(
        roles=roles,
        auth_servers=auth_server,
        token=token,
        ca_pins=ca_pin or None,
        listen_ip=listen_ip,
        nodename=nodename,
        labels=labels,
        diag_addr=diag_addr,
        pid_file=pid_file,
        advertise_ip=advertise_ip,
        insecure=insecure,
        insecure_no_tls=insecure_no_tls,
        permit_user_env=permit_user_env,
        fips=fips,
        debug=debug,
    )
    try:
        config = _configuration(config_file, config_string, flags)
        launcher = _fork_launcher(config, inherited)
        _serve(config, launcher, config_file, inherited)
    except TeleportError as error:
        if inherited is not None:
            inherited.tell_failed(str(error))
        raise


def _configuration(config_file: str | None, config_string: str, flags: StartFlags) -> Config:
    import socket

    from teleport.daemon import logs
    from teleport.daemon.config import effective_config, read_config

    path = Path(config_file) if config_file is not None else None
    config = effective_config(read_config(path, config_string, os.environ), flags, socket.gethostname())
    logs.set_up(config.log)
    for warning in config.warnings:
        sys.stderr.write(f"teleport: warning: {warning}\n")
    return config


def _fork_launcher(config: Config, inherited: Inherited | None) -> LauncherEnd | None:
    if config.node is None:
        return None
    from teleport import launcher

    return launcher.start(close=inherited.descriptors if inherited is not None else ())


def _serve(config: Config, launcher: LauncherEnd | None, config_file: str | None, inherited: Inherited | None) -> None:
    import asyncio
    import signal

    import teleport.transport.quick_aiohttp  # noqa: F401 (must come before all that imports aiohttp)
    from teleport.clock import SystemClock
    from teleport.daemon.assembly import Daemon, import_services
    from teleport.daemon.succession import Request
    from teleport.daemon.welcome import welcome_text

    def welcome(facts: Welcome) -> None:
        # What start-up made stays; the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        sys.stdout.write(welcome_text(facts, **_commands(config_file)))
        sys.stdout.flush()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        requests: asyncio.Queue[Request] = asyncio.Queue()
        for number, request in (
            (signal.SIGUSR1, Request.DUMP),
            (signal.SIGUSR2, Request.CHILD),
            (signal.SIGHUP, Request.REPLACE),
            (signal.SIGQUIT, Request.LEAVE),
        ):
            loop.add_signal_handler(number, requests.put_nowait, request)
        await Daemon(config, launcher, SystemClock(), welcome, inherited, requests).run(stop)

    import_services(config)
    gc.freeze()
    gc.set_threshold(*_USUAL)
    try:
        asyncio.run(run())
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a group that says the most: one of ours when there is one."""
    ours, others = group.split(TeleportError)
    found: BaseException = (ours or others or group).exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _commands(config_file: str | None) -> dict[str, str]:
    """The commands as a person can type them here: with their folder when they are not on PATH."""
    import getpass
    import shutil

    folder = Path(sys.argv[0]).resolve().parent
    names = {}
    for name in ("tctl", "tsh"):
        found = shutil.which(name)
        here = folder / name
        same = found is not None and Path(found).resolve() == here.resolve()
        names[name] = name if same or not here.exists() else shlex.quote(str(here))
    if config_file is not None:
        names["tctl"] += f" -c {shlex.quote(config_file)}"
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = "root"
    return {**names, "login": login}
