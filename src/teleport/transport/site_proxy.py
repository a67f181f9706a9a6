"""The HTTP proxy by which connections leave a site: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, CONNECT (RFC 9110 section
9.3.6). Pure but for the environment; `site_dial` and `site_connect` connect.

What is carried proves its own ends: the site's proxy is trusted with addresses and with nothing else. It is asked for
the host by the name that is configured, which often only it can resolve. Commands ask here at each start, so what only
a site with a proxy needs is imported there.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from teleport.errors import BadRequest, ConnectionProblem

MAX_HEAD: Final = 16 * 1024  # bytes of an answer before what is carried
VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")  # the first that is set counts
SET_IT: Final = "set HTTPS_PROXY to http://HOST:PORT, or NO_PROXY to what is reached without it"


def shown(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class SiteProxy:
    """An HTTP proxy, and what it is shown of who asks (the value of `Proxy-Authorization`, empty for nothing)."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Without what is secret."""
        return f"http://{shown(self.host, self.port)}"

    def request(self, host: str, port: int) -> bytes:
        """The head that asks for a connection to a host."""
        target = shown(host, port)
        if not target.isascii() or any(character <= " " for character in target):
            raise BadRequest(f"{target[:100]!a} is no address that a proxy can be asked for")
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def site_proxy(host: str, port: int, environ: Mapping[str, str] | None = None) -> SiteProxy | None:
    """The proxy by which `host` is reached, None for directly. Raises `BadRequest` when the variable cannot be meant.

    This machine itself is always reached directly.
    """
    environ = os.environ if environ is None else environ
    name = next((name for name in VARIABLES if environ.get(name)), "")
    if not name or (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):  # there it is a header that a client sent
        return None
    text = environ[name]
    from teleport.resources.names import is_loopback

    without = next((environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name)), "")
    if is_loopback(host) or any(_covers(one.strip(), host, port) for one in without.split(",")):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        found, at = parts.hostname, parts.port or 80
    except ValueError:  # which would repeat the text, with what is secret in it
        found, at = None, 0
    if not found or parts.scheme != "http":
        raise BadRequest(f"{name} is not the address of an HTTP proxy that is spoken to without TLS", hint=SET_IT)
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return SiteProxy(found, at, authorization)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a host: `*`, an address or network, a name or the end of one; with a port, if
    it names one."""
    if entry in ("", "*"):
        return entry == "*"
    import ipaddress

    from teleport.resources.names import canonical_address

    address = canonical_address(host)
    if address:
        try:
            return ipaddress.ip_address(address) in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        return int(number[:6]) == port and _covers(name, host, port)
    wanted, asked = entry.lower().strip(".").removeprefix("*."), host.lower().rstrip(".")
    return asked == wanted or asked.endswith("." + wanted)


def taken(head: bytes, via: SiteProxy, target: str) -> None:
    """Raises `ConnectionProblem` unless the head of an answer says that the connection stands."""
    line = head.partition(b"\r\n")[0].decode("ascii", "replace")
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        raise ConnectionProblem(f"{via.url} is no HTTP proxy: it answers {line[:60]!a}", hint=SET_IT)
    if not words[1].startswith("2"):
        hint = "ask who runs it whether it may"
        if words[1] in ("407", "401"):  # the latter from tinyproxy, for a password that is wrong
            hint = "give user and password in HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT"
        raise ConnectionProblem(f"the HTTP proxy {via.url} does not lead to {target}: {line[9:80]!a}", hint=hint)


def for_aiohttp(host: str, port: int) -> dict[str, Any]:
    """What aiohttp's requests to a host need to go by the site's proxy. Raises `BadRequest`."""
    via = site_proxy(host, port)
    if via is None:
        return {}
    headers = {"Proxy-Authorization": via.authorization} if via.authorization else None
    return {"proxy": via.url, "proxy_headers": headers}
