"""Labels that a join token forces on the hosts that join with it: a host's own say nothing against them. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from teleport.resources.server import Server

V = TypeVar("V")


def outranked(own: Mapping[str, V], forced: Mapping[str, str]) -> dict[str, V]:
    """Those of a host's own labels, static or dynamic, that no forced one has the name of, however it is spelled."""
    names = {_canonical(name) for name in forced}
    return {name: value for name, value in own.items() if _canonical(name) not in names}


def with_forced(server: Server, forced: Mapping[str, str]) -> Server:
    """What a host announces, with the labels that are forced on it in place of its own."""
    if not forced:
        return server
    labels = {**outranked(server.metadata.labels, forced), **forced}
    # a proxy decides about those that it leads to itself as about ones without labels, whatever its own are
    clusters = tuple(
        msgspec.structs.replace(
            one,
            static_labels={**outranked(one.static_labels, forced), **forced},
            dynamic_labels=outranked(one.dynamic_labels, forced),
        )
        for one in (server.spec.kube_clusters if server.kind == "kube_service" else ())
    )
    return msgspec.structs.replace(
        server,
        metadata=msgspec.structs.replace(server.metadata, labels=labels),
        spec=msgspec.structs.replace(
            server.spec,
            cmd_labels=outranked(server.spec.cmd_labels, forced),
            kube_clusters=clusters or server.spec.kube_clusters,
        ),
    )


def _canonical(name: str) -> str:
    return unicodedata.normalize("NFC", name)
