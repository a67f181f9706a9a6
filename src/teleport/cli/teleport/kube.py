"""`teleport kube`: what runs a Kubernetes service inside a cluster."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.cli import render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.resources.role import Role

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,46}[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[1-9][0-9]{0,8}(Mi|Gi|Ti|M|G|T)")


@click.group()
def kube() -> None:
    """Run a Kubernetes service inside a cluster."""


@kube.command()
@click.option("--kube-cluster-name", metavar="NAME", required=True, help="What the cluster is to be called here.")
@click.option("--auth-server", metavar="ADDRESS", multiple=True, required=True, help="Web address of a proxy.")
@click.option("--ca-pin", metavar="PIN", multiple=True, required=True, help="sha256:... as `tctl status` prints it.")
@click.option("--image", metavar="IMAGE", required=True, help="Image with the program `teleport` in its PATH.")
@click.option("--labels", metavar="LIST", default="", help="Labels of the cluster: a=b,c=d.")
@click.option("--groups", metavar="LIST", multiple=True, help="Groups that people may be in; repeatable.")
@click.option("--users", metavar="LIST", multiple=True, help="Users that people may be; repeatable.")
@click.option("--role-file", metavar="FILE", multiple=True, help="Roles whose groups and users count; repeatable.")
@click.option("--name", metavar="NAME", default="teleport-kube", help="Name of what is made [teleport-kube].")
@click.option("-n", "--namespace", metavar="NAME", default="teleport", help="Where it is to run [teleport].")
@click.option("--token-secret", metavar="NAME", default="", help="Secret whose key `token` is the token [NAME-token].")
@click.option("--storage", metavar="SIZE", default="1Gi", help="Size of the volume for its identity [1Gi].")
def manifest(
    kube_cluster_name: str,
    auth_server: tuple[str, ...],
    ca_pin: tuple[str, ...],
    image: str,
    labels: str,
    groups: tuple[str, ...],
    users: tuple[str, ...],
    role_file: tuple[str, ...],
    name: str,
    namespace: str,
    token_secret: str,
    storage: str,
) -> None:
    """Print what runs the service in a cluster, for `kubectl apply -f -`. No secret is in it."""
    import yaml

    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import load_config
    from teleport.daemon.kube.manifest import Manifest, configuration, documents, granted

    secret = token_secret or f"{name}-token"
    for option, value in (("--name", name), ("--namespace", namespace), ("--token-secret", secret)):
        # what was given for the Secret may be the token itself, and is not repeated
        if not _NAME.fullmatch(value.removesuffix("-token") if option == "--token-secret" else value):
            raise BadRequest(f"{option} is no name that Kubernetes takes", hint="use up to 48 of a-z, 0-9 and -")
    if not _QUANTITY.fullmatch(storage):
        raise BadRequest("--storage is no size", hint="--storage=1Gi")
    if not re.fullmatch(r"[!-~]{1,255}", image):
        raise BadRequest("--image is no image", hint="--image=registry.example.com/teleport:TAG")
    if not all(ca_pin):
        raise BadRequest("an empty --ca-pin proves nothing", hint="tctl status on the auth server prints it")
    flags = StartFlags(roles="node", auth_servers=auth_server, ca_pins=ca_pin, labels=labels, nodename=name)
    checked = effective_config(None, flags, socket.gethostname())
    assert checked.node is not None
    if checked.node.labels.dynamic:
        raise BadRequest("--labels takes no commands here", hint="--labels=env=prod")
    text = configuration(
        [str(server) for server in checked.auth_servers],
        list(checked.ca_pins),
        kube_cluster_name,
        name,
        checked.node.labels.static,
    )
    load_config(text, "teleport.yaml")
    whom, notes = granted(_roles(role_file), _listed("--users", users), _listed("--groups", groups))
    made = documents(Manifest(name, namespace, image, secret, storage, text, whom))
    for note in notes:
        render.note(f"note: {note}: the service may act as any (--users, --groups or --role-file name whom)")
    render.out(yaml.dump_all(made, Dumper=_plain(), sort_keys=False, allow_unicode=True, explicit_start=True))


def _plain() -> type:
    """Writes what occurs twice twice: Kubernetes' own tools read no anchors in places."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return Plain


def _listed(option: str, given: tuple[str, ...]) -> list[str]:
    found = [one.strip() for text in given for one in text.split(",")]
    for one in found:
        if not one or "{{" in one or one == "*" or not one.isprintable():
            raise BadRequest(f"{option} names one by one, as Kubernetes is told", hint=f"{option}=developers,viewers")
    return found


def _roles(files: tuple[str, ...]) -> list[Role]:
    from teleport.resources.parse import parse_resources
    from teleport.resources.role import Role

    found = []
    for file in files:
        try:
            text = Path(file).read_bytes()
        except OSError as error:
            raise BadRequest(
                f"{file}: {error.strerror}", hint="name a file that tctl get role/NAME has printed"
            ) from None
        for one in parse_resources(text, file):
            if not isinstance(one, Role):
                raise BadRequest(f"{file}: {one.kind}/{one.name} is no role", hint="tctl get role/NAME prints one")
            found.append(one)
    return found
