"""`tctl certs`: the live certificates of users and hosts, and the end of one before its time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.cli.tctl.outcome import outcome
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth


@click.group(cls=Group)
def certs() -> None:
    """List live certificates, and end one before its time."""


@certs.command("ls")
@click.option("--user", default="", metavar="NAME", help="Only certificates of this user.")
@click.option("--host", default="", metavar="UUID", help="Only certificates of this host; all: of every host.")
@format_option("text", "json")
@click.pass_context
def list_certs(ctx: click.Context, user: str, host: str, form: str) -> None:
    """List the certificates that have not expired: users', unless --host is given. One line is one issue: an SSH and a
    TLS certificate with the same serial number. The last use is known to ten minutes."""
    from teleport.cli.tctl.connect import open_auth

    if user and host:
        raise BadRequest("a certificate is of a user or of a host", hint="give --user or --host")
    kind, subject = ("host", "" if host == "all" else host) if host else ("user", user)
    with open_auth(flags_of(ctx)) as auth:
        found = sorted(_all(auth, kind, subject), key=lambda one: (one.issued, one.serial))
    if form == "json":
        import msgspec

        render.out(render.as_json([msgspec.to_builtins(one) for one in found]))
        return
    rows = [
        [
            one.serial,
            one.subject if kind == "user" else f"{','.join(one.names[:1])} ({one.subject})",
            ",".join(one.logins if kind == "user" else one.system_roles),
            render.when(one.issued),
            one.addr + (f" by {one.by}" if one.by else ""),
            one.factor + (" (renewed)" if one.renewed_from else ""),
            render.when(one.expires),
            render.when(one.last_use),
            one.stopped or "-",
        ]
        for one in found
    ]
    what = ["User", "Logins"] if kind == "user" else ["Host", "As"]
    headers = ["Serial", *what, "Issued (UTC)", "From", "Proved", "Expires (UTC)", "Last use (UTC)", "Stopped by"]
    render.out(render.table(headers, rows))


def _all(auth: Auth, kind: str, subject: str) -> Iterator[m.CertInfo]:
    start = ""
    while True:
        page = auth.client.call(routes.LIST_CERTS, m.ListCertsRequest(type=kind, subject=subject, start_key=start))
        yield from page.items
        if not page.next_key or page.next_key == start:
            return
        start = page.next_key


@certs.command("revoke")
@click.argument("serial")
@click.option("--message", default="", metavar="TEXT", help="Why; for administrators and the audit log.")
@format_option("text", "json")
@click.pass_context
def revoke(ctx: click.Context, serial: str, message: str, form: str) -> None:
    """End the certificate with this SERIAL number, SSH and TLS, and those that it was renewed to: new connections and
    calls are refused, open sessions end. Decimal as ssh-keygen -L shows it, or 0x and hex as openssl does."""
    from teleport.cli.tctl.connect import open_auth

    number = serial_of(serial)
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        done = auth.client.call(routes.REVOKE_CERT, m.RevokeCertRequest(serial=number, message=message))
        for ended, lock in zip(done.serials, done.locks, strict=True):
            whose = f" of the {done.type} {render.printable(done.subject)!r}" if done.known else ""
            came = "" if ended == number else f", which came of {number},"
            said = f"certificate {ended}{whose}{came} has ended by lock {lock}"
            tell("certificate", ended, "revoked", said)
    if not done.known:
        render.note(
            f"warning: no live certificate with the serial number {number} is known: "
            f"the lock holds until it is removed. A mistake? tctl rm lock/{done.locks[0]}"
        )


def serial_of(text: str) -> str:
    """A serial number as locks have it: decimal. Raises `BadRequest`."""
    shown = text.strip()
    try:
        number = int(shown, 16) if shown[:2].lower() == "0x" else int(shown)
    except ValueError:
        number = -1
    if not shown.isascii() or not 0 < number < 1 << 160:
        raise BadRequest(f"{text[:64]!r} is no serial number", hint="tctl certs ls shows them; hex begins with 0x")
    return str(number)
