"""What people type to name proxies and hosts, as values. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from teleport.errors import BadRequest

WEB_PORTS = (3080, 443)  # tried in this order when none is given
SSH_PORT = 3023
NODE_PORT = 3022
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """`host[:https_port[,ssh_port]]`. Ports that were not given are 0."""

    host: str
    web_port: int = 0
    ssh_port: int = 0

    @classmethod
    def parse(cls, text: str) -> ProxyAddress:
        """Raises `BadRequest`. A leading `https://` and a trailing slash are taken off, as people paste them."""
        given = text.strip().removeprefix("https://").rstrip("/")
        host, ports = _split(given)
        web, _, ssh = ports.partition(",")
        return cls(check_host(host, text), _port(web, text), _port(ssh, text))

    @property
    def web_ports(self) -> tuple[int, ...]:
        """The ports to try."""
        return (self.web_port,) if self.web_port else WEB_PORTS


def join(host: str, port: int) -> str:
    """`host:port`, IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_port(text: str, default: int) -> tuple[str, int]:
    """`host:port` with `default` for a missing port. Raises `BadRequest`."""
    host, port = _split(text)
    return check_host(host, text), _port(port, text) or default


def check_host(host: str, text: str = "") -> str:
    """`host` in its one spelling when it is a name or address; it becomes a file name and an argument, so nothing else
    may pass. An address with a zone does not: known hosts and certificates cannot hold it."""
    from teleport.resources.names import canonical_address

    address = canonical_address(host) if ":" in host and not set("%[]") & set(host) else ""
    if not address and (":" in host or not _HOST.fullmatch(host)):
        why = " (addresses with a zone are not supported)" if "%" in host else ""
        raise BadRequest(f"{(text or host)[:80]!r} names no host{why}", hint="--proxy=host[:https_port[,ssh_port]]")
    return address or host.lower()


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return (host, rest.removeprefix(":")) if bracket and (not rest or rest[0] == ":") else (text, "")
    if text.count(":") > 1:
        return text, ""  # an IPv6 address without a port
    host, _, port = text.partition(":")
    return host, port


def _port(text: str, whole: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise BadRequest(f"{whole[:80]!r} has no port between 1 and 65535", hint="--proxy=host[:https_port[,ssh_port]]")
    return int(text)


def parse_labels(text: str) -> dict[str, str]:
    """`k=v[,k=v]`; a value may be quoted to hold commas. Raises `BadRequest`."""
    found: dict[str, str] = {}
    for part in re.findall(r'(?:[^,"]|"[^"]*")+', text):
        name, equals, value = part.strip().partition("=")
        if not equals or not name:
            raise BadRequest(f"{part[:80]!r} is no label", hint="labels look like env=prod,team=web")
        found[name.strip().strip('"')] = value.strip().strip('"')
    return found
