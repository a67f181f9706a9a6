"""`tsh logout`."""

from __future__ import annotations

import os
from contextlib import suppress

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, takes_flags
from teleport.client import hosts_seen, keystore, known_hosts, profile, ssh_install
from teleport.client.addresses import ProxyAddress
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.errors import BadRequest, TeleportError


@click.command()
@takes_flags
def logout(flags: Flags) -> None:
    """Forget keys and certificates: of one user at one proxy (--proxy and --user), or of all."""
    if bool(flags.proxy) != bool(flags.user):
        raise BadRequest(
            "give --proxy and --user for one login, or neither for all",
            hint="TELEPORT_PROXY and TELEPORT_USER count as given",
        )
    if flags.proxy:
        _one(flags.home, ProxyAddress.parse(flags.proxy).host, flags.user)
        ssh_install.rewrite(flags.home, os.environ)
        render.note(f"{render.printable(flags.user)} is logged out of {flags.proxy}")
        return
    home = flags.home
    with suppress(TeleportError):  # a damaged profile is a reason to log out, and none to fail
        for found in profile.load_all(home):
            _from_agent(home, found.name, found.user)
            _from_kubectl(home, found)
    for name in home.names():
        if name.endswith(".yaml") or name in ("keys", hosts_seen.FOLDER, profile.CURRENT, known_hosts.NAME):
            home.remove(name)
    ssh_install.rewrite(home, os.environ)
    render.note("all users are logged out of all proxies")


def _from_agent(home: Home, proxy: str, user: str) -> None:
    """Takes the certificate out of the agent of this machine, where one runs."""
    if os.environ.get("SSH_AUTH_SOCK"):
        from teleport.client import ssh_agent

        ssh_agent.remove(os.environ, home, proxy, user)


def _from_kubectl(home: Home, found: Profile) -> None:
    """Takes the login's clusters out of the kubeconfig. One that cannot be read or changed is named, and left."""
    from teleport.cli.tsh.kube_entries import home_of_plugin
    from teleport.client import kubeconfig_file

    path = kubeconfig_file.path_of(os.environ)
    try:
        kubeconfig_file.remove(path, found.web_proxy_addr, found.user, home_of_plugin(home))
    except TeleportError as error:
        render.note(f"tsh: {error.message}; {error.hint}")


def _one(home: Home, proxy: str, user: str) -> None:
    _from_agent(home, proxy, user)
    found = profile.load(home, proxy)
    if found is not None and found.user == user:
        from teleport.client.login import log_out

        _from_kubectl(home, found)
        log_out(home, found)
    elif not keystore.remove_keys(home, keystore.KeyFiles(proxy, user)):
        raise TeleportError(f"{user} is not logged in to {proxy}", hint="tsh status")
