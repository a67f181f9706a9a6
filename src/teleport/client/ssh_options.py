"""`-o` of `tsh ssh` and `tsh scp`: which of OpenSSH's options (ssh_config(5)) there are here, and what they set. Pure.

An option that would change nothing for the reader, or that cannot be kept, is an error that says so: nobody relies on
what is ignored. As with ssh, the first of several values counts, and a command's own flags beat `-o`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from teleport.errors import BadRequest
from teleport.wire.escapes import escape_character
from teleport.wire.forward_spec import Direction, Forward, parse

_PAIR = re.compile(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*\S)", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_SECONDS = 24 * 3600


@dataclass(slots=True)
class SshOptions:
    """What was said; None where nothing was."""

    port: int | None = None
    user: str | None = None
    tty: str | None = None  # yes, no, force, auto
    agent: bool | None = None
    x11: bool | None = None
    forwards: list[Forward] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    send: list[str] = field(default_factory=list)  # patterns of variables to send
    escape: int | None = ord("~")
    escape_said: bool = False
    alive_seconds: float | None = None
    alive_count: int | None = None
    connect_seconds: float | None = None
    forwards_must: bool | None = None
    batch: bool = False
    quiet: bool = False
    no_command: bool = False
    no_input: bool = False
    subsystem: bool = False
    add_keys: bool = False
    said: set[str] = field(default_factory=set)

    def variables(self, present: Mapping[str, str]) -> dict[str, str]:
        """What is sent of the environment: the language, what `SendEnv` names, and what `SetEnv` sets."""
        patterns = ("LANG", "LC_*", *self.send)
        found = {
            name: value
            for name, value in present.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        }
        return {**found, **self.environment}

    def apply(self, text: str) -> None:
        """Takes `Key=Value` or `Key Value`. Raises `BadRequest`."""
        found = _PAIR.fullmatch(text.strip())
        name, value = found.groups() if found else ("", "")
        key, value = name.lower(), value.strip('"')
        if not value:
            raise BadRequest(f"-o {text[:80]!r} is not Key=Value", hint="-o RequestTTY=yes")
        if key in _ALWAYS:
            allowed, why = _ALWAYS[key]
            if value.lower() not in allowed:
                raise BadRequest(f"-o {name}={value[:40]} is not available: {why}", hint="leave it away")
            return
        option = _TABLE.get(key)
        if option is None:
            raise BadRequest(
                f"-o {name[:60]!r} is no option of tsh", hint=f"there are {', '.join(sorted(KNOWN, key=str.lower))}"
            )
        if key in self.said and key not in _REPEATED:
            return
        self.said.add(key)
        option[1](self, f"-o {option[0]}", value)


def _yes(what: str, value: str, *more: str) -> bool:
    low = value.lower()
    if low in ("yes", "true", "on", *more):
        return True
    if low in ("no", "false", "off"):
        return False
    raise BadRequest(f"{what}={value[:40]!r} is neither yes nor no", hint=f"{what}=yes")


def _number(what: str, value: str, least: int, most: int) -> int:
    text = value.removesuffix("s") if value[:-1].isdigit() else value
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise BadRequest(f"{what}={value[:40]!r} is no number from {least} to {most}", hint=f"{what}={max(least, 15)}")
    return int(text)


def _word(what: str, value: str, words: tuple[str, ...]) -> str:
    if value.lower() not in words:
        raise BadRequest(f"{what}={value[:40]!r} is none of {', '.join(words)}", hint=f"{what}={words[0]}")
    return value.lower()


def _agent(options: SshOptions, what: str, value: str) -> None:
    options.agent = _yes(what, value, "local")


def _keys(options: SshOptions, what: str, value: str) -> None:
    options.add_keys = _yes(what, value)


def _escape(options: SshOptions, what: str, value: str) -> None:
    options.escape, options.escape_said = escape_character(value), True


def _set_environment(options: SshOptions, what: str, value: str) -> None:
    for pair in value.split():
        name, equals, text = pair.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise BadRequest(f"{what}={pair[:60]!r} sets no variable", hint=f"{what}=NAME=value")
        options.environment.setdefault(name, text)


def _send_environment(options: SshOptions, what: str, value: str) -> None:
    for pattern in value.split():
        if not re.fullmatch(r"[A-Za-z0-9_*?]{1,128}", pattern):
            raise BadRequest(f"{what}={pattern[:60]!r} names no variable", hint=f"{what}=EDITOR")
        options.send.append(pattern)


def _session_type(options: SshOptions, what: str, value: str) -> None:
    word = _word(what, value, ("default", "none", "subsystem"))
    options.no_command, options.subsystem = word == "none", word == "subsystem"


def _forward(direction: Direction) -> Callable[[SshOptions, str, str], None]:
    def apply(options: SshOptions, what: str, value: str) -> None:
        options.forwards.append(parse(direction, ":".join(value.split())))

    return apply


def _put(name: str, read: Callable[[str, str], object]) -> Callable[[SshOptions, str, str], None]:
    def apply(options: SshOptions, what: str, value: str) -> None:
        setattr(options, name, read(what, value))

    return apply


_OPTIONS: dict[str, Callable[[SshOptions, str, str], None]] = {
    "AddKeysToAgent": _keys,
    "BatchMode": _put("batch", _yes),
    "ConnectTimeout": _put("connect_seconds", lambda what, value: float(_number(what, value, 1, MAX_SECONDS))),
    "DynamicForward": _forward(Direction.DYNAMIC),
    "EscapeChar": _escape,
    "ExitOnForwardFailure": _put("forwards_must", _yes),
    "ForwardAgent": _agent,
    "ForwardX11": _put("x11", _yes),
    "LocalForward": _forward(Direction.LOCAL),
    "LogLevel": _put(
        "quiet",
        lambda what, value: (
            _word(what, value, ("quiet", "fatal", "error", "info", "verbose", "debug")) in ("quiet", "fatal")
        ),
    ),
    "Port": _put("port", lambda what, value: _number(what, value, 1, 65535)),
    "RemoteForward": _forward(Direction.REMOTE),
    "RequestTTY": _put("tty", lambda what, value: _word(what, value, ("auto", "yes", "no", "force"))),
    "SendEnv": _send_environment,
    "ServerAliveCountMax": _put("alive_count", lambda what, value: _number(what, value, 1, 1000)),
    "ServerAliveInterval": _put("alive_seconds", lambda what, value: float(_number(what, value, 0, MAX_SECONDS))),
    "SessionType": _session_type,
    "SetEnv": _set_environment,
    "StdinNull": _put("no_input", _yes),
    "User": _put("user", lambda what, value: value),
}
_TABLE = {name.lower(): (name, apply) for name, apply in _OPTIONS.items()}
_REPEATED = frozenset({"dynamicforward", "localforward", "remoteforward", "sendenv", "setenv"})
# What always holds: the one value is accepted, another one is refused with the reason.
_NO = ("no", "none", "false")
_ALWAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "stricthostkeychecking": (("yes",), "hosts always prove who they are"),
    "compression": (_NO, "servers here do not compress"),
    "identitiesonly": (("yes",), "the key of the login is the only one that counts"),
    "passwordauthentication": (_NO, "a certificate is the only way in"),
    "kbdinteractiveauthentication": (_NO, "a second factor is asked for by tsh itself"),
    "controlmaster": (_NO, "plain ssh with what tsh config prints shares connections"),
    "controlpath": (_NO, "plain ssh with what tsh config prints shares connections"),
    "tcpkeepalive": (("yes",), "-o ServerAliveInterval says how often the other end is asked"),
    "forwardx11trusted": (("yes",), "windows of the host are trusted as your own ones"),
    "updatehostkeys": (_NO, "hosts are known by the cluster's authority"),
}
KNOWN = (*_OPTIONS, "StrictHostKeyChecking")
