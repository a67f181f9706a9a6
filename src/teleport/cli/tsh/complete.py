"""What completion offers for the words of tsh: from what is kept below `~/.tsh`, nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from teleport.cli.tsh.flags import Flags

if TYPE_CHECKING:
    from teleport.client.profile import Profile


def _flags(context: click.Context) -> Flags:
    found = context.find_root().obj
    return found if isinstance(found, Flags) else Flags()


def _profiles(context: click.Context) -> list[Profile]:
    from teleport.client import profile

    return profile.load_all(_flags(context).home)


def _hosts(context: click.Context) -> list[str]:
    from teleport.client import hosts_seen, profile

    home = _flags(context).home
    seen = hosts_seen.recall(home, context.params.get("proxy") or profile.current_name(home))
    return sorted({name for name, _ in seen.hosts}) if seen else []


def _logins(context: click.Context) -> list[str]:
    from teleport.client import keystore

    for one in _profiles(context)[:1]:
        return list(keystore.facts(keystore.ssh_certificate_line(_flags(context).home, one)).logins)
    return []


def _targets(context: click.Context) -> Iterable[str]:
    """`host`, and `login@host` for each login."""
    hosts, logins = _hosts(context), _logins(context)
    return [*hosts, *(f"{login}@" for login in logins), *(f"{login}@{host}" for login in logins for host in hosts)]


def _clusters(context: click.Context) -> Iterable[str]:
    return {name for one in _profiles(context) for name in (one.cluster, one.root_cluster)}


TABLE = {
    "ssh target": _targets,
    "latency target": _targets,
    "login": _logins,
    "cluster": _clusters,
    "proxy": lambda context: [one.web_proxy_addr for one in _profiles(context)],
    "user": lambda context: [one.user for one in _profiles(context)],
    "auth": lambda context: ["local"],
}
