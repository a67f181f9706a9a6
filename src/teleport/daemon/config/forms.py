"""The value forms of teleport.yaml that several sections share (`config.md`, Value forms)."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from teleport.daemon.config.hints import where_it_belongs
from teleport.daemon.config.readable import unreadable
from teleport.daemon.config.token_source import TokenSource
from teleport.resources.values import (
    LABEL_KEY_FORMS,
    SHORTEST_LABEL_PERIOD,
    CommandLabel,
    Duration,
    HostPort,
    parse_host,
    parse_label_key,
)
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import (
    ListOf,
    MapOf,
    Scalar,
    Section,
    address,
    matching,
    one_or_many,
    some_text,
    text,
)

T = TypeVar("T")

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
ANY_HOST: Final = "0.0.0.0"  # noqa: S104  # what `:3000` and an unset listener mean: every interface


def section(kind: type[T], check: Callable[[T, Node, Problems], None] | None = None) -> Section[T]:
    """A section of the file; unknown keys are told where they belong."""
    return Section(kind, check, where_it_belongs)


def listen_address(default_port: int) -> Scalar[HostPort]:
    return address(default_port, any_host=ANY_HOST)


def public_addresses(default_port: int) -> ListOf[HostPort]:
    return one_or_many(address(default_port))


def _path(value: str) -> Path:
    if not value.strip() or "\n" in value:
        raise ValueError
    return Path(value)


def _existing_file(value: str) -> Path:
    if not value or not os.path.isfile(value) or not os.access(value, os.R_OK):
        raise ValueError
    return Path(value)


def _network(value: str) -> str:
    found = ipaddress.ip_network(value)
    if found.prefixlen == 0:
        raise ValueError  # everybody would say who they are
    return str(found)


network: Final = matching("an IP address, or a network such as 10.0.0.0/24 (not of everybody)", _network)
path: Final = matching("a path", _path)
existing_file: Final = matching("an existing file that can be read", _existing_file)


class _ReadableFile:
    """As `existing_file`; one that this user may not read is told with what mends it."""

    allowed = existing_file.allowed

    def __call__(self, node: Node, problems: Problems, /) -> Path | None:
        why = unreadable(Path(node.value)) if node.is_scalar and node.value else None
        if why is None:
            return existing_file(node, problems)
        node.problem(problems, self.allowed + (f" (to mend it: {why.mend})" if why.mend else ""), found=why.text)
        return None


readable_file: Final = _ReadableFile()

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_DNS_1035: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")

PIN_FORM: Final = "sha256: and 64 hexadecimal digits (tctl status shows it)"


def fullmatch(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return value

    return parse


host_name: Final = matching("a name of letters, digits and . _ -, at most 253", fullmatch(_NAME))
dns_label: Final = matching(
    "a DNS label: lower-case letters, digits and -, beginning with a letter, at most 63", fullmatch(_DNS_1035)
)
host: Final = matching("a host name or an IP address", parse_host)
token: Final = Scalar("a token, or the absolute path of a file that holds it", TokenSource.parse, secret=True)


def parse_pin(value: str) -> str:
    """A CA pin in lower case; `ValueError` for anything else."""
    pin = value.strip().lower()
    if not _PIN.fullmatch(pin):
        raise ValueError(f"not {PIN_FORM}")
    return pin


def _pins(node: Node, problems: Problems, /) -> tuple[str, ...] | None:
    if (node.is_scalar and node.value == "") or [child.value for child in node.items() if child.is_scalar] == [""]:
        return ()  # one empty string: join without a pin
    return one_or_many(matching(PIN_FORM, parse_pin))(node, problems)


class _Pins:
    allowed = f"one value or a list, each {PIN_FORM}; or one empty string for no pin"

    def __call__(self, node: Node, problems: Problems, /) -> tuple[str, ...] | None:
        return _pins(node, problems)


ca_pins: Final = _Pins()


def parse_advertised(value: str) -> HostPort:
    """An address that others can reach: port 0 stands for the port that is listened on."""
    found = HostPort.parse(value, 0)
    try:
        ip = ipaddress.ip_address(found.host)
    except ValueError:
        return found
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError("not an address that others can reach")
    return found


ADVERTISED_FORMS: Final = "an IP address or host name that others can reach, with or without a port"
advertised: Final = matching(ADVERTISED_FORMS, parse_advertised)


def _positive_duration(value: str) -> Duration:
    found = Duration.parse(value)
    if not found:
        raise ValueError
    return found


positive_duration: Final = matching("a duration such as 30s, 5m or 1h30m, longer than zero", _positive_duration)

labels: Final = MapOf(text, parse_label_key, LABEL_KEY_FORMS)


def _label_period(value: str) -> Duration:
    found = Duration.parse(value)
    if found < SHORTEST_LABEL_PERIOD:
        raise ValueError
    return found


class _Command:
    """`{name, command, period}`; the command is an executable and its arguments, no shell."""

    allowed = "a map with name, command and period"
    keys: Mapping[str, Any] = MappingProxyType(
        {
            "name": matching(LABEL_KEY_FORMS, parse_label_key),
            "command": ListOf(some_text, least=1),
            "period": matching("a duration of 1m or longer", _label_period),
        }
    )

    def __call__(self, node: Node, problems: Problems, /) -> CommandLabel | None:
        values = node.mapping(problems, self.keys, required=("name", "command"), unknown=where_it_belongs)
        if not values or not {"name", "command"} <= values.keys():
            return None
        return CommandLabel(values["name"], values["command"], values.get("period", SHORTEST_LABEL_PERIOD))


class _Commands:
    allowed = "a list, each a map with name, command (a list: executable, then arguments) and period"
    item = _Command()

    def __call__(self, node: Node, problems: Problems, /) -> tuple[CommandLabel, ...] | None:
        found = ListOf(self.item)(node, problems)
        if not node.is_list:
            return None
        names: set[str] = set()
        for item in node.items():
            name = item.get("name")
            if name is not None and name.is_scalar and name.value in names:
                name.problem(problems, "each label once")
            elif name is not None:
                names.add(name.value)
        return found


commands: Final = _Commands()


def check_labels(node: Node, problems: Problems) -> None:
    """Warns of a label that is given both fixed and as a command, where the command wins."""
    fixed, dynamic = node.get("labels"), node.get("commands")
    if fixed is None or dynamic is None:
        return
    names = {name.value for item in dynamic.items() if (name := item.get("name")) is not None}
    for key, child in fixed.entries():
        if key in names:
            child.notice(problems, "is also a dynamic label, whose value will be used")
