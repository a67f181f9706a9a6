"""Small values that configuration, resources and commands share: durations, addresses, booleans, labels.

Each has one `parse` that raises `ValueError` saying what is wrong, and prints as it is written. The forms are Go's, as
operators of this kind of system know them: durations of time.ParseDuration (https://pkg.go.dev/time#ParseDuration),
addresses of net.SplitHostPort (https://pkg.go.dev/net#SplitHostPort).
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Self

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]{0,20})(?:\.([0-9]{0,20}))?(ns|us|µs|μs|ms|s|m|h)")
_MOST: Final = 2**63 - 1  # nanoseconds, about 292 years: what Go can hold

DURATION_FORMS: Final = "a duration such as 30s, 5m or 1h30m"


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in nanoseconds. Zero stands for `never` where a setting knows that word."""

    nanoseconds: int

    @classmethod
    def parse(cls, text: str, *, never: bool = False, negative: bool = False) -> Self:
        """`1h30m`, `2.5h`, `300ms`, `0`; with `never` that word too; with `negative` a leading minus.

        Raises `ValueError` for anything else, a number without a unit included.
        """
        if never and text.lower() == "never":
            return cls(0)
        sign, rest = 1, text
        if text[:1] in ("+", "-"):
            sign, rest = (-1 if text[0] == "-" else 1), text[1:]
        if sign < 0 and not negative:
            raise ValueError("a duration may not be negative")
        if rest == "0":
            return cls(0)
        total, position = 0, 0
        while position < len(rest):
            part = _PART.match(rest, position)
            if part is None or not (part[1] or part[2]):
                raise ValueError(f"not {DURATION_FORMS}")
            unit = _UNITS[part[3]]
            total += int(part[1] or "0") * unit
            if part[2]:
                total += int(part[2]) * unit // 10 ** len(part[2])
            position = part.end()
        if not rest:
            raise ValueError(f"not {DURATION_FORMS}")
        if total > _MOST:
            raise ValueError("longer than 292 years")
        return cls(sign * total)

    @classmethod
    def of(cls, *, hours: int = 0, minutes: int = 0, seconds: float = 0) -> Self:
        return cls(hours * _UNITS["h"] + minutes * _UNITS["m"] + round(seconds * _UNITS["s"]))

    @property
    def seconds(self) -> float:
        return self.nanoseconds / 1e9

    @property
    def timedelta(self) -> timedelta:
        """The same length, to the microsecond."""
        return timedelta(microseconds=self.nanoseconds // 1000)

    def __bool__(self) -> bool:
        return self.nanoseconds != 0

    def __str__(self) -> str:
        """As Go prints it: `1h30m0s`, `300ms`, `0s`."""
        rest, sign = abs(self.nanoseconds), "-" if self.nanoseconds < 0 else ""
        if rest == 0:
            return "0s"
        if rest < _UNITS["s"]:
            unit = next(name for name in ("ms", "µs", "ns") if rest >= _UNITS[name])
            return f"{sign}{_decimal(rest, _UNITS[unit])}{unit}"
        hours, rest = divmod(rest, _UNITS["h"])
        minutes, rest = divmod(rest, _UNITS["m"])
        text = f"{_decimal(rest, _UNITS['s'])}s"
        if hours or minutes:
            text = f"{minutes}m{text}"
        return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    if rest == 0:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


_TRUE: Final = frozenset({"yes", "true", "on", "1", "y"})
_FALSE: Final = frozenset({"no", "false", "off", "0", "n"})
BOOLEAN_FORMS: Final = "yes, no, true, false, on, off, 1 or 0"


def parse_boolean(text: str) -> bool:
    """yes/no, true/false, on/off, 1/0, y/n in any case; `ValueError` otherwise."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"not {BOOLEAN_FORMS}")


ADDRESS_FORMS: Final = "host or host:port, port 0 to 65535, an IPv6 host in brackets"
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_ONLY_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")


def parse_host(text: str) -> str:
    """A host name, an IPv4 address, or an IPv6 address (no brackets) in its shortest form; `ValueError` otherwise.

    `::ffff:10.0.0.1` is the IPv4 address in it. A zone is refused: it names an interface of one machine, and these
    addresses go into certificates, records and other machines' configuration.
    """
    if ":" in text:
        if "%" in text:
            raise ValueError("an address with a zone (%) means something on one machine only; listen on [::] instead")
        address = ipaddress.IPv6Address(text)
        return str(address.ipv4_mapped or address)
    if _ONLY_DIGITS_AND_DOTS.fullmatch(text):
        return str(ipaddress.IPv4Address(text))
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("not a host name or an IP address")
    return text


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """A host (a name, an IPv4 address, or an IPv6 address without brackets) and a TCP port, 0 to 65535."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int | None = None, *, any_host: str = "") -> Self:
        """`host`, `host:port`, `[::1]:port`, each also after `tcp://`.

        Without a port `default_port` is taken; if that is None a port has to be given. `any_host` is what an empty
        host (`:3000`) means; without it that is refused. Raises `ValueError`.
        """
        rest = text.removeprefix("tcp://")
        if rest.startswith("["):
            host, bracket, tail = rest[1:].partition("]")
            if not bracket or ":" not in host or (tail and not tail.startswith(":")):
                raise ValueError(f"not {ADDRESS_FORMS}")
            colon, port_text = tail[:1], tail[1:]
        else:
            if rest.count(":") > 1:
                raise ValueError("an IPv6 address has to stand in brackets")
            host, colon, port_text = rest.partition(":")
        if not host and colon and any_host:
            host = any_host
        host = parse_host(host)
        if not colon:
            if default_port is None:
                raise ValueError("the port is missing")
            return cls(host, default_port)
        if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and int(port_text) <= 65535):
            raise ValueError("the port has to be a number from 0 to 65535")
        return cls(host, int(port_text))

    @property
    def bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.bracketed_host}:{self.port}"


