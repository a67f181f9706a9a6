"""The global flags of tsh (`cli.md` 3). They may stand before or after the command; a flag beats its variable."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.client.access import Access
    from teleport.client.home import Home

PASSWORDLESS = "passwordless"  # of --auth: a passkey says who it is

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Flags:
    """What was said for every command."""

    login: str = ""
    proxy: str = ""
    user: str = ""
    ttl: int = 0  # minutes
    identity: str = ""
    auth: str = ""
    cert_format: str = ""
    jumphost: str = ""
    add_keys_to_agent: str = ""
    insecure: bool = False
    skip_version_check: bool = False
    debug: bool = False
    trace: bool = False

    @property
    def home(self) -> Home:
        from teleport.client.home import Home, home_path

        return Home(home_path(os.environ))

    def checked(self) -> Flags:
        """Raises `BadRequest` for what is not available, rather than ignoring it."""
        if self.insecure:
            raise BadRequest(
                "--insecure is not available: nothing secret is sent to a proxy that proved nothing",
                hint="--ca-pin=sha256:... trusts the cluster by its pin, which tctl status prints",
            )
        if self.auth not in ("", "local", PASSWORDLESS):
            raise BadRequest(
                f"there is no way to log in by {self.auth!r} here", hint=f"--auth=local or --auth={PASSWORDLESS}"
            )
        if self.cert_format not in ("", "standard"):
            raise BadRequest(
                f"certificates of the format {self.cert_format!r} are not available", hint="--cert-format=standard"
            )
        if self.jumphost:
            raise BadRequest(
                "-J is not available yet: the cluster's own proxy is the way to its hosts",
                hint="leave -J away, or: ssh -J with what tsh config prints",
            )
        if self.add_keys_to_agent == "only":
            raise BadRequest(
                "the key in an agent alone is not available: TLS, by which tsh asks the cluster, needs the key itself",
                hint="--add-keys-to-agent=yes keeps it in both",
            )
        if self.add_keys_to_agent not in ("", "no", "auto", "yes"):
            raise BadRequest(
                f"--add-keys-to-agent={self.add_keys_to_agent[:20]!r} is none of auto, no, yes",
                hint="--add-keys-to-agent=auto",
            )
        if self.ttl < 0:
            raise BadRequest("--ttl is a number of minutes, above 0", hint="--ttl=60 is an hour")
        return self


_OPTIONS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    (("-l", "--login"), "TELEPORT_LOGIN", {"help": "login on the remote host"}),
    (("--proxy",), "TELEPORT_PROXY", {"help": "the proxy: host[:https_port[,ssh_port]]"}),
    (("--user",), "TELEPORT_USER", {"help": "your user name in the cluster"}),
    (("--ttl",), "", {"type": int, "help": "minutes that the certificates shall live"}),
    (("-i", "--identity"), "", {"help": "an identity file, in place of a login"}),
    (("--auth",), "TELEPORT_AUTH", {"help": "how to log in: local, or passwordless with a passkey"}),
    (("--cert-format",), "", {"hidden": True}),
    (("-J", "--jumphost"), "", {"hidden": True}),
    (
        ("-k", "--add-keys-to-agent"),
        "TELEPORT_ADD_KEYS_TO_AGENT",
        {"help": "the certificate in the SSH agent that runs here: auto, no, yes"},
    ),
    (("--insecure",), "", {"is_flag": True, "hidden": True}),
    (("--skip-version-check",), "", {"is_flag": True, "hidden": True}),
    (("-d", "--debug"), "", {"is_flag": True, "help": "show where an error came from"}),
    (("--trace",), "", {"is_flag": True, "help": "have the cluster trace what is asked, and say which trace it is"}),
)
_NAMES = tuple(field.name for field in fields(Flags))


def _with_options(function: F, *, variables: bool) -> F:
    for names, variable, settings in reversed(_OPTIONS):
        envvar = variable if variables and variable else None
        decorated = click.option(*names, envvar=envvar, default=None, **settings)(function)
        function = decorated
    return function


def GLOBAL(function: F) -> F:
    """For the group: flags and their variables."""

    @functools.wraps(function)
    def wrapper(*args: Any, **given: Any) -> Any:
        said = {name: value for name in _NAMES if (value := given.pop(name)) is not None}
        return function(*args, flags=Flags(**said), **given)

    return _with_options(wrapper, variables=True)  # type: ignore[return-value]


def takes_flags(function: F) -> F:
    """For a command: gets `flags`, merged from before and after its name."""

    @functools.wraps(function)
    def wrapper(*args: Any, **given: Any) -> Any:
        said = {name: value for name in _NAMES if (value := given.pop(name)) is not None}
        before = click.get_current_context().find_root().obj
        flags = replace(before if isinstance(before, Flags) else Flags(), **said)
        return function(*args, flags=flags.checked(), **given)

    return _with_options(wrapper, variables=False)  # type: ignore[return-value]


def cluster_option(function: F) -> F:
    """`--cluster`, with its variables."""
    decorated: F = click.option(
        "--cluster", envvar=["TELEPORT_CLUSTER", "TELEPORT_SITE"], default="", help="the cluster to use"
    )(function)
    return decorated


def now() -> datetime:
    """The time at the edge."""
    return datetime.now(UTC)


def access(flags: Flags, cluster: str) -> Access:
    """An `Access` by identity file or profile. Raises `AccessDenied` with the command to log in.

    Where the login has expired and a person is there to ask, it is renewed first, and the command goes on. Whoever
    looks on is told when the end is near.
    """
    found = _access(flags, cluster)
    if flags.trace:
        found = _traced(found)
    if sys.stderr.isatty():
        _warn_of_the_end(found, flags.identity)
    return found


def _traced(found: Access) -> Access:
    """With a trace of its own, which is said."""
    from teleport.cli import render
    from teleport.spans import TraceContext

    trace = TraceContext(os.urandom(16), os.urandom(8), True)
    render.note(f"tsh: trace {trace.trace_id.hex()}")
    return replace(found, trace=trace.header)


def _warn_of_the_end(found: Access, identity: str) -> None:
    from teleport.cli import render
    from teleport.client.keystore import facts

    at, said = now(), facts(found.credentials.ssh_certificate)
    if said.ends_soon(at):
        what = f"the certificate in {identity}" if identity else "your login"
        way = "make a new one before then" if identity else "tsh login begins a new one"
        left = render.how_long((said.expires - at).total_seconds())
        render.note(f"tsh: {render.printable(what)} ends in {left}, at {render.when(said.expires)} UTC; {way}")


def _access(flags: Flags, cluster: str) -> Access:
    from pathlib import Path

    from teleport.client.access import from_identity, from_profile
    from teleport.client.keystore import LoginEnded

    if flags.identity:
        return from_identity(Path(flags.identity), flags.proxy, cluster, now())
    try:
        found = from_profile(flags.home, flags.proxy, flags.user, cluster, now())
        _renew_beside(flags)
        return found
    except LoginEnded as ended:
        from teleport.cli.tsh import prompts

        if not prompts.interactive():
            raise
        from teleport.cli import render
        from teleport.cli.tsh.login import log_in_again

        render.note(f"tsh: {ended.message}; log in again to go on:")
        log_in_again(flags)
    return from_profile(flags.home, flags.proxy, flags.user, cluster, now())


def _renew_beside(flags: Flags) -> None:
    """Keeps the login fresh while the command does its work; the process ends when both are done."""
    import atexit

    from teleport.client import profile, renewal
    from teleport.client.addresses import ProxyAddress

    name = profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user).name
    worker = renewal.begin(flags.home, name, now())
    if worker is not None:
        atexit.register(worker.join, renewal.PATIENCE)
