"""What to say about a key that is not known where it stands: the section it belongs to, or what took its place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from teleport.resources.yaml_document import Node

_MANY: Final = 3  # a key with more homes than this (name, enabled, labels) says nothing about where it was meant

# Keys that no section has, with what to do instead.
_GONE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "trusted_clusters": "a trusted_cluster resource, made with tctl create",
        "reverse_tunnels": "a trusted_cluster resource, made with tctl create",
        "oidc_connectors": "an oidc resource, made with tctl create",
        "windows_desktop_service": "nothing: desktops are not supported",
        "second_factor": "under auth_service.authentication",
        "static_tokens": "auth_service.tokens",
        "auth_server": "teleport.auth_servers, a list",
        "token": "teleport.auth_token",
    }
)


def where_it_belongs(node: Node, key: str, /) -> str:
    """The place for `key` in words, "" when nothing is known about it."""
    here = node.path.rpartition(".")[0].partition("[")[0]
    places = [place for place in _places().get(key, ()) if place != here]
    if key in _GONE and len(places) != 1:
        return _GONE[key]
    if not 0 < len(places) <= _MANY:
        return ""
    return " or ".join("the top level" if place == "" else f"under {place}" for place in places)


@cache
def _places() -> dict[str, list[str]]:
    """Each known key with the sections that have it."""
    from teleport.daemon.config.describe import describe_keys  # it reads the schema, which needs this module

    places: dict[str, list[str]] = {}
    for description in describe_keys():
        parent, _, name = description.path.rpartition(".")
        homes = places.setdefault(name.removesuffix("[]"), [])
        if (home := parent.replace("[]", "")) not in homes:
            homes.append(home)
    return places
