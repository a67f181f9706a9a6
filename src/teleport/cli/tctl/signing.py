"""`tctl auth sign`: certificates for users and hosts, in the forms that programs read (`certificates.md` 9).

A fresh key is made here and goes nowhere but into the files; auth sees its public half.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Command, comma_list, flags_of
from teleport.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.pki.keys import PrivateKey

FOR_USERS: Final = ("file", "openssh", "ppk", "tls", "kubernetes")
FOR_HOSTS: Final = ("openssh", "db", "mongodb")
USER_TTL: Final = 12 * 3600.0  # seconds
KUBE_PORT: Final = 3026


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, checked: either `user` or `hosts`."""

    user: str
    hosts: list[str]
    form: str
    ttl: float | None  # seconds; None: the usual lifetime
    compat: str
    proxy: str
    kube_cluster: str
    source_ip: str
    for_sshd: bool
    leaf: str = ""


@click.command("sign", cls=Command)
@click.option("--user", default="", metavar="NAME", help="Sign for this user.")
@click.option(
    "--host", multiple=True, metavar="NAME,..", help="Sign for a server by its names: a plain sshd, or a database."
)
@click.option("-o", "--out", required=True, metavar="FILE", help="The file, or the beginning of the files' names.")
@click.option(
    "--format",
    "form",
    type=click.Choice(tuple(dict.fromkeys((*FOR_USERS, *FOR_HOSTS)))),
    help="For users: file (all in one), openssh, ppk (PuTTY), tls, kubernetes. For hosts: openssh, db, mongodb.",
)
@click.option("--ttl", type=DURATION, help="Lifetime: 12h unless given, for hosts 90 days.")
@click.option("--compat", type=click.Choice(("standard", "oldssh")), default="standard", hidden=True)
@click.option("--proxy", default="", metavar="HOST[:PORT]", help="With kubernetes: where kubectl reaches the proxy.")
@click.option(
    "--leaf-cluster", "leaf", default="", metavar="NAME", help="With kubernetes: a cluster that trusts this one."
)
@click.option("--kube-cluster-name", "kube_cluster", default="", metavar="NAME", help="With kubernetes: which cluster.")
@click.option("--source-ip", default="", metavar="ADDRESS", help="The user's certificates hold from this address only.")
@click.option("--for-sshd", is_flag=True, help="With openssh and --source-ip: for hosts with a plain sshd alone.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.pass_context
def sign(
    ctx: click.Context,
    user: str,
    host: tuple[str, ...],
    out: str,
    form: str | None,
    ttl: float | None,
    compat: str,
    proxy: str,
    leaf: str,
    kube_cluster: str,
    source_ip: str,
    for_sshd: bool,
    overwrite: bool,
) -> None:
    """Sign certificates for a user, or for a server. A fresh key is made here; files get mode 0600."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.files import check_free, write_private

    hosts = comma_list(host)
    if bool(user) == bool(hosts):
        raise BadRequest("give either --user or --host", hint="tctl auth sign --user=NAME --out=FILE")
    chosen = form or ("openssh" if hosts else "file")
    wanted = Wanted(user, hosts, chosen, ttl, compat, proxy, kube_cluster, source_ip, for_sshd, leaf)
    _check(wanted)
    paths = paths_of(Path(out), wanted.form)
    check_free(paths, overwrite=overwrite)
    with open_auth(flags_of(ctx)) as connected:
        contents = _host_files(connected, wanted) if hosts else _user_files(connected, wanted)
    for path, content in zip(paths, contents, strict=True):
        write_private(path, content)
    render.out("".join(f"{path}\n" for path in paths))
    if note := _note(wanted, paths):
        render.note(note)


def _check(wanted: Wanted) -> None:
    """Raises `BadRequest` for what does not go together, before anything is asked of auth."""
    possible = FOR_HOSTS if wanted.hosts else FOR_USERS
    if wanted.form not in possible:
        who, other = ("--host", "--user") if wanted.hosts else ("--user", "--host")
        raise BadRequest(
            f"{who} is not signed as {wanted.form}; its formats are {', '.join(possible)}",
            hint=f"--format={possible[0]}, or {other} in place of {who}",
        )
    if wanted.compat != "standard":
        raise BadRequest(
            f"--compat={wanted.compat} is not available: hosts of the cluster read roles from the certificate",
            hint="leave it out",
        )
    if wanted.hosts and wanted.source_ip:
        raise BadRequest("--source-ip is for users: servers are reached, they do not come", hint="leave it out")
    if wanted.for_sshd and not (wanted.form == "openssh" and wanted.user and wanted.source_ip):
        raise BadRequest("--for-sshd goes with --user, --format=openssh and --source-ip", hint="leave it out")
    if wanted.form != "kubernetes" and (wanted.proxy or wanted.kube_cluster or wanted.leaf):
        raise BadRequest(
            "--proxy, --kube-cluster-name and --leaf-cluster belong to --format=kubernetes", hint="leave them out"
        )


def paths_of(out: Path, form: str) -> list[Path]:
    """The files of a form (`certificates.md` 9)."""
    endings = {
        "openssh": ("", "-cert.pub"),
        "tls": (".key", ".crt", ".cas"),
        "db": (".key", ".crt", ".cas"),
        "mongodb": (".crt", ".cas"),
    }
    return [out.with_name(out.name + ending) for ending in endings.get(form, ("",))]


def _note(wanted: Wanted, paths: list[Path]) -> str:
    """What to do with the files, where that is not obvious."""
    match wanted.form:
        case "openssh" if wanted.hosts:
            return (
                f"In sshd_config of {wanted.hosts[0]}: HostKey and HostCertificate name these files, and "
                "TrustedUserCAKeys one with the output of: tctl auth export --type=user (without its first word and "
                "its last)"
            )
        case "openssh" if wanted.source_ip and not wanted.for_sshd:
            return (
                "The proxies and nodes of the cluster hold this certificate to its address; a plain sshd does not know "
                "how: for one, sign with --for-sshd"
            )
        case "ppk":
            return (
                f"plink -i {paths[0]} and PuTTY 0.78 or newer use this file; they trust hosts of the cluster by the "
                "key that tctl auth export --type=host prints (PuTTY: Connection, SSH, Host keys, certificates)"
            )
        case "kubernetes":
            return (
                f"kubectl --kubeconfig={paths[0]} get pods; the proxy listens there with kube_listen_addr in its file."
            )
        case "db":
            return f"The database takes {paths[1]} and {paths[0]} as its pair, and {paths[2]} as whom it believes."
        case "mongodb":
            return f"In mongod.conf: certificateKeyFile is {paths[0]}, CAFile is {paths[1]}."
    return ""


def _user_files(connected: Auth, wanted: Wanted) -> list[bytes]:
    from teleport.pki.keys import generate_p256

    key = generate_p256()
    limited = wanted.form == "kubernetes"
    server = _kube_server(connected, wanted.proxy) if limited else ""
    request = m.SignUserRequest(
        name=wanted.user,
        public_key=key.public.line(""),
        ttl=USER_TTL if wanted.ttl is None else wanted.ttl,
        format=wanted.form,
        compatibility=wanted.compat,
        usage="usage:kube" if limited else "",
        kube_cluster=wanted.kube_cluster,
        route_to_cluster=_leaf(connected, wanted.leaf),
        source_ip=wanted.source_ip,
        for_sshd=wanted.for_sshd,
    )
    certs = connected.client.call(routes.SIGN_USER, request)
    authorities = "".join(pem for signer in certs.host_signers for pem in signer.tls_certs)
    match wanted.form:
        case "openssh":
            return [key.openssh_pem().reveal(), f"{certs.cert.strip()}\n".encode()]
        case "ppk":
            from teleport.pki.ppk import comment_of, write_ppk
            from teleport.pki.sshformat import parse_certificate_line

            comment = comment_of(wanted.user, connected.cluster)
            return [write_ppk(key, parse_certificate_line(certs.cert), comment).reveal()]
        case "tls":
            return [key.pkcs8_pem().reveal(), certs.tls_cert.encode(), authorities.encode()]
        case "kubernetes":
            from teleport.client.kubeconfig import kubeconfig

            cluster = wanted.leaf or connected.cluster
            name = f"{cluster}-{wanted.kube_cluster}" if wanted.kube_cluster else cluster
            return [
                kubeconfig(
                    cluster=cluster,
                    context=name,
                    server=server,
                    authorities=authorities.encode(),
                    certificate=certs.tls_cert.encode(),
                    key=key.pkcs8_pem(),
                ).reveal()
            ]
    return [_identity_file(key, certs)]


def _identity_file(key: PrivateKey, certs: m.UserCerts) -> bytes:
    from teleport.pki.authority import known_hosts_line
    from teleport.pki.identity_file import IdentityFile, write_identity_file
    from teleport.pki.keys import PublicKey

    identity = IdentityFile(
        private_key=key.pkcs8_pem(),
        ssh_certificate=certs.cert,
        tls_certificate=certs.tls_cert.encode(),
        known_hosts=tuple(
            known_hosts_line(signer.domain_name, PublicKey.parse(line))
            for signer in certs.host_signers
            for line in signer.checking_keys
        ),
        tls_authorities=tuple(pem.encode() for signer in certs.host_signers for pem in signer.tls_certs),
    )
    return write_identity_file(identity).reveal()


def _leaf(connected: Auth, name: str) -> str:
    """The cluster that the certificate leads to; empty: this one. Raises `NotFound`."""
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind

    if name and all(one.name != name for one in all_of(connected, Kind.REMOTE_CLUSTER)):
        raise NotFound(f"no cluster {name!r} trusts this one", hint="tctl get rc")
    return name


def _kube_server(connected: Auth, proxy: str) -> str:
    """The URL for kubectl: `--proxy`, else the first proxy's public host, on the usual port."""
    from teleport.client.addresses import join, split_port

    if proxy:
        return "https://" + join(*split_port(proxy.removeprefix("https://").rstrip("/"), KUBE_PORT))
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind
    from teleport.resources.server import Server

    for server in all_of(connected, Kind.PROXY):
        if isinstance(server, Server) and server.spec.public_addrs:
            return "https://" + join(split_port(server.spec.public_addrs[0], KUBE_PORT)[0], KUBE_PORT)
    raise NotFound("no proxy has announced where it is reached", hint="name one: --proxy=HOST[:PORT]")


def _host_files(connected: Auth, wanted: Wanted) -> list[bytes]:
    if wanted.form == "openssh":
        from teleport.pki.keys import generate_ed25519

        key = generate_ed25519()
        request = m.SignHostRequest(principals=wanted.hosts, public_key=key.public.line(""), ttl=wanted.ttl or 0)
        certs = connected.client.call(routes.SIGN_HOST, request)
        return [key.openssh_pem().reveal(), f"{certs.ssh_cert.strip()}\n".encode()]
    from teleport.pki.keys import generate_p256

    key = generate_p256()
    signed = connected.client.call(
        routes.SIGN_SERVER,
        m.SignServerRequest(
            names=wanted.hosts, public_key=key.public.spki_pem().decode(), ttl=wanted.ttl or 0, format=wanted.form
        ),
    )
    private, authorities = key.pkcs8_pem().reveal(), "".join(signed.tls_ca_certs).encode()
    if wanted.form == "mongodb":
        return [signed.tls_cert.encode() + private, authorities]
    return [private, signed.tls_cert.encode(), authorities]
