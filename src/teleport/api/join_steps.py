"""What to type so that a host joins, or another cluster trusts this one: the same from tctl and from a browser.

The token goes to the new host in a file, so that no process list shows it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Final

from teleport.api import messages as m

TOKEN_PLACE: Final = "/etc/teleport.token"  # noqa: S105 - where the instructions put one
SERVED: Final = frozenset({"node", "proxy", "auth"})  # what hosts join as; other types are kept for later
_LOOPBACK: Final = ("127.", "localhost:", "[::1]")
OWN_HOST_ONLY: Final = "That address of the auth server is good on this host only: use one that the new host reaches."


def write_token(made: m.JoinToken) -> str:
    """The command that puts the token into a file."""
    return f"(umask 077 && printf '%s\\n' {shlex.quote(made.token)} > {shlex.quote(TOKEN_PLACE)})"


def start_command(made: m.JoinToken, out: str, reached: Sequence[str], *, indent: str = "    ") -> str:
    """The command that starts the host. `out`: the file that holds the token already; `reached`: addresses of auth,
    when none has announced itself."""
    place = shlex.quote(out) if out else TOKEN_PLACE
    flags = [f"--roles={','.join(role for role in made.roles if role in SERVED)}", f"--token={place}"]
    flags += [f"--ca-pin={pin}" for pin in made.ca_pins]
    flags += [shlex.quote(f"--auth-server={server}") for server in auth_servers(made, reached)]
    return "teleport start " + f" \\\n{indent}    ".join(flags)


def auth_servers(made: m.JoinToken, reached: Sequence[str]) -> list[str]:
    """Where the new host is sent."""
    return made.auth_servers[:1] or list(reached[:1])


def own_host_only(made: m.JoinToken, reached: Sequence[str]) -> bool:
    """Whether that address is good on the auth server's host alone."""
    return any(server.startswith(_LOOPBACK) for server in auth_servers(made, reached))


def for_host(made: m.JoinToken, out: str, reached: Sequence[str]) -> str:
    """What to type on the new host, with words around it."""
    first = (
        f"Copy {out} to the new host, and start there, as root:\n\n"
        if out
        else f"On the new host, as root, put the token into a file and start:\n\n    {write_token(made)}\n"
    )
    text = f"{first}    {start_command(made, out, reached)}\n"
    return text + (f"\n{OWN_HOST_ONLY}\n" if own_host_only(made, reached) else "")


def for_cluster(made: m.JoinToken, out: str) -> str:
    """What to write on the other cluster, so that it trusts this one."""
    return (
        "On the other cluster, whose hosts people of this one shall reach, write tc.yaml and run:\n\n"
        f"    tctl create tc.yaml\n\n{cluster_document(made, out)}"
    )


def cluster_document(made: m.JoinToken, out: str = "") -> str:
    """The trusted cluster, as it is written over there."""
    pins = "".join(f"\n    - {pin}" for pin in made.ca_pins)
    address = made.web_addresses[0] if made.web_addresses else "PROXY.OF.THIS.CLUSTER:443"
    token = _quoted(f"THE TOKEN IN {out}") if out else made.token
    return (
        "kind: trusted_cluster\nversion: v2\nmetadata:\n  name: root   # becomes this cluster's name\nspec:\n"
        f"  enabled: true\n  token: {token}\n  web_proxy_addr: {_quoted(address)}\n  ca_pins:{pins}\n"
        "  role_map:            # roles here, and the roles that they give there\n"
        "  - remote: access\n    local: [access]\n"
    )


def _quoted(text: str) -> str:
    """As YAML takes it for text: an address like [::1]:443 would be a list. JSON's strings are YAML's, too."""
    return json.dumps(text)
