"""What teleport.yaml can ask for that this version cannot do.

Asking for a protection or a service that does not exist is an error, so that nobody believes in it; a listener or
tuning key that merely has no use yet is accepted with a warning. One table says which; whoever builds a part deletes
its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from teleport.resources.values import parse_boolean
from teleport.resources.yaml_document import Node, Problems


@dataclass(frozen=True, slots=True)
class NotBuilt:
    """`path` in the file; it concerns the values for which `asks` says so."""

    path: str
    asks: Callable[[str], bool]
    text: str  # allowed: ... for an error; the warning otherwise
    is_error: bool = True


def _on(value: str) -> bool:
    try:
        return parse_boolean(value)
    except ValueError:
        return False


def _any(value: str) -> bool:
    return True


def _in(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def _remote(value: str) -> bool:
    return not value.startswith(("file:", "stdout:", "postgresql:", "dynamodb:", "/"))


def _google(value: str) -> bool:
    return value.startswith("gs:")


_SERVICE: Final = "no: this version does not have the {} service yet"
_LISTENER: Final = "is accepted, but {} are not served by this version: nothing will listen there"
_OWN_LIST: Final = "is accepted, but this version negotiates a list of its own"
_LATER: Final = "this version cannot do that yet"
_EVENT_PLACES: Final = "file:///dir, dynamodb://, postgresql:// or stdout://"

NOT_BUILT: Final = (
    NotBuilt("app_service.enabled", _on, _SERVICE.format("application")),
    NotBuilt("db_service.enabled", _on, _SERVICE.format("database")),
    NotBuilt("ssh_service.restricted_session.enabled", _on, f"no: {_LATER}"),
    NotBuilt("auth_service.authentication.type", _in("github", "oidc", "saml"), f"local: {_LATER}"),
    NotBuilt("teleport.storage.type", _in("firestore", "cockroachdb"), f"dir, etcd, postgresql or dynamodb: {_LATER}"),
    NotBuilt("teleport.storage.type", _in("postgres"), f"postgresql, with conn_string: {_LATER}"),
    NotBuilt("teleport.storage.audit_events_uri", _remote, f"{_EVENT_PLACES}: {_LATER}"),
    NotBuilt("teleport.storage.audit_sessions_uri", _google, f"file:///dir or s3://bucket/path: {_LATER}"),
    NotBuilt("teleport.join_params.method", _in("ec2", "iam"), f"token: {_LATER}"),
    NotBuilt("teleport.ciphers", _any, _OWN_LIST, False),
    NotBuilt("teleport.kex_algos", _any, _OWN_LIST, False),
    NotBuilt("teleport.mac_algos", _any, _OWN_LIST, False),
    NotBuilt("teleport.ciphersuites", _any, _OWN_LIST, False),
    NotBuilt("teleport.cache", _any, "is accepted: the copy of auth's data is kept in memory so far", False),
    NotBuilt("proxy_service.mysql_listen_addr", _any, _LISTENER.format("MySQL clients"), False),
    NotBuilt("proxy_service.postgres_listen_addr", _any, _LISTENER.format("PostgreSQL clients"), False),
    NotBuilt("proxy_service.mongo_listen_addr", _any, _LISTENER.format("MongoDB clients"), False),
)


def find(root: Node, path: str) -> Node | None:
    """The value at a dotted path of plain keys, None when absent or null."""
    node: Node | None = root
    for name in path.split("."):
        node = node.get(name) if node is not None else None
    return node


def check_built(root: Node, problems: Problems, table: tuple[NotBuilt, ...] = NOT_BUILT) -> None:
    """Records each thing that the file asks for and that cannot be done."""
    for row in table:
        node = find(root, row.path)
        if node is None:
            continue
        for value in node.items() if node.is_list else [node]:
            if not row.asks(value.value):
                continue
            if row.is_error:
                value.problem(problems, row.text)
            else:
                value.notice(problems, row.text)
