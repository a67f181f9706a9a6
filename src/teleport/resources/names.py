"""Which names users, roles, hosts and Unix accounts may have, and one spelling for hosts and addresses.

Names end up in certificates, principals, command lines, file names and terminals, so they are checked once, where they
enter (threats T03, T30, T45). The check functions return what is wrong as a sentence, or an empty string.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata

MAX_NAME = 128  # characters, for users and roles
MAX_HOSTNAME = 253  # characters, as in DNS (RFC 1035)
NO_LOGIN_PREFIX = "no-login-"
"""A login that no account can have (it is longer than 32 characters); `auditor` carries one (`resources.md` 3.4)."""

_HOSTNAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")
_PLAIN = re.compile(r"[A-Za-z0-9_@:+=][A-Za-z0-9_@:+=.-]*")  # nothing can be wrong with but its length
_LOGIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|[A-Za-z_][A-Za-z0-9_.-]{0,30}\$")
_NO_LOGIN = re.compile(re.escape(NO_LOGIN_PREFIX) + r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")  # the scripts whose letters look alike

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # resolvers read a last label like this as part of an IPv4 address


def check_text(text: str) -> str:
    """What is wrong with `text` as one line of text that people will see; empty when nothing is."""
    if text.isascii() and text.isprintable():
        return ""
    for character in text:
        # Cc and Cf are controls and invisible formatting (zero width, bidirectional), Zl and Zp break lines.
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            return f"contains the control character U+{ord(character):04X}"
    return ""


def check_name(name: str) -> str:
    """What is wrong with `name` for a user, a role, a token or a lock; empty when nothing is."""
    if not name:
        return "is empty"
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    # names are checked whenever a resource is read, thousands of times a second when hosts come back together
    return "" if _PLAIN.fullmatch(name) else _check_uncommon(name)


def _check_uncommon(name: str) -> str:
    if problem := check_text(name):
        return problem
    for character in name:
        if character in "/\\,*{}" or character.isspace():
            return f"contains {character!r}"
    if name.startswith("-"):
        return "begins with a dash"
    if name in {".", ".."}:
        return "is a folder's name"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode normal form C"
    if unicodedata.normalize("NFKC", name) != name:
        return "contains characters that only look like others (wide, circled or joined letters)"
    scripts = {script for c in name if c.isalpha() for script in _SCRIPTS if unicodedata.name(c, "").startswith(script)}
    if len(scripts) > 1:
        return f"mixes letters of several scripts ({', '.join(sorted(scripts)).lower()}) that look alike"
    return ""


def check_hostname(name: str) -> str:
    """What is wrong with `name` as a host's name: letters, digits, dashes and underscores between dots, in ASCII."""
    if not name:
        return "is empty"
    if len(name) > MAX_HOSTNAME:
        return f"is longer than {MAX_HOSTNAME} characters"
    if not _HOSTNAME.fullmatch(name):
        return "is not a host name (letters, digits, '-' and '_' between dots)"
    return ""


def is_unix_login(login: str) -> bool:
    """Whether `login` can be the name of a Unix account: ASCII, at most 32 characters, no leading dash."""
    return _LOGIN.fullmatch(login) is not None


def is_no_login(login: str) -> bool:
    """Whether `login` is one of the impossible names that say "no logins" in a role."""
    return _NO_LOGIN.fullmatch(login) is not None


def canonical_address(text: str) -> str:
    """The one spelling of an IP address (`::ffff:10.0.0.1` is `10.0.0.1`); empty when `text` is none."""
    try:
        address = ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]"))
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def peer_address(peername: object) -> tuple[str, int]:
    """Address and port of a connection's other end, of what a socket calls its peer; empty and 0 when it has none.

    A socket that listens on `[::]` shows IPv4 clients as `::ffff:10.0.0.1`, and addresses of the link with a zone that
    means something on this machine only. Records, limits and source pins see the plain address.
    """
    if not isinstance(peername, tuple) or len(peername) < 2:
        return "", 0
    address = str(peername[0]).partition("%")[0]
    return canonical_address(address) or address, int(peername[1])


def address_of(text: str) -> str:
    """The IP address in `address`, `address:port` or `[address]:port`, in its one spelling; empty for anything else."""
    return canonical_address(text) or canonical_address(text.rpartition(":")[0])


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is the machine itself, whichever machine that is."""
    text = canonical_address(host)
    if text:
        return ipaddress.ip_address(text).is_loopback
    name = canonical_host(host)
    return name == "localhost" or name.endswith(".localhost")


def not_dialable(host: str, *, loopback: bool) -> str:
    """Why no proxy may be told to connect to `host`, a name or an address; empty when it may.

    Addresses that mean another machine to each who dials them: link-local ones (cloud metadata among them),
    multicast, unspecified; the loopback unless `loopback`. Private addresses are what most hosts have.
    """
    if is_loopback(host) and not loopback:
        return "is the loopback of whoever connects to it"
    text = canonical_address(host)
    if not text:
        numeric = _NUMBER.fullmatch(canonical_host(host).rpartition(".")[2])
        return "is an address in a form that is not accepted" if numeric else ""
    address = ipaddress.ip_address(text)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "is link-local, multicast or unspecified"
    return ""


def canonical_host(text: str) -> str:
    """The one spelling of a host name or address, for comparing: lower case, no trailing dot, short IPv6 form."""
    return canonical_address(text) or unicodedata.normalize("NFC", text).removesuffix(".").lower()
