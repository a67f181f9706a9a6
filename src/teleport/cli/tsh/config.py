"""`tsh config`, and the hidden `tsh config-proxy` for configurations that call it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, cluster_option, now, takes_flags
from teleport.client import keystore, profile, ssh_include, ssh_install
from teleport.client.addresses import ProxyAddress
from teleport.client.other_clusters import unknown
from teleport.client.profile import Profile
from teleport.client.ssh_config import openssh_block
from teleport.client.ssh_hosts import counted
from teleport.errors import BadRequest


def _profile(flags: Flags) -> Profile:
    return profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user)


@click.command()
@click.option("--install", "wish", flag_value="install", help="keep the hosts in OpenSSH's own configuration")
@click.option("--uninstall", "wish", flag_value="uninstall", help="take that away again")
@cluster_option
@takes_flags
def config(flags: Flags, wish: str | None, cluster: str) -> None:
    """Print configuration for OpenSSH: with it ssh, scp and sftp reach HOST.CLUSTER, of this cluster and of those that
    trust it.

    It goes to the end of ~/.ssh/config, or into a file for ssh -F. With --install nothing is printed: one Include line
    at the top of ~/.ssh/config takes in a file below ~/.tsh with a Host line for each host, so that ssh HOST works and
    editors offer the hosts. tsh login and tsh ls bring it up to date, and certificates are renewed by themselves, never
    beyond the end of the login.
    """
    if wish == "uninstall":
        gone = ssh_install.uninstall(flags.home, os.environ)
        render.note("OpenSSH's configuration is as it was" if gone else "there was nothing to take away")
        return
    if wish == "install":
        _install(flags, cluster)
        return
    found = _profile(flags)
    names = keystore.clusters_of(flags.home, keystore.KeyFiles(found.name, found.user))
    if cluster and cluster not in names:
        raise unknown(cluster, names)
    refresh = ssh_install.refresh_command(flags.home, found.name, os.environ)
    root = found.with_cluster(found.root_cluster)  # its certificate leads to all of them
    keystore.ssh_certificate_line(flags.home, root)
    for name in [cluster] if cluster else list(dict.fromkeys([root.cluster, *names])):
        way = ssh_install.way_by_tsh(flags.home, found.with_cluster(name), os.environ)
        paths = ssh_install.paths(flags.home, root)
        render.out(openssh_block(found.name, found.ssh, name, paths, refresh, way))


def _install(flags: Flags, cluster: str) -> None:
    from teleport.cli.tsh.nodes import remember_hosts

    found = _profile(flags)
    if cluster not in ("", found.root_cluster):
        raise BadRequest("--install lists the hosts of the cluster that was logged in to", hint="tsh login")
    found = found.with_cluster(found.root_cluster)
    if flags.identity:
        raise BadRequest("--install needs a login, which it keeps fresh; an identity file is none", hint="tsh login")
    remember_hosts(flags, found)
    written, changed = ssh_install.install(flags.home, found, os.environ)
    config = ssh_include.user_config(os.environ)
    lead = "takes" if changed else "took"
    render.note(f"{config} {lead} in {flags.home.path(ssh_install.NAME)}{'' if changed else ' already'}")
    render.note(f"ssh now reaches {counted(written.listed)} by name, and *.{found.cluster}, through {found.ssh[0]}")
    if written.left_out:
        render.note(f"left out: {counted(written.left_out)} whose names cannot stand in OpenSSH's configuration")


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("proxy")
def config_refresh(folder: Path, proxy: str) -> None:
    """Renew the certificates of a login when they are due: quickly, silently, whatever happens. OpenSSH runs this."""
    from teleport.client.home import Home
    from teleport.client.renewal import keep_fresh

    keep_fresh(Home(folder), proxy, now())


@click.command(hidden=True)
@click.argument("target")
@cluster_option
@takes_flags
def config_proxy(flags: Flags, target: str, cluster: str) -> int:
    """Lead stdin and stdout to the proxy's subsystem for TARGET, host.cluster:port."""
    from teleport.cli.tsh.proxy import lead_there

    return lead_there(flags, flags.login, target, cluster)
