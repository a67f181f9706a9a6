"""`tsh config`, and the hidden `tsh config-proxy` for configurations that call it."""

from __future__ import annotations

import os

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, cluster_option, now, takes_flags
from teleport.client import keystore, known_hosts, profile
from teleport.client.addresses import ProxyAddress
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.client.ssh_config import OpenSSHPaths, openssh_arguments, openssh_block, proxy_subsystem


def _profile(flags: Flags) -> Profile:
    return profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user)


def _paths(home: Home, found: Profile) -> OpenSSHPaths:
    files = keystore.KeyFiles(found.name, found.user)
    return OpenSSHPaths(home.path(known_hosts.NAME), home.path(*files.key), home.path(*files.ssh(found.cluster)))


@click.command()
@cluster_option
@takes_flags
def config(flags: Flags, cluster: str) -> None:
    """Print configuration for OpenSSH: with it ssh, scp and sftp reach HOST.CLUSTER.

    It goes to the end of ~/.ssh/config, or into a file for ssh -F.
    """
    found = _profile(flags).with_cluster(cluster) if cluster else _profile(flags)
    keystore.ssh_certificate_line(flags.home, found)
    render.out(openssh_block(found.name, found.ssh, found.cluster, _paths(flags.home, found)))


@click.command(hidden=True)
@click.argument("target")
@cluster_option
@takes_flags
def config_proxy(flags: Flags, target: str, cluster: str) -> None:
    """Become `ssh` to the proxy's subsystem for TARGET, host.cluster:port."""
    found = _profile(flags)
    line = keystore.ssh_certificate_line(flags.home, found)
    facts = keystore.facts(line)
    keystore.check_valid(facts, now(), hint=found.login_command)
    login = flags.login or (facts.logins[0] if facts.logins else found.user)
    subsystem = proxy_subsystem(target, cluster or found.cluster)
    arguments = openssh_arguments(found.ssh, login, subsystem, _paths(flags.home, found))
    os.execvp(arguments[0], arguments)  # noqa: S606 (a list, no shell)
