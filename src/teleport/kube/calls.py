"""What a request asks of a Kubernetes API server: verb, resource, namespace, name. Pure.

Read as the server itself reads it (`k8s.io/apiserver/pkg/endpoints/request`, RequestInfo), so that what is decided and
put on record here is what happens there; a name that only a field selector gives is not looked for. The server decodes
a path before it splits it; a path that two readers could split in two ways (an encoded slash, an empty or dotted
element, a backslash, bytes that are no text) is refused and never tidied up (threat T57). So are methods, forms of
targets and queries that the server has no use for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from teleport.authz.kube_resources import KubeCall
from teleport.errors import BadRequest

MAX_TARGET: Final = 16 * 1024  # bytes of path and query
_PREFIXES: Final = frozenset({"api", "apis"})
_SPECIAL_VERBS: Final = frozenset({"proxy", "watch"})
_OF_NAMESPACES: Final = frozenset({"status", "finalize"})
_VERBS: Final = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_INTO_PODS: Final = frozenset({"exec", "attach", "portforward"})
_APPLIED: Final = b"application/apply-patch"
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HINT: Final = "kubectl writes such paths by itself"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Without a `resource` it is none about resources: a path such as `/version`."""

    method: str
    path: str  # decoded
    target: str  # as it came, path and query
    verb: str
    api_group: str = ""
    api_version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    makes: bool = False  # a patch that makes the object if there is none

    @property
    def kind(self) -> str:
        """The resource as rules name it, such as `pods` or `pods/log`; empty when it is about none."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    @property
    def decided(self) -> KubeCall:
        """The call as it is decided."""
        return KubeCall(
            self.verb,
            self.api_group,
            self.resource,
            self.subresource,
            self.namespace,
            self.name,
            self.path,
            self.makes and not self.subresource,
        )

    @property
    def told(self) -> str:
        """The path as it is put on record: of a stream into a pod with the query, which holds the command."""
        query = self.target.partition("?")[2]
        return f"{self.path}?{query}" if query and self.into_pod else self.path

    @property
    def into_pod(self) -> bool:
        """Whether it opens a stream into a pod: a command, what it shows, or a port."""
        return self.resource == "pods" and self.subresource in _INTO_PODS

    @property
    def proxied(self) -> bool:
        """Whether a program in the cluster answers, and not the API server."""
        return self.verb == "proxy" or self.subresource == "proxy"

    @property
    def through_node(self) -> bool:
        """Whether it speaks to a node's own service, which runs commands in pods and tells nobody."""
        return self.resource == "nodes" and self.proxied


def classify(method: str, target: str) -> Call:
    """What the request is. Raises `BadRequest` for what could be read in two ways, or is nothing that clients send."""
    verb = _VERBS.get(method)
    if verb is None:
        raise BadRequest(
            f"The method {method[:20]!a} is not taken here.", hint="kubectl uses GET, POST, PUT, PATCH, DELETE"
        )
    path, query = _parts(target)
    parts = [part for part in path.strip("/").split("/") if part]
    call = Call(method=method, path=path, target=target, verb=verb)
    if len(parts) < 3 or parts[0] not in _PREFIXES:
        return _plain(call)
    group = ""
    if parts[0] == "apis":
        if len(parts) < 4:
            return _plain(call)
        group, parts = parts[1], parts[1:]
    version, parts = parts[1], parts[2:]
    if parts[0] in _SPECIAL_VERBS:
        if len(parts) < 2:
            raise BadRequest(f"The path {path[:200]!a} names no resource.", hint=_HINT)
        verb, parts = parts[0], parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _OF_NAMESPACES:
            parts = parts[2:]
    resource, name = parts[0], parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 and verb != "proxy" else ""
    if not name and verb == "get":
        verb = "watch" if _is_true(query, "watch") else "list"
    elif not name and verb == "delete":
        verb = "deletecollection"
    return Call(
        method=method,
        path=path,
        target=target,
        verb=verb,
        api_group=group,
        api_version=version,
        namespace=namespace,
        resource=resource,
        subresource=subresource,
        name=name,
    )


def makes(method: str, content_types: Sequence[bytes]) -> bool:
    """Whether a body of this type is applied by the server, which makes an object that is not there."""
    return method == "PATCH" and any(kind.strip().lower().startswith(_APPLIED) for kind in content_types)


def _plain(call: Call) -> Call:
    """A request about no resource: its verb is the method."""
    return Call(method=call.method, path=call.path, target=call.target, verb=call.method.lower())


def _parts(target: str) -> tuple[str, list[tuple[str, str]]]:
    """The decoded path and the query's pairs."""
    raw, mark, query = target.partition("?")
    if len(target) > MAX_TARGET:
        raise BadRequest("The request's path is too long.", hint=f"at most {MAX_TARGET} bytes are taken")
    if not target.isascii() or not target.isprintable() or any(character in target for character in ' #\\"<>'):
        raise BadRequest("The request's path has characters that have to be encoded.", hint=_HINT)
    if not raw.startswith("/") or _ESCAPE.search(target):
        raise BadRequest("The request's path is none that an API server has.", hint=_HINT)
    if mark and ";" in query:
        raise BadRequest("The request's query has a semicolon that is not encoded.", hint=_HINT)
    encoded = raw.split("/")[1:]
    elements = [_decoded(element) for element in encoded]
    # a slash may end the path, as it does when a client joins parts; an empty element anywhere else moves the others
    if any(element in {"", ".", ".."} for element in elements[:-1]) or elements[-1] in {".", ".."}:
        raise BadRequest("The request's path has an empty or dotted element.", hint=_HINT)
    return "/" + "/".join(elements), [_pair(pair) for pair in query.split("&") if pair]


def _decoded(element: str) -> str:
    try:
        text = unquote_to_bytes(element).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The request's path is no UTF-8 text.", hint=_HINT) from None
    if not text.isprintable() or any(character in text for character in "/\\%"):
        raise BadRequest("The request's path hides a character that divides or encodes paths.", hint=_HINT)
    return text


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return _query_text(name), _query_text(value)


def _query_text(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")


def _is_true(query: list[tuple[str, str]], name: str) -> bool:
    """As the server reads a flag of its options: the first value counts, and only `0` and `false` mean no."""
    for key, value in query:
        if key == name:
            return value.lower() not in {"0", "false"}
    return False
