"""Where forwards may lead, and where a client may have something listened for (threat T26).

Addresses are resolved by the caller, once; each is asked about, and only what was allowed is dialled.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from teleport.authz.channels import ChannelTerms, RoleGrant, exec_is_limited, first_hit, paths_of, refusal
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.errors import TeleportError
from teleport.resources.destinations import (
    UNIX,
    Address,
    HostPattern,
    host_matches,
    parse_host_pattern,
    parse_path_pattern,
)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a forward is to lead: `host` as the client named it, and one address that this name was resolved to.

    `reserved` says what stands there, where it is a port of the cluster itself. `also` are names that the resolver may
    have taken it for, by its search domains, or led to: what denies one of them denies it.
    """

    host: str
    address: Address
    port: int
    reserved: str = ""
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


EVERY_SOCKET = f"{UNIX}/**"
# proxies for each other, nodes, proxies for SSH and tunnels, auth servers: on every host
USUAL_PORTS = frozenset({3021, 3022, 3023, 3024, 3025})


def _unwrapped(text: str) -> Address:
    address: Address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def plain_address(text: str) -> Address:
    """The address that a connection to `text` reaches: embedded IPv4 unwrapped, the unspecified one as loopback.

    `ValueError` when it is no address.
    """
    address = _unwrapped(text.partition("%")[0])
    if address.is_unspecified:
        return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return address


# Beside the link-local networks: where clouds serve credentials to whoever asks from the host.
METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),  # Alibaba, Azure, Oracle
            *("fd00:ec2::/32", "fd20:ce::/32", "fd00:c1::/32", "fd00:42::/32"),  # AWS, Google, Oracle, Scaleway
        ),
    )
)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind a translator (RFC 6052)
_NO_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
_LOOPBACK_6 = ipaddress.ip_address("::1")


