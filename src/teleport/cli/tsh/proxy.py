"""`tsh proxy ssh`: stdin and stdout lead to a host through the proxy. It runs for each connection of OpenSSH.

Where OpenSSH's client is installed, and it usually is, for it is what runs this, the program becomes it: a connection
takes about three quarters of the time that it takes with an SSH library in Python, and prompts for second factors are
as always. Elsewhere, with an identity file, and where OpenSSH cannot reach the proxy (`ssh_install.needs_tsh`), tsh
speaks SSH to the proxy itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import click

from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.client import keystore, profile, ssh_install
from teleport.client.addresses import NODE_PORT, ProxyAddress
from teleport.client.ssh_config import openssh_arguments, proxy_subsystem
from teleport.errors import BadRequest, TeleportError

NOT_KNOWN = 255


@click.group()
def proxy() -> None:
    """Lead a connection of another program through the proxy."""


@proxy.command("ssh")
@click.argument("target")
@cluster_option
@takes_flags
def ssh(flags: Flags, target: str, cluster: str) -> int:
    """Lead stdin and stdout to the SSH port of a host: a ProxyCommand for OpenSSH. TARGET: [user@]host[:port]."""
    login, at, where = target.rpartition("@")
    if not where or (at and not login):
        raise BadRequest(f"{target[:80]!r} names no host", hint="ProxyCommand tsh proxy ssh %r@%h:%p")
    if ":" not in where.rpartition("]")[2]:
        where = f"{where}:{NODE_PORT}"
    return lead_there(flags, login or flags.login, where, cluster)


def lead_there(flags: Flags, login: str, where: str, cluster: str) -> int:
    """Leads stdin and stdout to `where`, host.cluster:port: as `ssh` where that can, else by ourselves."""
    if not flags.identity and shutil.which("ssh") and not ssh_install.needs_tsh(_chosen(flags), os.environ):
        return become_ssh(flags, login, where, cluster)
    from teleport.cli import render

    try:
        return _by_ourselves(flags, login, where, cluster)
    except TeleportError as error:
        render.report(error, "tsh", as_json_object=False)
        return NOT_KNOWN


def _chosen(flags: Flags) -> profile.Profile:
    return profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user)


def become_ssh(flags: Flags, login: str, where: str, cluster: str) -> int:
    """Goes on as `ssh` to the proxy's subsystem for `where`, host.cluster:port."""
    from teleport.client import system
    from teleport.client.renewal import keep_fresh

    found = _chosen(flags)
    keep_fresh(flags.home, found.name, now())
    facts = keystore.facts(keystore.ssh_certificate_line(flags.home, found))
    keystore.check_valid(facts, now(), hint=found.login_command)
    login = login or (facts.logins[0] if facts.logins else found.user)
    names = keystore.clusters_of(flags.home, keystore.KeyFiles(found.name, found.user))
    name = cluster or ending(where, [found.root_cluster, *names]) or found.cluster
    subsystem = proxy_subsystem(where, name)
    return system.become(openssh_arguments(found.ssh, login, subsystem, ssh_install.paths(flags.home, found)))


def ending(where: str, clusters: Sequence[str]) -> str:
    """The cluster that the name in `host:port` ends with; empty for none."""
    host = where.rpartition(":")[0].rstrip(".").lower()
    return max((name for name in clusters if host.endswith(f".{name.lower()}")), key=len, default="")


def _by_ourselves(flags: Flags, login: str, where: str, cluster: str) -> int:
    import asyncio
    import gc

    found = access(flags, cluster)
    from teleport.client.other_clusters import towards
    from teleport.client.proxying import lead

    if not cluster:
        found = towards(found, where.rpartition(":")[0])

    gc.freeze()
    gc.enable()
    facts = keystore.facts(found.credentials.ssh_certificate)
    login = login or (facts.logins[0] if facts.logins else found.credentials.user)
    return asyncio.run(lead(found, login, proxy_subsystem(where, found.cluster), now()))
