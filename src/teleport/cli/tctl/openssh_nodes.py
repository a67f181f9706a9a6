"""`tctl nodes add --type=openssh`: registers a host with a plain sshd and prints the script that sets it up."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.cli.tctl.options import Flags

MAX_KEY: Final = 16 * 1024  # bytes of a file that holds a public key
_FROM_HOST: Final = "ssh root@HOST cat /etc/ssh/ssh_host_ed25519_key.pub | tctl nodes add --type=openssh --host-key=-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed."""

    hostname: str
    addr: str
    host_key: str  # path, or - for the standard input
    labels: str
    host_id: str
    ttl: float  # seconds; 0: the usual lifetime


def add(flags: Flags, wanted: Wanted, form: str) -> None:
    """Prints the script, and on stderr what to do with it."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.openssh_script import script
    from teleport.client.addresses import parse_labels

    for name, value in (("--hostname", wanted.hostname), ("--addr", wanted.addr), ("--host-key", wanted.host_key)):
        if not value:
            raise BadRequest(
                f"a host with a plain sshd needs {name}",
                hint="tctl nodes add --type=openssh --hostname=NAME --addr=HOST:22 --host-key=FILE",
            )
    request = m.RegisterOpensshRequest(
        hostname=wanted.hostname,
        addr=wanted.addr,
        host_key=_host_key(wanted.host_key),
        labels=parse_labels(wanted.labels) if wanted.labels else {},
        host_id=wanted.host_id,
        ttl=wanted.ttl,
    )
    with open_auth(flags) as auth:
        made = auth.client.call(routes.REGISTER_OPENSSH, request)
    text = script(made)
    if form == "json":
        render.out(
            render.as_json({"host_id": made.host_id, "ca_pin": made.ca_pin, "expires": made.expires, "script": text})
        )
        return
    render.out(text)
    done = "is registered anew" if made.renewed else "is registered"
    name = render.printable(wanted.hostname)
    render.note(
        f"The host {name} {done} as {made.host_id}. Run the script there as root, with the CA pin:\n"
        f"    sh FILE {made.ca_pin}\n"
        f"Its certificate ends on {made.expires:%Y-%m-%d}: make a new script before."
    )


def _host_key(path: str) -> str:
    """The public key in a file. Raises `BadRequest` when there is none, or a private one."""
    try:
        if path == "-":
            text = sys.stdin.read(MAX_KEY)
        else:
            with Path(path).open("rb") as file:
                text = file.read(MAX_KEY).decode("utf-8", "replace")
    except OSError as error:
        raise BadRequest(f"--host-key: {path} cannot be read: {error.strerror}", hint=_FROM_HOST) from error
    if "PRIVATE KEY" in text:
        raise BadRequest(
            "--host-key: this is a private key, which must not leave its host", hint="take the file that ends in .pub"
        )
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise BadRequest("--host-key: a public host key is one line", hint=_FROM_HOST)
    return lines[0]