def _all_of(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address to which a network may translate it."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address in _TRANSLATED or (int(address) >> 32 == 0 and int(address) > 1):
        return address, ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (address,) if address.sixtofour is None else (address, address.sixtofour)


def _is_metadata(address: Address) -> bool:
    return any(
        one.is_link_local or any(one.version == network.version and one in network for network in METADATA)
        for one in _all_of(address)
    )


def why_no_forward(terms: ChannelTerms, to: Destination) -> AccessDenial | None:
    """What forbids a connection from this host to `to`; None: it may be made to that address."""
    if not terms.port_forwarding:
        return refusal(f"port forwarding to {to}", "no role allows port forwarding")
    hit = first_hit(
        _of_hosts(terms.denies.forward_to), lambda entry: _names_host(parse_host_pattern(entry), to, deny=True)
    )
    if hit:
        return refusal(f"port forwarding to {to}", f"a role denies {hit}", code=DenialCode.DENIED_BY_ROLE)
    special = _special(to)
    reasons = []
    for grant in terms.grants:
        if not grant.local_forwarding:
            reasons.append(f"role {grant.role!r} allows no forwarding to hosts")
        elif grant.forward_to is None:
            if not special:
                return None
            reasons.append(f"role {grant.role!r} does not name it in forward_to, which {special} needs")
        elif any(_allows(entry, to, special) for entry in _hosts(grant.forward_to)):
            return None
        else:
            needs = f", host and port exactly, which {special} needs" if special else ""
            reasons.append(f"role {grant.role!r} does not name it in forward_to{needs}")
    return refusal(f"port forwarding to {to}", *reasons)


def _special(to: Destination) -> str:
    """Why a destination has to be named exactly; empty for others."""
    if to.reserved:
        return to.reserved
    if _is_metadata(to.address):
        return "a link-local or metadata address"
    return ""


def _allows(entry: HostPattern, to: Destination, special: str) -> bool:
    return (entry.exact or not special) and _names_host(entry, to, deny=False)


def _names_host(entry: HostPattern, to: Destination, *, deny: bool) -> bool:
    if not entry.has_port(to.port):
        return False
    if entry.network is not None:
        named = _all_of(to.address) if deny else (to.address,)
        return any(one.version == entry.network.version and one in entry.network for one in named)
    if host_matches(entry.glob, to.host):
        # Whoever rules a name could point it at this host: a name allows what is inside only where it says so itself.
        inside = any(one.is_loopback for one in _all_of(to.address)) or _is_metadata(to.address)
        return deny or not inside or entry.glob == "*" or entry.glob in _NO_NAMES
    if deny and any(host_matches(entry.glob, name) for name in to.also):
        return True
    return deny and to.address.is_loopback and entry.glob == "localhost"


def why_no_socket(terms: ChannelTerms, path: str, *, home: str = "") -> AccessDenial | None:
    """What forbids a connection to the Unix socket at an absolute, resolved `path`, which is made as the login."""
    what = f"forwarding to the socket {path[:200]!r}"
    return _why_no_path(terms, terms.denies.forward_to, lambda grant: grant.forward_to, what, path, home, local=True)


def names_loopback(text: str) -> bool:
    """Whether a client's word for where to listen is a name of loopback."""
    return text.lower() in _NO_NAMES


def listening_address(text: str) -> Address | None:
    """The address to listen on that a client means (RFC 4254 section 7.1); None: all of them. `ValueError` when it is
    neither an address nor a name of loopback: what is judged is what is listened on."""
    if text in {"", "*"}:
        return None
    if names_loopback(text):
        return ipaddress.ip_address("127.0.0.1")
    if "%" in text:
        raise ValueError("an address with a zone is not listened on")
    address = _unwrapped(text)
    return None if address.is_unspecified else address


def why_no_listener(terms: ChannelTerms, address: str, port: int) -> AccessDenial | None:
    """What forbids listening for the client at `address` (empty or `*`: everywhere) and `port` (0: any free one).

    Without a list, loopback is allowed; whether the port may be had is the kernel's to say, to the login.
    """
    shown = f"listening on {address or '*'}:{port}"
    if not terms.port_forwarding:
        return refusal(shown, "no role allows port forwarding")
    try:
        where = listening_address(address)
    except ValueError:
        return refusal(shown, "it is neither an address, localhost nor *")
    # sshd listens for this name on both of its addresses
    meant = (where, _LOOPBACK_6) if names_loopback(address) else (where,)
    hit = first_hit(
        _of_hosts(terms.denies.listen_on),
        lambda entry: any(_covers(parse_host_pattern(entry), one, port, deny=True) for one in meant),
    )
    if hit:
        return refusal(shown, f"a role denies {hit}", code=DenialCode.DENIED_BY_ROLE)
    reasons = []
    for grant in terms.grants:
        if not grant.remote_forwarding:
            reasons.append(f"role {grant.role!r} allows no listening for clients")
        elif grant.listen_on is None:
            if where is not None and where.is_loopback:
                return None
            reasons.append(f"role {grant.role!r} has no listen_on: only loopback is allowed")
        elif any(_covers(entry, where, port, deny=False) for entry in _hosts(grant.listen_on)):
            return None
        else:
            reasons.append(f"role {grant.role!r} does not name it in listen_on")
    return refusal(shown, *reasons)


def _covers(entry: HostPattern, where: Address | None, port: int, *, deny: bool) -> bool:
    """Whether an entry stands for an address to listen on; None is every address, which `*` and, in deny, all cover."""
    if not entry.has_port(port) and not (deny and port == 0):
        return False
    if where is None:
        return deny or entry.glob == "*"
    if entry.network is not None:
        return where.version == entry.network.version and where in entry.network
    return entry.glob == "*" or (entry.glob in _NO_NAMES and where.is_loopback)


def why_no_socket_listener(terms: ChannelTerms, path: str, *, home: str = "") -> AccessDenial | None:
    """What forbids listening on a Unix socket at an absolute `path`, which is made as the login."""
    what = f"listening on the socket {path[:200]!r}"
    return _why_no_path(terms, terms.denies.listen_on, lambda grant: grant.listen_on, what, path, home, local=False)


def why_no_unseen_socket(terms: ChannelTerms, path: str, *, local: bool) -> AccessDenial | None:
    """As `why_no_socket` or, with `local` false, `why_no_socket_listener`, at a host where nobody of ours can see where
    links lead: what holds for some paths alone denies there, and never allows."""
    denial = why_no_socket(terms, path) if local else why_no_socket_listener(terms, path)
    if denial is not None:
        return denial
    denied, what = (terms.denies.forward_to, "to") if local else (terms.denies.listen_on, "on")
    what = f"forwards {what} the socket {path[:200]!r}"
    if any(entry.startswith(UNIX) for entry in denied):
        return refusal(what, "a role denies sockets by path, and where links of this host lead is not seen")
    for grant in terms.grants:
        entries = grant.forward_to if local else grant.listen_on
        if (grant.local_forwarding if local else grant.remote_forwarding) and (
            EVERY_SOCKET in entries if entries is not None else not exec_is_limited(terms)
        ):
            return None
    return refusal(what, f"no role allows every socket ({EVERY_SOCKET}), and where links of this host lead is not seen")


def _why_no_path(
    terms: ChannelTerms,
    denied: Sequence[str],
    allowed: Callable[[RoleGrant], tuple[str, ...] | None],
    what: str,
    path: str,
    home: str,
    *,
    local: bool,
) -> AccessDenial | None:
    if not terms.port_forwarding:
        return refusal(what, "no role allows port forwarding")
    if not path.startswith("/") or "\0" in path or len(path) > 4096:
        return refusal(what, "it is not an absolute path")
    sockets = [entry for entry in denied if entry.startswith(UNIX)]
    if hit := first_hit(sockets, lambda entry: parse_path_pattern(entry.removeprefix(UNIX)).matches(path, home)):
        return refusal(what, f"a role denies {hit}", code=DenialCode.DENIED_BY_ROLE)
    reasons = []
    for grant in terms.grants:
        entries = allowed(grant)
        if not (grant.local_forwarding if local else grant.remote_forwarding):
            reasons.append(f"role {grant.role!r} allows no forwarding in this direction")
        elif entries is None and exec_is_limited(terms):
            # the login's own bus, or its service manager, would run whatever it is asked to
            reasons.append(f"role {grant.role!r} gives no shell, and names no socket as {UNIX}PATH")
        elif entries is None or any(one.matches(path, home) for one in paths_of(entries, UNIX)):
            return None
        else:
            reasons.append(f"role {grant.role!r} does not name it as {UNIX}PATH")
    return refusal(what, *reasons)


def _of_hosts(entries: Iterable[str]) -> list[str]:
    return [entry for entry in entries if not entry.startswith(UNIX)]


def _hosts(entries: Iterable[str]) -> Iterable[HostPattern]:
    for entry in _of_hosts(entries):
        try:
            yield parse_host_pattern(entry)
        except TeleportError:
            continue
