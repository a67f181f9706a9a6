"""What else a resolver may take a name for: with the domains that it tries behind names (resolv.conf(5)).

A rule that denies a name denies it also where a client leaves the end of it to the resolver. So all that the resolver
could have made of it counts, whichever it tries first, and whichever exists.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from teleport.errors import TeleportError

RESOLVER: Final = Path("/etc/resolv.conf")
_NO_COMPLETION: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})

LookUp = Callable[[str], Awaitable[tuple[Collection[str], str]]]  # the addresses of a name, and the name it leads to


def search_domains(config: str, host_name: str, override: str = "") -> tuple[str, ...]:
    """Every domain that a resolver with this configuration may try: `config` is the text of resolv.conf, `host_name`
    this host's name, and `override` what LOCALDOMAIN says.

    The last line of several counts for the resolver; here all of them do. Without any it is the domain of the host.
    """
    found: list[str] = override.split()
    for line in config.splitlines():
        words = line.split()
        if words and words[0] in ("search", "domain"):
            found += words[1:]
    domains = dict.fromkeys(one for word in found if (one := _bare(word)))
    if not domains and (own := _bare(host_name.partition(".")[2])):
        domains[own] = None
    return tuple(domains)


def completed(host: str, domains: Iterable[str]) -> tuple[str, ...]:
    """What `host` may stand for besides itself; nothing for a name that ends in a dot, which is whole."""
    if not host or host.endswith(".") or host.lower() in _NO_COMPLETION:
        return ()
    return tuple(f"{host}.{domain}" for domain in domains)


async def other_names(host: str, addresses: Collection[str], canonical: str, look_up: LookUp) -> tuple[str, ...]:
    """What else this host's resolver may have taken `host` for when it found `addresses`, and the name `canonical` that
    it led to (empty when it is not known).

    A name with a dot is usually whole. That it was taken so is known when it led to itself; else `look_up`, which may
    raise `OSError` or `TeleportError`, is asked about the name with a dot at its end: it has the same addresses, or
    leads to the same name, whose addresses may differ each time.
    """
    itself = _bare(canonical) == _bare(host)
    led_to = (canonical,) if canonical and not itself else ()
    names = completed(host, _domains())
    if names and "." in host and (itself or await _is_whole(host, addresses, canonical, look_up)):
        names = ()
    return tuple(dict.fromkeys((*names, *led_to)))


async def _is_whole(host: str, addresses: Collection[str], canonical: str, look_up: LookUp) -> bool:
    try:
        found, led_to = await look_up(f"{host}.")
    except (OSError, TeleportError):
        return False
    return (bool(led_to) and _bare(led_to) == _bare(canonical)) or set(addresses) <= set(found)


def _domains() -> tuple[str, ...]:
    try:
        config = RESOLVER.read_text("utf-8", "replace")
    except OSError:
        config = ""  # the resolver then has its defaults
    return search_domains(config, socket.gethostname(), os.environ.get("LOCALDOMAIN", ""))


def _bare(domain: str) -> str:
    return domain.strip(".").lower()
