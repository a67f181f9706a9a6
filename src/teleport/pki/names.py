"""The names that certificates carry: logins, user names, host names, cluster names, role names.

One rule decides both what is issued and what is believed (threat T03). Names are compared exactly, element by
element; nothing is a pattern. Whatever could be read as two names, as a pattern, as an option or as another name
that looks alike is no name.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata

from teleport.resources.cluster_names import HOST_NAME as _HOST_NAME
from teleport.resources.cluster_names import MAX_COMMON_NAME_BYTES as MAX_COMMON_NAME_BYTES
from teleport.resources.cluster_names import cluster_problem as cluster_problem
from teleport.resources.cluster_names import foreign_cluster_problem as foreign_cluster_problem

NO_LOGIN_PREFIX = "-teleport-nologin-"  # a principal no account can have; keeps "no logins" from meaning "any login"
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+")
MAX_NAME_BYTES = 255

_HOST_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ROLE = re.compile(r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?")
_FORBIDDEN = frozenset('*?,/:"')


def _scripts(text: str) -> set[str]:
    """The writing systems of the letters in `text`, by the first word of their Unicode names."""
    return {unicodedata.name(char, "?").split(" ", 1)[0] for char in text if char.isalpha()}


def name_problem(name: str) -> str:
    """What keeps `name` from being a login or user name; empty when it is one."""
    if not name:
        return "is empty"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not Unicode text"
    if size > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if name[0] == "-":
        return "begins with a dash"
    if name in {".", ".."}:
        return "is a folder's name"
    for char in name:
        if char in _FORBIDDEN:
            return f"contains {char!r}"
        if char.isspace() or unicodedata.category(char)[0] in "CZ":
            return "contains white space or a control character"
    if not name.isascii():
        if unicodedata.normalize("NFKC", name) != name:
            return "is not in normal form"
        if len(_scripts(name)) > 1:
            return "mixes writing systems"
    return ""


def is_placeholder(principal: str) -> bool:
    """Whether `principal` stands for "no login at all"."""
    return principal.startswith(NO_LOGIN_PREFIX) and not name_problem("x" + principal)


def user_name_problem(name: str) -> str:
    """What keeps `name` from being a user's name; empty when it is one."""
    problem = name_problem(name)
    if not problem and len(name.encode("utf-8")) > MAX_COMMON_NAME_BYTES:
        return f"is longer than {MAX_COMMON_NAME_BYTES} bytes"
    return problem


def role_problem(name: str) -> str:
    """What keeps `name` from being a role's name; empty when it is one."""
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return "" if _ROLE.fullmatch(name) else "is empty, or has white space at an end or a control character"


def host_id_problem(host_id: str) -> str:
    """What keeps `host_id` from being a host's id (a UUID as a rule); empty when it is one."""
    return "" if _HOST_ID.fullmatch(host_id) else "may hold lower-case letters, digits and dashes only"


def canonical_host(name: str) -> str:
    """The one spelling of a host name or address: lower case, addresses as RFC 5952 writes them."""
    text = name.strip("[]") if name.startswith("[") and name.endswith("]") else name
    if "%" in text:
        return text  # an address with a zone is no name that another host could use
    address = _address(text)
    return text.lower() if address is None else str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is. Most names that are asked about are none, and `ip_address` takes long to say so."""
    if ":" not in text and not _DIGITS_AND_DOTS.fullmatch(text):
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def host_name_problem(name: str) -> str:
    """What keeps `name` from being a principal of a host, in its canonical spelling; empty when it is one."""
    if name != canonical_host(name):
        return "is not in its canonical spelling"
    if _address(name) is not None:
        return "has a zone" if "%" in name else ""
    if len(name) > 253:
        return "is longer than 253 characters"
    return "" if _HOST_NAME.fullmatch(name) else "is not a host name or address"
