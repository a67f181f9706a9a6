"""`tctl auth`: authorities for others to trust; certificates signed for users and hosts (`certificates.md` 8, 9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Command, Group, comma_list, flags_of
from teleport.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.resources.authority import Authority, KeySet
    from teleport.resources.secret import SecretText

_LATER = {
    "kubernetes": "the Kubernetes service",
    "db": "the database service",
    "mongodb": "the database service",
}


@click.group(cls=Group)
def auth() -> None:
    """Export authorities, sign certificates for users and hosts."""


# export


@auth.command("export", cls=Command)
@click.option("--type", "kind", type=click.Choice(("user", "host", "tls")), help="user and host: for SSH; tls: PEM.")
@click.option("--keys", is_flag=True, help="Print the private keys. Who holds them is the cluster.")
@click.option("--fingerprint", default="", metavar="SHA256:...", help="Only the key with this fingerprint.")
@click.option("--compat", default="", hidden=True)
@click.pass_context
def export(ctx: click.Context, kind: str | None, keys: bool, fingerprint: str, compat: str) -> None:
    """Print what others need to trust this cluster: authorized_keys and known_hosts lines, or the TLS authority."""
    from teleport.cli.tctl.connect import open_auth

    if compat:
        raise BadRequest(f"--compat={compat}: the old format is not available", hint="leave --compat out")
    kinds = {"user": ["user"], "host": ["host"], "tls": ["host"]}.get(kind or "", ["host", "user"])
    parts: list[str] = []
    with open_auth(flags_of(ctx)) as connected:
        for name in kinds:
            authority = _authority(connected, name, with_secrets=keys)
            parts += _parts(authority, tls=kind == "tls", keys=keys, fingerprint=fingerprint)
    if not parts:
        shown = f" with the fingerprint {fingerprint}" if fingerprint else ""
        raise NotFound(f"no authority{shown} was found", hint="tctl get cert_authority --format=text")
    render.out("".join(f"{part.strip()}\n" for part in parts))


def _authority(connected: Auth, kind: str, *, with_secrets: bool) -> Authority:
    from teleport.resources.authority import Authority
    from teleport.resources.codec import from_json

    request = m.GetRequest(name=f"{kind}/{connected.cluster}", with_secrets=with_secrets)
    found = from_json(bytes(connected.client.call(routes.GET["cert_authority"], request).item))
    assert isinstance(found, Authority)
    return found


def _parts(authority: Authority, *, tls: bool, keys: bool, fingerprint: str) -> Iterator[str]:
    from teleport.pki.authority import authorized_keys_line, known_hosts_line
    from teleport.pki.keys import PublicKey
    from teleport.pki.x509verify import certificate_key, load_certificate

    line = authorized_keys_line if authority.type == "user" else known_hosts_line
    for held in (authority.spec.active_keys, authority.spec.additional_trusted_keys):
        for public, private, text in _pairs(held, tls=tls):
            key = certificate_key(load_certificate(public.encode())) if tls else PublicKey.parse(public)
            if fingerprint and key.fingerprint() != fingerprint:
                continue
            if keys:
                if private is not None:
                    yield private.reveal()
            else:
                yield text or line(authority.name, key)


def _pairs(held: KeySet, *, tls: bool) -> Iterator[tuple[str, SecretText | None, str]]:
    """Public half, private half, and what is exported when that is not a line made of the key."""
    if tls:
        yield from ((pair.cert, pair.key, pair.cert) for pair in held.tls)
    else:
        yield from ((pair.public_key, pair.private_key, "") for pair in held.ssh)


# sign


@auth.command("sign", cls=Command)
@click.option("--user", default="", metavar="NAME", help="Sign for this user.")
@click.option("--host", multiple=True, metavar="NAME,..", help="Sign for a host with a plain sshd: its names.")
@click.option("-o", "--out", required=True, metavar="FILE", help="The file, or the beginning of the files' names.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("file", "openssh", "tls", *_LATER)),
    help="file: all in one; openssh: key and certificate; tls: key, certificate, authorities.",
)
@click.option("--ttl", type=DURATION, help="Lifetime: 12h unless given, for hosts 90 days.")
@click.option("--compat", type=click.Choice(("standard", "oldssh")), default="standard", hidden=True)
@click.option("--proxy", default="", hidden=True)
@click.option("--leaf-cluster", default="", hidden=True)
@click.option("--kube-cluster-name", default="", hidden=True)
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
    leaf_cluster: str,
    kube_cluster_name: str,
    overwrite: bool,
) -> None:
    """Sign certificates for a user, or for a host. A fresh key is made here; files get mode 0600."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.files import check_free, write_private

    names = comma_list(host)
    if bool(user) == bool(names):
        raise BadRequest("give either --user or --host", hint="tctl auth sign --user=NAME --out=FILE")
    if form in _LATER:
        raise BadRequest(
            f"--format={form} comes with {_LATER[form]}, which this version does not have yet",
            hint="for users: --format=file, openssh or tls; for hosts: openssh",
        )
    if leaf_cluster or proxy or kube_cluster_name:
        raise BadRequest("--leaf-cluster, --proxy and --kube-cluster-name are not available yet", hint="leave them out")
    if names and form not in (None, "openssh"):
        raise BadRequest(f"--host is signed as openssh only, not as {form}", hint="--format=openssh")
    chosen = form or ("openssh" if names else "file")
    paths = _paths(Path(out), chosen)
    check_free(paths, overwrite=overwrite)
    with open_auth(flags_of(ctx)) as connected:
        contents = _host_files(connected, names, ttl) if names else _user_files(connected, user, chosen, ttl, compat)
    for path, content in zip(paths, contents, strict=True):
        write_private(path, content)
    render.out("".join(f"{path}\n" for path in paths))
    if names:
        render.note(
            f"In sshd_config of {names[0]}: HostKey and HostCertificate name these files, and TrustedUserCAKeys one "
            "with the output of: tctl auth export --type=user (without its first word and its last)"
        )


