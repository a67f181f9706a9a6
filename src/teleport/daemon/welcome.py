"""What `teleport start` says once it is ready: where it is, what proves it, and how the first person gets in."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Welcome:
    """The facts that the text is made of."""

    cluster: str
    nodename: str
    roles: tuple[str, ...]
    pins: tuple[str, ...]  # of auth's own cluster; empty when auth runs elsewhere
    web: str  # host:port, empty without a proxy
    has_users: bool


def welcome_text(facts: Welcome, *, tctl: str, tsh: str, login: str) -> str:
    """Lines for people. `tctl` and `tsh` are the commands as they can be typed here, `login` a Unix account to try."""
    login, name = shlex.quote(login), facts.nodename
    lines = [f"The cluster {facts.cluster} is ready: {', '.join(facts.roles)} on {facts.nodename}."]
    if facts.web:
        lines.append(f"  Web address:  https://{facts.web}")
    for pin in facts.pins:
        lines.append(f"  CA pin:       {pin}")
    if facts.pins and not facts.has_users:
        lines += [
            "",
            "1. Create the first user (it prints a link, good for an hour):",
            f"     {tctl} users add {login} --roles=access,editor --logins={login}",
            "2. Set password and second factor: open the link in a browser, or in a terminal:",
            f"     {tsh} accept --ca-pin={facts.pins[0]} LINK",
        ]
    if facts.pins and facts.web:
        first = 1 if facts.has_users else 3
        user = "NAME" if facts.has_users else login  # who there is by now is not for everybody's terminal
        lines += [
            "",
            f"{first}. Log in and connect:",
            f"     {tsh} login {shlex.quote(f'--proxy={facts.web}')} --user={user} --ca-pin={facts.pins[0]}",
            f"     {tsh} ls",
            f"     {tsh} ssh {login}@{shlex.quote(name)}",
            f"{first + 1}. With plain ssh:",
            f"     {tsh} config > teleport.ssh",
            f"     ssh -F teleport.ssh {login}@{shlex.quote(f'{name}.{facts.cluster}')}",
        ]
    return "\n".join(lines) + "\n"
