"""What completion offers for the words of tctl: names that auth knows, asked as the command itself would ask."""

from __future__ import annotations

from collections.abc import Iterable

import click

from teleport.cli.tctl.options import flags_of

LISTED = 500  # names of one kind


def _names(context: click.Context, kind: str) -> list[str]:
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.tctl.connect import open_auth
    from teleport.resources.codec import from_json

    with open_auth(flags_of(context)) as auth:
        page = auth.client.call(routes.LIST[kind], m.ListRequest())
    found = [from_json(bytes(item)) for item in page.items[:LISTED]]
    return [str(getattr(one, "hostname", "") or one.metadata.name) for one in found]


def _kinds() -> list[str]:
    from teleport.api import routes

    return sorted(routes.LIST)


def _specs(context: click.Context) -> Iterable[str]:
    """Kinds, and the names of the kind that stands before the slash."""
    yield from _kinds()
    yield from (f"{kind}/" for kind in _kinds())
    kind, slash, _ = str(context.meta.get("typed", "")).partition("/")
    if slash:
        from teleport.resources.references import ResourceRef

        known = ResourceRef.parse(kind).kind.value
        yield from (f"{kind}/{name}" for name in _names(context, known))


def _events(context: click.Context) -> Iterable[str]:
    from teleport.audit.events import REGISTRY

    return REGISTRY.by_name


def _users(context: click.Context) -> Iterable[str]:
    return _names(context, "user")


def _roles(context: click.Context) -> Iterable[str]:
    return _names(context, "role")


def _nodes(context: click.Context) -> Iterable[str]:
    return _names(context, "node")


def _tokens(context: click.Context) -> Iterable[str]:
    return _names(context, "token")


TABLE = {
    "users rm names": _users,
    "users reset name": _users,
    "users update name": _users,
    "users unlock name": _users,
    "lock user": _users,
    "lock role": _roles,
    "lock node": _nodes,
    "users update set_roles": _roles,
    "users add roles": _roles,
    "user": _users,
    "host": _nodes,
    "mfa leases rm names": lambda context: _names(context, "mfa_lease"),
    "mfa leases ls user": _users,
    "nodes rm names": _nodes,
    "tokens rm names": _tokens,
    "nodes add roles": lambda context: ["node", "proxy", "auth"],
    "tokens add types": lambda context: ["node", "proxy", "auth", "trusted_cluster"],
    "get specs": _specs,
    "rm specs": _specs,
    "audit ls types": _events,
    "update spec": lambda context: [f"rc/{name}" for name in _names(context, "remote_cluster")],
}