LABEL_KEY_FORMS: Final = "a label key of letters, digits and / . _ : -"
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9/._:-]{1,255}")
SHORTEST_LABEL_PERIOD: Final = Duration.of(minutes=1)


@dataclass(frozen=True, slots=True)
class CommandLabel:
    """A label whose value is the output of `command` (executable and arguments, no shell), run every `period`."""

    name: str
    command: tuple[str, ...]
    period: Duration = SHORTEST_LABEL_PERIOD


@dataclass(frozen=True, slots=True)
class Labels:
    """What a host says about itself: fixed values, and values that commands find out."""

    static: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    dynamic: tuple[CommandLabel, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # a view of a mapping, which nobody can change through, is not pickled by itself
        return _labels, (dict(self.static), self.dynamic)


def _labels(static: dict[str, str], dynamic: tuple[CommandLabel, ...]) -> Labels:
    return Labels(MappingProxyType(static), dynamic)


def parse_label_key(text: str) -> str:
    """`text`, if it may name a label of a host; `ValueError` otherwise. `*` belongs to selectors only."""
    if not _LABEL_KEY.fullmatch(text):
        raise ValueError(f"not {LABEL_KEY_FORMS}")
    return text


def parse_labels(text: str) -> Labels:
    """The form of the `--labels` flag: `env=prod,arch=[1h:"uname -p"]`; `ValueError` naming the entry otherwise."""
    static: dict[str, str] = {}
    dynamic: list[CommandLabel] = []
    for entry in _split_outside_brackets(text):
        key, equals, value = entry.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"{entry!r} is not of the form key=value")
        parse_label_key(key)
        if key in static or any(key == label.name for label in dynamic):
            raise ValueError(f"label {key!r} is given twice")
        value = value.strip()
        if value.startswith("["):
            dynamic.append(_parse_command_label(key, value))
        else:
            static[key] = _unquoted(value)
    return Labels(MappingProxyType(static), tuple(dynamic))


def _split_outside_brackets(text: str) -> list[str]:
    entries, current, inside, quote = [], "", False, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[]":
            inside = character == "["
        elif character == "," and not inside:
            entries.append(current)
            current = ""
            continue
        current += character
    if inside or quote:
        raise ValueError("a bracket or quote is not closed")
    entries.append(current)
    return [entry.strip() for entry in entries] if text.strip() else []


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _parse_command_label(key: str, value: str) -> CommandLabel:
    period_text, colon, command_text = value.removeprefix("[").removesuffix("]").partition(":")
    if not value.endswith("]") or not colon:
        raise ValueError(f'label {key!r}: a command label has the form {key}=[1m:"command arguments"]')
    try:
        period = Duration.parse(period_text.strip())
        command = shlex.split(command_text)
        if len(command) == 1:  # the whole command stood in quotes, as the usual form has it
            command = shlex.split(command[0])
    except ValueError as error:
        raise ValueError(f"label {key!r}: {error}") from error
    if period < SHORTEST_LABEL_PERIOD:
        raise ValueError(f"label {key!r}: the period has to be 1m or longer")
    if not command:
        raise ValueError(f"label {key!r}: the command is missing")
    return CommandLabel(key, tuple(command), period)
