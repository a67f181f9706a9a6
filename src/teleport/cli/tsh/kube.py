"""`tsh kube`: lists Kubernetes clusters, points kubectl at one, and is what kubectl asks for certificates."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.api import messages as m
    from teleport.client.profile import Profile
    from teleport.client.session_mfa import Ask


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

    profile = _profile(flags)
    found = access(flags, cluster)
    listed = clients.clusters(found, now())
    chosen = kubeconfig_file.current(kubeconfig_file.path_of(os.environ), cluster or profile.cluster)
    if form == "json":
        from teleport.cli.tsh.output import json_text

        rows = [{"name": one.name, "labels": one.labels, "selected": one.name == chosen} for one in listed]
        render.out(json_text(rows))
    elif quiet:
        render.out("".join(f"{render.printable(one.name)}\n" for one in listed))
    else:
        marked = [(one.name, "*" if one.name == chosen else "") for one in listed]
        render.out(render.table(("Kube Cluster Name", "Selected"), marked))


@kube.command()
@click.argument("name")
@cluster_option
@takes_flags
def login(flags: Flags, name: str, cluster: str) -> None:
    """Point kubectl at a Kubernetes cluster: its context becomes the current one of the kubeconfig."""
    from teleport.cli.tsh import kube_entries
    from teleport.client import kube as clients

    profile = _profile(flags)
    found = access(flags, cluster)
    address = clients.address_of(profile, flags.home, now())
    where = cluster or profile.cluster
    if name not in (one.name for one in clients.clusters(found, now())):
        raise kube_entries.unknown(name, where)
    clients.credentials(flags.home, profile, name, now(), where, _ask(profile, name))  # what refuses it is said now
    kube_entries.put(flags.home, profile, where, [name], address.address, name)


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
    ask = _ask(profile, kube_cluster)
    held = clients.credentials(flags.home, profile, kube_cluster, now(), teleport_cluster, ask)
    render.out(clients.exec_credential(held))


def _ask(found: Profile, kube_cluster: str) -> Ask:
    """Asks for a second factor: at the terminal, whose line kubectl passes on or not, or by a hardware key."""

    def ask(challenge: m.FactorChallenge) -> m.FactorResponse:
        import shlex

        from teleport.cli.tsh.prompts import second_factor

        name = render.printable(kube_cluster)
        render.note(f"tsh: the Kubernetes cluster {name} needs a second factor, good for a minute")
        try:
            return second_factor(found.web)(challenge)
        except BadRequest as error:
            if "there is nobody to ask" not in error.message:
                raise
            where = f"in a terminal: tsh kube login {shlex.quote(name)}, which kubectl can use for a minute"
            raise BadRequest(error.message, hint=where) from None

    return ask


def _profile(flags: Flags) -> Profile:
    """The login that is meant."""
    from teleport.client import profile
    from teleport.client.addresses import ProxyAddress

    if flags.identity:
        raise BadRequest("kubectl needs a login, not an identity file", hint="tctl auth sign --format=kubernetes")
    address = ProxyAddress.parse(flags.proxy) if flags.proxy else None
    return profile.choose(flags.home, address.host if address else "", flags.user)
