"""The hosts that `tsh ls` saw last, for each proxy: what completion offers and OpenSSH's configuration lists.

`~/.tsh/hosts/<proxy>.json` holds `{"cluster": NAME, "hosts": [[NAME, UUID], ..]}`. Names are the hosts' own words:
whoever uses them checks or escapes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from teleport.client.addresses import check_host
from teleport.client.home import Home

FOLDER = "hosts"
MOST = 8000  # hosts; more are not listed
_LONGEST = 253  # characters of a name


@dataclass(frozen=True, slots=True)
class HostsSeen:
    """Hosts by name and UUID, in order of name."""

    cluster: str
    hosts: tuple[tuple[str, str], ...]


def remember(home: Home, proxy: str, cluster: str, hosts: Iterable[tuple[str, str]]) -> None:
    """Replaces what is known of this proxy's hosts. Raises `TeleportError` when it cannot be written."""
    kept = sorted((name, uuid) for name, uuid in hosts if len(name) <= _LONGEST and len(uuid) <= _LONGEST)[:MOST]
    text = json.dumps({"cluster": cluster, "hosts": kept}, separators=(",", ":"))
    if recall(home, proxy) != HostsSeen(cluster, tuple(kept)):
        home.write(text.encode("utf-8", "replace"), FOLDER, _file(proxy))


def recall(home: Home, proxy: str) -> HostsSeen | None:
    """What was seen last, None when nothing was or it cannot be read."""
    data = home.read(FOLDER, _file(proxy))
    try:
        found = json.loads(data or b"null")
        return HostsSeen(str(found["cluster"]), tuple((str(name), str(uuid)) for name, uuid in found["hosts"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def forget(home: Home, proxy: str) -> None:
    """Removes it."""
    home.remove(FOLDER, _file(proxy))


def _file(proxy: str) -> str:
    return f"{check_host(proxy)}.json"
