"""`tsh accept`: an invitation or a reset, in the terminal."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh import prompts
from teleport.cli.tsh.flags import Flags, now, takes_flags
from teleport.client import accept as steps
from teleport.client import profile
from teleport.client.webapi import Invitation, WebAPI
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.client.hardware_keys import NewKeyAnswer

ATTEMPTS = 3  # at a terminal


@click.command()
@click.argument("url")
@click.option("--ca-pin", "pins", multiple=True, help="trust the cluster by its pin, sha256:...; repeatable")
@takes_flags
def accept(flags: Flags, url: str, pins: tuple[str, ...]) -> None:
    """Accept an invitation: set your password and your second factor. URL - reads the link from stdin.

    The secret is shown as a QR code and as text; a security key is registered by a touch. Where stdin is no terminal,
    the password and the code are read from it, a line each.
    """
    link = steps.InvitationLink.parse(prompts.visible("Link: ") if url == "-" else url)

    from teleport.client import login
    from teleport.pki.pin import parse_pin

    known = profile.load(flags.home, link.host)
    same = known if known and known.web == (link.host, link.port) else None
    trust = login.establish_trust(
        link.host,
        link.port,
        pins=[parse_pin(pin) for pin in pins],
        remembered=login.remembered_trust(flags.home, same),
        asking=prompts.Person(),
    )
    api = WebAPI(link.host, link.port, trust, now())
    invitation = api.invitation(link.token)
    _show(invitation)
    password = _password()
    for attempt in range(ATTEMPTS):
        try:
            code, key = _second_factor(api, link, invitation)
            api.accept(link.token, password, code, key)
            break
        except TeleportError as error:
            if attempt == ATTEMPTS - 1 or not prompts.interactive() or invitation.second_factor == "off":
                raise
            render.report(error, "tsh", as_json_object=False)
    render.out(f"Done. Log in with: {login_command(link, invitation.user, pins)}\n")


def login_command(link: steps.InvitationLink, user: str, pins: Sequence[str]) -> str:
    """What to type next. The user's name is the server's word: a shell takes it as one word, whatever it holds."""
    from teleport.client.addresses import join

    words = [f"--proxy={join(link.host, link.port)}", f"--user={render.printable(user)}"]
    return shlex.join(["tsh", "login", *words, *(f"--ca-pin={pin}" for pin in pins)])


def _second_factor(
    api: WebAPI, link: steps.InvitationLink, invitation: Invitation
) -> tuple[str, tuple[str, NewKeyAnswer] | None]:
    """The first code of the new app, or a new credential of a security key at this machine; neither where none is
    needed."""
    setting = invitation.second_factor
    if setting == "off":
        return "", None
    if setting in ("on", "optional"):
        words = " (Enter: a security key" + (", or none)" if setting == "optional" else ")")
        code = prompts.visible(f"One-time code{words}: ").replace(" ", "")
        if code:
            return code, None
        if setting == "optional" and not prompts.yes("Register a security key?"):
            return "", None
    elif setting != "webauthn":
        return prompts.visible("One-time code: ").replace(" ", ""), None
    from teleport.client.hardware_keys import need_keys, site

    keys = need_keys()
    made, question = api.register_challenge(link.token)
    return "", (made, keys.create(question, site(link.host, link.port, question.rp_id), render.say))


def _show(invitation: Invitation) -> None:
    user, cluster = render.printable(invitation.user), render.printable(invitation.cluster)
    render.out(
        f"{'New password' if invitation.kind == 'reset' else 'Invitation'} for {user} in the cluster {cluster}\n"
    )
    if invitation.totp_secret:
        drawing = steps.qr_text(invitation.totp_url)
        render.out(
            f"\nAdd this to an authenticator app, then type the code it shows.\n\n{drawing}\n"
            f"Secret: {render.printable(invitation.totp_secret)}\n\n"
        )
    sys.stdout.flush()


def _password() -> str:
    for _ in range(ATTEMPTS):
        typed = prompts.secret(f"New password (at least {steps.MIN_PASSWORD} characters): ")
        if len(typed) < steps.MIN_PASSWORD:
            problem = f"a password has at least {steps.MIN_PASSWORD} characters"
        elif sys.stdin.isatty() and prompts.secret("The same again: ") != typed:
            problem = "the two are not the same"
        else:
            return typed
        if not prompts.interactive():
            raise BadRequest(problem, hint="choose another password, with the same link")
        render.note(problem)
    raise BadRequest("no password was set", hint="start again with the same link")
