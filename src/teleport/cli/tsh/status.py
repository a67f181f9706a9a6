"""`tsh status` and `tsh env`: what is known without asking anybody. Imports no TLS and no SSH."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from teleport.cli import render
from teleport.cli.tsh.flags import Flags, cluster_option, now, takes_flags
from teleport.client import keystore, profile
from teleport.client.home import Home
from teleport.client.profile import Profile
from teleport.errors import TeleportError


def _facts(home: Home, found: Profile) -> keystore.CertificateFacts | None:
    try:
        return keystore.facts(keystore.ssh_certificate_line(home, found))
    except TeleportError:
        return None


def describe(home: Home, found: Sequence[Profile], at: datetime, *, debug: bool = False) -> str:
    """A block for each profile, the active one marked."""
    active = profile.current_name(home)
    blocks = []
    for entry in found:
        facts = _facts(home, entry)
        rows = [("Profile URL:", entry.url), ("Logged in as:", entry.user), ("Cluster:", entry.cluster)]
        if facts is None:
            rows.append(("Valid until:", "EXPIRED: the certificate is missing"))
        else:
            left = (facts.expires - at).total_seconds()
            validity = f"valid for {render.how_long(left)}" if left > 0 else "EXPIRED"
            rows.append(("Roles:", ", ".join(facts.roles)))
            if debug:
                rows += [(f"Trait {name}:", ", ".join(values)) for name, values in sorted(facts.traits.items())]
            rows += [
                ("Logins:", ", ".join(facts.logins) or "none"),
                ("Kubernetes:", "enabled" if entry.kube_proxy_addr else "disabled"),
                ("Valid until:", f"{render.when(facts.expires)} UTC [{validity}]"),
                ("Extensions:", ", ".join(facts.extensions)),
            ]
        mark = "> " if entry.name == active else "  "
        lines = render.pairs(rows).splitlines(keepends=True)
        blocks.append("".join((mark if number == 0 else "  ") + line for number, line in enumerate(lines)))
    return "\n".join(blocks) + ("\n" if blocks else "")


def as_values(home: Home, found: Sequence[Profile], at: datetime) -> dict[str, Any]:
    """The same for programs."""
    active = profile.current_name(home)
    profiles = []
    for entry in found:
        facts = _facts(home, entry)
        profiles.append(
            {
                "profile_url": entry.url,
                "active": entry.name == active,
                "username": entry.user,
                "cluster": entry.cluster,
                "roles": list(facts.roles) if facts else [],
                "traits": facts.traits if facts else {},
                "logins": list(facts.logins) if facts else [],
                "kubernetes_enabled": bool(entry.kube_proxy_addr),
                "valid_until": facts.expires if facts else None,
                "expired": facts is None or facts.expired(at),
                "extensions": list(facts.extensions) if facts else [],
            }
        )
    return {"profiles": profiles}


@click.command()
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text")
@takes_flags
def status(flags: Flags, form: str) -> None:
    """Show who you are logged in as, and for how long. Fails when nobody is, or when it has expired."""
    home, at = flags.home, now()
    found = profile.load_all(home)
    if form == "json":
        from teleport.cli.tsh.output import json_text

        render.out(json_text(as_values(home, found, at)))
    else:
        render.out(describe(home, found, at, debug=flags.debug))
    current = next((entry for entry in found if entry.name == profile.current_name(home)), None)
    if current is None:
        raise TeleportError("you are not logged in", hint="tsh login --proxy=HOST")
    facts = _facts(home, current)
    if facts is None or facts.expired(at):
        raise TeleportError(f"your login to {current.name} has expired", hint=current.login_command)


@click.command()
@click.option("--unset", is_flag=True, help="print commands that take the variables away")
@cluster_option
@takes_flags
def env(flags: Flags, unset: bool, cluster: str) -> None:
    """Print shell commands that choose this profile: eval "$(tsh env)"."""
    if unset:
        render.out("unset TELEPORT_PROXY\nunset TELEPORT_CLUSTER\n")
        return
    from teleport.client.addresses import ProxyAddress

    found = profile.choose(flags.home, ProxyAddress.parse(flags.proxy).host if flags.proxy else "", flags.user)
    render.out(f"export TELEPORT_PROXY={shlex.quote(found.web_proxy_addr)}\n")
    render.out(f"export TELEPORT_CLUSTER={shlex.quote(cluster or found.cluster)}\n")