def _paths(out: Path, form: str) -> list[Path]:
    match form:
        case "file":
            return [out]
        case "openssh":
            return [out, out.with_name(out.name + "-cert.pub")]
        case _:
            return [out.with_name(out.name + ending) for ending in (".key", ".crt", ".cas")]


def _user_files(connected: Auth, user: str, form: str, ttl: float | None, compat: str) -> list[bytes]:
    from teleport.pki.authority import known_hosts_line
    from teleport.pki.identity_file import IdentityFile, write_identity_file
    from teleport.pki.keys import PublicKey, generate_p256

    key = generate_p256()
    request = m.SignUserRequest(
        name=user,
        public_key=key.public.line(""),
        ttl=12 * 3600.0 if ttl is None else ttl,
        format=form,
        compatibility=compat,
    )
    certs = connected.client.call(routes.SIGN_USER, request)
    authorities = [pem for signer in certs.host_signers for pem in signer.tls_certs]
    match form:
        case "openssh":
            return [key.openssh_pem().reveal(), f"{certs.cert.strip()}\n".encode()]
        case "tls":
            return [key.pkcs8_pem().reveal(), certs.tls_cert.encode(), "".join(authorities).encode()]
    identity = IdentityFile(
        private_key=key.pkcs8_pem(),
        ssh_certificate=certs.cert,
        tls_certificate=certs.tls_cert.encode(),
        known_hosts=tuple(
            known_hosts_line(signer.domain_name, PublicKey.parse(line))
            for signer in certs.host_signers
            for line in signer.checking_keys
        ),
        tls_authorities=tuple(pem.encode() for pem in authorities),
    )
    return [write_identity_file(identity).reveal()]


def _host_files(connected: Auth, names: list[str], ttl: float | None) -> list[bytes]:
    from teleport.pki.keys import generate_ed25519

    key = generate_ed25519()
    request = m.SignHostRequest(principals=names, public_key=key.public.line(""), ttl=ttl or 0)
    certs = connected.client.call(routes.SIGN_HOST, request)
    return [key.openssh_pem().reveal(), f"{certs.ssh_cert.strip()}\n".encode()]
