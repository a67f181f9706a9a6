"""`tctl auth`: authorities for others to trust (`certificates.md` 8); `signing` has what is signed for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Command, Group, flags_of
from teleport.cli.tctl.rotate import rotate
from teleport.cli.tctl.signing import sign
from teleport.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.pki.keys import PublicKey
    from teleport.resources.authority import Authority, KeySet
    from teleport.resources.secret import SecretText


@click.group(cls=Group)
def auth() -> None:
    """Export authorities, sign certificates for users and hosts, rotate authorities."""


auth.add_command(rotate)


# export


@auth.command("export", cls=Command)
@click.option(
    "--type",
    "kind",
    type=click.Choice(("user", "host", "openssh", "tls", "krl")),
    help="user and host: for SSH; openssh: by which proxies enter a plain sshd; tls: PEM; krl: what OpenSSH must not "
    "take any more.",
)
@click.option("--keys", is_flag=True, help="Print the private keys. Who holds them is the cluster.")
@click.option("--fingerprint", default="", metavar="SHA256:...", help="Only the key with this fingerprint.")
@click.option("--compat", type=click.Choice(("1.0",)), help="1.0: user authorities as known_hosts lines, too.")
@click.pass_context
def export(ctx: click.Context, kind: str | None, keys: bool, fingerprint: str, compat: str | None) -> None:
    """Print what others need to trust this cluster: authorized_keys and known_hosts lines, the TLS authority, or the
    revocation list for RevokedKeys of sshd_config and RevokedHostKeys of ssh_config."""
    from teleport.cli.tctl.connect import open_auth

    if kind == "krl":
        if keys or compat or fingerprint:
            raise BadRequest("a revocation list is for all keys together", hint="tctl auth export --type=krl > FILE")
        _revocation_list(ctx)
        return
    if keys and compat:
        raise BadRequest("--compat is a form of public keys", hint="leave --compat or --keys out")
    kinds = {"user": ["user"], "host": ["host"], "tls": ["host"], "openssh": ["openssh"]}.get(
        kind or "", ["host", "user"]
    )
    parts: list[str] = []
    with open_auth(flags_of(ctx)) as connected:
        for name in kinds:
            authority = _authority(connected, name, with_secrets=keys)
            line = _line_of(authority.type, old=compat is not None)
            parts += _parts(authority, line, tls=kind == "tls", keys=keys, fingerprint=fingerprint)
    if not parts:
        shown = f" with the fingerprint {fingerprint}" if fingerprint else ""
        raise NotFound(f"no authority{shown} was found", hint="tctl get cert_authority --format=text")
    render.out("".join(f"{part.strip()}\n" for part in parts))


def _revocation_list(ctx: click.Context) -> None:
    import base64
    import sys

    from teleport.cli.tctl.connect import open_auth

    if sys.stdout.isatty():
        raise BadRequest("a revocation list is no text", hint="tctl auth export --type=krl > FILE")
    with open_auth(flags_of(ctx)) as connected:
        found = connected.client.call(routes.REVOCATION_LIST, m.RevocationListRequest())
    sys.stdout.buffer.write(base64.b64decode(found.krl))
    sys.stdout.buffer.flush()


def _authority(connected: Auth, kind: str, *, with_secrets: bool) -> Authority:
    from teleport.resources.authority import Authority
    from teleport.resources.codec import from_json

    request = m.GetRequest(name=f"{kind}/{connected.cluster}", with_secrets=with_secrets)
    found = from_json(bytes(connected.client.call(routes.GET["cert_authority"], request).item))
    assert isinstance(found, Authority)
    return found


def _line_of(kind: str, *, old: bool) -> Callable[[str, PublicKey], str]:
    """What makes a key the line that trusts it. The old form had users' authorities in known_hosts, too."""
    from teleport.pki import authority

    if kind == "openssh":
        return authority.trusted_user_keys_line
    if kind != "user":
        return authority.known_hosts_line
    return authority.old_user_line if old else authority.authorized_keys_line


def _parts(
    authority: Authority, line: Callable[[str, PublicKey], str], *, tls: bool, keys: bool, fingerprint: str
) -> Iterator[str]:
    from teleport.pki.keys import PublicKey
    from teleport.pki.x509verify import certificate_key, load_certificate

    for held in (authority.spec.active_keys, authority.spec.additional_trusted_keys):
        for public, private, text in _pairs(held, tls=tls):
            key = certificate_key(load_certificate(public.encode())) if tls else PublicKey.parse(public)
            if fingerprint and key.fingerprint() != fingerprint:
                continue
            if keys:
                if private is not None:
                    yield _plain(private)
            else:
                yield text or line(authority.name, key)


def _plain(private: SecretText) -> str:
    """A private key itself. Raises `BadRequest` when what is stored of it only says where it is."""
    text = private.reveal()
    if text.startswith("pkcs11:"):
        raise BadRequest(
            f"this private key cannot be exported: it is in a PKCS#11 token ({text})", hint="leave --keys out"
        )
    return text


def _pairs(held: KeySet, *, tls: bool) -> Iterator[tuple[str, SecretText | None, str]]:
    """Public half, private half, and what is exported when that is not a line made of the key."""
    if tls:
        yield from ((pair.cert, pair.key, pair.cert) for pair in held.tls)
    else:
        yield from ((pair.public_key, pair.private_key, "") for pair in held.ssh)


auth.add_command(sign)
