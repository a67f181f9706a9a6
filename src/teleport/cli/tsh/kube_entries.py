"""The kubeconfig as `tsh login` and `tsh kube login` leave it: entries for the clusters that the person may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from teleport.cli import render
from teleport.cli.tsh.flags import now
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.errors import NotFound, TeleportError


def put(home: Home, found: Profile, cluster: str, names: Iterable[str], address: str, chosen: str = "") -> bool:
    """Puts entries for Kubernetes clusters of `cluster` in, `chosen` of which becomes the current one. Whether the
    kubeconfig is another one now."""
    from teleport.client import keystore, kubeconfig_file
    from teleport.client import kube as clients

    at = clients.where(found, address)
    authorities = keystore.write_kube_authorities(home, keystore.KeyFiles(found.name, found.user), found.root_cluster)
    entries = [
        kubeconfig_file.Entry(
            cluster=cluster,
            kube_cluster=name,
            server=at.address,
            server_name=at.server_name,
            authorities=authorities,
            program=os.path.realpath(sys.argv[0]),
            proxy=found.web_proxy_addr,
            user=found.user,
            home=home_of_plugin(home),
        )
        for name in names
    ]
    context = next((one.context for one in entries if one.kube_cluster == chosen), "")
    path = kubeconfig_file.path_of(os.environ)
    changed = kubeconfig_file.put_all(path, entries, context)
    if context:
        render.note(f"kubectl uses the Kubernetes cluster {render.printable(chosen)} now, by the context {context}")
    return changed


def home_of_plugin(home: Home) -> str:
    """What the kubeconfig tells kubectl of where the login is; empty where tsh finds it by itself."""
    from teleport.client.home import default_path

    return "" if home.root == default_path(os.environ) else str(home.root)


def after_login(home: Home, found: Profile, chosen: str) -> None:
    """What a login does: nothing, and no question, where the proxy serves no Kubernetes clients. A login does not fail
    for it, but where a cluster was `chosen`, whose context becomes the current one."""
    if not (found.kube_proxy_addr or chosen):
        return
    from teleport.client import kube as clients
    from teleport.client.access import from_profile

    try:
        clients.where(found, found.kube_proxy_addr)
        names = [one.name for one in clients.clusters(from_profile(home, found.name, found.user, "", now()), now())]
        if chosen and chosen not in names:
            raise unknown(chosen, found.cluster)
        changed = bool(names) and put(home, found, found.cluster, names, found.kube_proxy_addr, chosen)
    except TeleportError as error:
        if chosen:
            raise
        render.note(f"tsh: the kubeconfig is not brought up to date: {render.printable(error.message)}; {error.hint}")
        return
    if changed and not chosen:
        what = "a Kubernetes cluster" if len(names) == 1 else f"{len(names)} Kubernetes clusters"
        render.note(
            f"kubectl knows {what} of {found.cluster}; tsh kube login NAME chooses the current one: tsh kube ls"
        )


def unknown(name: str, cluster: str) -> NotFound:
    """There is none, or none for this person."""
    return NotFound(f"there is no Kubernetes cluster {name!r} that you may use in {cluster}", hint="tsh kube ls")
