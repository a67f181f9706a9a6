"""`tsh mfa`: the second factors of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tsh import prompts
from teleport.cli.tsh.flags import Flags, access, now, takes_flags
from teleport.errors import BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.api import messages as m
    from teleport.api.sync_client import SyncAuthClient

TYPES = {"totp": "totp", "webauthn": "webauthn", "u2f": "webauthn"}
SHOWN = {"totp": "TOTP", "webauthn": "WebAuthn"}
PASSKEY = "WebAuthn (passkey)"
ATTEMPTS = 3  # at the first code of a new device


@click.group()
def mfa() -> None:
    """Your second factors: authenticator apps and security keys."""


@mfa.command("ls")
@click.option("-v", "--verbose", is_flag=True, help="with ids")
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text")
@takes_flags
def ls(flags: Flags, verbose: bool, form: str) -> None:
    """List your devices."""
    from teleport.api import messages as m
    from teleport.api import routes

    with _auth(flags) as (client, _):
        found: m.FactorDevices = client.call(routes.OWN_FACTORS, m.Empty())
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(
            json_text(
                [
                    {
                        "id": one.id,
                        "name": one.name,
                        "type": one.type,
                        "passwordless": one.passwordless,
                        "added": one.added,
                        "last_used": one.last_used,
                    }
                    for one in found.devices
                ]
            )
        )
        return
    heads = ["Name", *(["ID"] if verbose else []), "Type", "Added at (UTC)", "Last used (UTC)"]
    rows = [
        [
            render.printable(one.name),
            *([one.id] if verbose else []),
            PASSKEY if one.passwordless else SHOWN.get(one.type, render.printable(one.type)),
            render.when(one.added),
            render.when(one.last_used),
        ]
        for one in found.devices
    ]
    render.out(render.table(heads, rows))


@mfa.command("add")
@click.option("--name", default="", help="what you call the device")
@click.option("--type", "kind", default="", help="totp (an authenticator app) or webauthn (a security key)")
@click.option("--allow-passwordless", is_flag=True, help="a passkey: a security key that logs in alone")
@takes_flags
def add(flags: Flags, name: str, kind: str, allow_passwordless: bool) -> None:
    """Add a device. One that you have is proved first; the first one needs your password."""
    from teleport.api import messages as m
    from teleport.api import routes

    if kind and kind.lower() not in TYPES:
        raise BadRequest(f"there are no devices of the type {kind!r}", hint="--type=totp or --type=webauthn")
    if allow_passwordless and TYPES.get(kind.lower(), "webauthn") != "webauthn":
        raise BadRequest("only a security key is a passkey", hint="--type=webauthn --allow-passwordless")
    kind = "webauthn" if allow_passwordless else kind
    with _auth(flags) as (client, web):
        own: m.FactorDevices = client.call(routes.OWN_FACTORS, m.Empty())
        chosen = TYPES.get(kind.lower()) or _chosen(own.kinds)
        if chosen == "webauthn":
            from teleport.client.hardware_keys import need_keys

            need_keys()  # before anything is typed
        name = name or prompts.visible("Name of the new device: ")
        factor, password = _proof(client, own, web)
        begin = m.BeginFactorRequest(
            name=name, type=chosen, factor=factor, password=password, passwordless=allow_passwordless
        )
        new: m.NewFactor = client.call(routes.BEGIN_FACTOR, begin)
        if new.webauthn is not None:
            from teleport.client.factors import new_key

            render.say("Now the new device.")
            client.call(routes.FINISH_FACTOR, new_key(new, web, render.say))
        else:
            _new_app(client, new)
    render.note(f"Added: {render.printable(name)}")


@mfa.command("rm")
@click.argument("device")
@takes_flags
def rm(flags: Flags, device: str) -> None:
    """Remove a device, by name or id. A device is proved first."""
    from teleport.api import messages as m
    from teleport.api import routes

    with _auth(flags) as (client, web):
        own: m.FactorDevices = client.call(routes.OWN_FACTORS, m.Empty())
        factor, password = _proof(client, own, web)
        client.call(routes.REMOVE_FACTOR, m.RemoveFactorRequest(name=device, factor=factor, password=password))
    render.note(f"Removed: {render.printable(device)}")


@contextmanager
def _auth(flags: Flags) -> Iterator[tuple[SyncAuthClient, tuple[str, int]]]:
    from teleport.client.cluster import auth_client

    found = access(flags, "")
    with auth_client(found.credentials, found.web_api(now()).open, found.web) as client:
        yield client, found.web


def _proof(client: SyncAuthClient, own: m.FactorDevices, web: tuple[str, int]) -> tuple[m.FactorResponse | None, str]:
    """What proves the person: a device that counts, or, without one, the password."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.factors import answer_challenge

    if not any(device.type in own.kinds for device in own.devices):
        return None, prompts.secret("Your password: ")
    asked: m.FactorChallenge = client.call(routes.FACTOR_CHALLENGE, m.Empty())
    render.say("First a device that you have.")
    return answer_challenge(asked, web, prompts.visible, render.say), ""


def _chosen(kinds: list[str]) -> str:
    if len(kinds) == 1:
        return kinds[0]
    typed = prompts.visible("Type of the new device, totp or webauthn: ").lower() if kinds else "totp"
    if typed not in TYPES:
        raise BadRequest(f"there are no devices of the type {typed!r}", hint="--type=totp or --type=webauthn")
    return TYPES[typed]


def _new_app(client: SyncAuthClient, new: m.NewFactor) -> None:
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.accept import qr_text

    render.say(f"Add this to an authenticator app:\n\n{qr_text(new.totp_url)}\nSecret: {new.totp_secret}\n")
    for attempt in range(ATTEMPTS):
        code = prompts.visible("Code that the new device shows: ").replace(" ", "")
        try:
            client.call(routes.FINISH_FACTOR, m.NewFactorProof(id=new.id, totp_code=code))
            return
        except TeleportError as error:
            if attempt == ATTEMPTS - 1 or not prompts.interactive():
                raise
            render.report(error, "tsh", as_json_object=False)
