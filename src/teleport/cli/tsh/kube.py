"""`tsh kube`: lists Kubernetes clusters, points kubectl at one, and is what kubectl asks for certificates."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.client.profile import Profile


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def kube() -> None:
    """Use Kubernetes clusters."""


@kube.command()
@click.option("-q", "--quiet", is_flag=True, help="names alone, without a header")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text")
@cluster_option
@takes_flags
def ls(flags: Flags, quiet: bool, form: str, cluster: str) -> None:
    """List the Kubernetes clusters that you may use."""
    from teleport.client import kube as clients
    from teleport.client import kubeconfig_file

    found = access(flags, "")
    profile = _profile(flags)
    where, at = cluster or profile.cluster, now()
    names = clients.clusters(found, clients.address_of(profile, flags.home, at), flags.home, profile, where, at)
    chosen = kubeconfig_file.current(kubeconfig_file.path_of(os.environ), where)
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text([{"name": name, "selected": name == chosen} for name in names]))
    elif quiet:
        render.out("".join(f"{render.printable(name)}\n" for name in names))
    else:
        rows = [(name, "*" if name == chosen else "") for name in names]
        render.out(render.table(("Kube Cluster Name", "Selected"), rows))


@kube.command()
@click.argument("name")
@cluster_option
@takes_flags
def login(flags: Flags, name: str, cluster: str) -> None:
    """Point kubectl at a Kubernetes cluster: its context becomes the current one of the kubeconfig."""
    from teleport.client import keystore, kubeconfig_file
    from teleport.client import kube as clients

    found = access(flags, "")
    profile = _profile(flags)
    address = clients.address_of(profile, flags.home, now())
    where = cluster or profile.cluster
    if name not in clients.clusters(found, address, flags.home, profile, where, now()):
        raise NotFound(f"there is no Kubernetes cluster {name!r} that you may use", hint="tsh kube ls")
    clients.credentials(flags.home, profile, name, now(), where)  # so that what refuses it is said now
    files = keystore.KeyFiles(profile.name, profile.user)
    entry = kubeconfig_file.Entry(
        cluster=where,
        kube_cluster=name,
        server=address.address,
        server_name=address.server_name,
        authorities=keystore.write_kube_authorities(flags.home, files, profile.root_cluster),
        program=os.path.realpath(sys.argv[0]),
        proxy=profile.web_proxy_addr,
        user=profile.user,
    )
    kubeconfig_file.put(kubeconfig_file.path_of(os.environ), entry)
    render.note(f"kubectl uses the Kubernetes cluster {render.printable(name)} now, by the context {entry.context}")


@kube.command(hidden=True)
@click.option("--kube-cluster", required=True)
@click.option("--teleport-cluster", default="")
@takes_flags
def credentials(flags: Flags, kube_cluster: str, teleport_cluster: str) -> None:
    """Print a certificate as kubectl reads it."""
    from teleport.client import kube as clients
    from teleport.client import renewal

    if sys.stdout.isatty():
        raise BadRequest("this prints a private key, and not on a terminal", hint="kubectl asks for it: tsh kube login")
    profile = _profile(flags)
    renewal.keep_fresh(flags.home, profile.name, now())
    render.out(clients.exec_credential(clients.credentials(flags.home, profile, kube_cluster, now(), teleport_cluster)))


def _profile(flags: Flags) -> Profile:
    """The login that is meant."""
    from teleport.client import profile
    from teleport.client.addresses import ProxyAddress

    if flags.identity:
        raise BadRequest("kubectl needs a login, not an identity file", hint="tctl auth sign --format=kubernetes")
    address = ProxyAddress.parse(flags.proxy) if flags.proxy else None
    return profile.choose(flags.home, address.host if address else "", flags.user)
