"""Reading resources off auth: all pages of a kind, as resources and as documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli.tctl.connect import Auth
from teleport.errors import ConnectionProblem
from teleport.resources.codec import Resource, from_json, to_document
from teleport.resources.kinds import Kind

_MOST_PAGES = 10_000


def all_of(
    auth: Auth,
    kind: Kind,
    *,
    with_secrets: bool = False,
    unreadable: Callable[[m.Unreadable], None] | None = None,
) -> Iterator[Resource]:
    """Every resource of `kind` that the caller may see, by name. `unreadable` is told what auth cannot read."""
    start = ""
    for _ in range(_MOST_PAGES):
        page = auth.client.call(routes.LIST[kind.value], m.ListRequest(start_key=start, with_secrets=with_secrets))
        for item in page.items:
            yield from_json(bytes(item))
        if unreadable is not None:
            for one in page.unreadable:
                unreadable(one)
        if not page.next_key:
            return
        if page.next_key == start:
            break
        start = page.next_key
    raise ConnectionProblem(
        f"auth does not stop listing {kind.value} resources",
        hint="report this, with the version of the auth server: tctl status",
    )


def documents(resources: list[Resource], *, with_secrets: bool = False) -> list[dict[str, Any]]:
    """What `--format=json` prints: a list of the resources as people write them."""
    return [to_document(resource, with_secrets=with_secrets) for resource in resources]
