"""The ports that a host needs as rules of nftables: what is not among them is dropped. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from teleport.daemon.needed_ports import Direction, Port

_HEAD: Final = """\
# The ports that Teleport needs on this host, printed by teleport ports. All else is dropped, in and out.
#
# To try them for two minutes:  nft -f FILE; sleep 120; nft delete table inet teleport
# What else runs on this host is not among them: your own way in (sshd, port 22), DHCP, packages, monitoring.
# Lines with a leading # are needed in the case that they name, and are off.
# Where a host is configured by name, its port is open to any address: what the name leads to may change.

table inet teleport
delete table inet teleport
table inet teleport {
"""


def as_nft(ports: Sequence[Port], printable: Callable[[str], str]) -> str:
    """A file for `nft -f`, which can be loaded any number of times. `printable` makes a comment one line."""
    lines = []
    for chain, direction in (("input", Direction.IN), ("output", Direction.OUT)):
        lines += [
            f"  chain {chain} {{",
            f"    type filter hook {chain} priority filter; policy drop;",
            f'    {"iifname" if direction is Direction.IN else "oifname"} "lo" accept',
            "    ct state established,related accept",
            "    meta l4proto { icmp, ipv6-icmp } accept",
        ]
        for one in ports:
            if one.direction is direction:
                lines += [f"    # {printable(_comment(one))}", f"    {_rule(one)}"]
        lines.append("  }")
    return _HEAD + "\n".join(lines) + "\n}\n"


def _comment(one: Port) -> str:
    whom = "from" if one.direction is Direction.IN else "to"
    said = f"{whom} {one.peer}: {one.why}"
    return f"{said} (only if {one.only_if})" if one.only_if else said


def _rule(one: Port) -> str:
    if one.local:
        return f"# {one.protocol} {one.port}: on this host only"
    if one.port == 0:
        return "# any port that you allow" if one.only_if else "# a port of the kernel's choice, which no rule can name"
    address = f"ip{'6' if ':' in one.literal else ''} daddr {one.literal} " if one.literal else ""
    rule = f"{address}{one.protocol} dport {one.port} accept"
    return f"# {rule}" if one.only_if else rule
