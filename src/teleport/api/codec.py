"""How calls of the auth API travel over HTTP: one place for both clients and the server.

A request's fields go where its route puts them: named by the path, else in the query (GET, DELETE and streamed
uploads) or in a JSON body. Errors travel as `ErrorReply` with the HTTP status of their kind.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import msgspec

from teleport.api.messages import ErrorReply, Message, Request
from teleport.api.routes import Route, Stream
from teleport.clock import rfc3339
from teleport.errors import KINDS, BadRequest, ConnectionProblem, LimitExceeded, TeleportError

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Message)

MAX_BODY = 10 * 1024 * 1024  # bytes of a JSON body or reply (`protocols.md` 2)
MAX_RETRY = 3600.0  # seconds that a caller is made to wait, whatever it is told

STATUS: dict[str, int] = {
    "failed": 500,
    "bad_request": 400,
    "access_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "compare_failed": 412,
    "limit_exceeded": 429,
    "connection_problem": 502,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as HTTP sees it."""

    method: str
    target: str  # path and query
    body: bytes  # empty when the route has no JSON body


def _query_values(value: Any) -> Iterable[str]:
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, datetime):
        return [rfc3339(value)]
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return [str(value)]


def _in_body(route: Route[Any, Any]) -> bool:
    return route.method in ("POST", "PUT") and route.stream is Stream.NONE


def encode_call(route: Route[Req, Any], request: Req) -> Call:
    """`request` as an HTTP call of `route`."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    path = route.path
    for name in route.path_fields:
        value = str(fields.pop(name))
        if not value or value in (".", ".."):
            raise BadRequest(f"{route.name}: the {name} {value!r} cannot be a name", hint="give a name that is one")
        path = path.replace("{" + name + "}", urllib.parse.quote(value, safe=""))
    if _in_body(route):
        return Call(route.method, path, msgspec.json.encode(fields))
    pairs = [
        (name, text)
        for name, value in fields.items()
        if value is not None and not _is_default(_type_of(route), name, value)
        for text in _query_values(value)
    ]
    return Call(route.method, path + ("?" + urllib.parse.urlencode(pairs) if pairs else ""), b"")


def decode_request(route: Route[Req, Any], path: Mapping[str, str], query: Mapping[str, list[str]], body: bytes) -> Req:
    """The typed request that arrived; `BadRequest` naming the field that does not fit."""
    try:
        fields: dict[str, Any] = {}
        if _in_body(route) and body:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            fields = {name: _raw_field(route, name, value) for name, value in fields.items()}
        elif not _in_body(route):
            listed = _fields_of(_type_of(route), "list")
            fields = {name: values if name in listed else values[-1] for name, values in query.items()}
        clash = set(fields) & set(path)
        if clash:
            raise BadRequest(
                f"{route.name}: {sorted(clash)[0]} is named by the path already",
                hint="use a client of the version of the cluster: tctl status",
            )
        if _in_body(route):
            return msgspec.convert({**fields, **path}, route.request)
        return msgspec.convert({**fields, **path}, route.request, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"{route.name}: {error}", hint="use a client of the version of the cluster: tctl status"
        ) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadRequest(
            f"{route.name}: the body is not JSON: {error}",
            hint="use a client of the version of the cluster: tctl status",
        ) from None


def _type_of(route: Route[Any, Any]) -> Any:
    return route.request


@cache
def _fields_of(kind: Any, form: str) -> frozenset[str]:
    """The fields of a request that are lists, or documents; asking msgspec evaluates every annotation anew."""
    fields = msgspec.structs.fields(kind)
    if form == "list":
        return frozenset(field.name for field in fields if str(field.type).startswith("list"))
    return frozenset(field.name for field in fields if field.type is msgspec.Raw)


@cache
def _defaults_of(kind: Any) -> Mapping[str, Any]:
    """What a request's fields are when nothing is said of them; a field that must be given has none."""
    fields = msgspec.structs.fields(kind)
    return {field.name: field.default for field in fields if field.default is not msgspec.NODEFAULT}


def _is_default(kind: Any, name: str, value: Any) -> bool:
    """Whether saying nothing says the same. Zero, the empty text and false are said where they are not the default."""
    defaults = _defaults_of(kind)
    return name in defaults and type(defaults[name]) is type(value) and bool(defaults[name] == value)


def _raw_field(route: Route[Any, Any], name: str, value: msgspec.Raw) -> Any:
    """Keeps documents as they were sent and decodes everything else."""
    if name in _fields_of(_type_of(route), "Raw"):
        return value
    return msgspec.json.decode(value)


def decode_reply(route: Route[Any, Rep], status: int, body: bytes) -> Rep:
    """The typed answer, or the error that auth answered with, raised."""
    if status != 200:
        raise decode_error(status, body)
    try:
        return msgspec.json.decode(body, type=route.reply)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConnectionProblem(
            f"{route.name}: the answer of the auth server cannot be read: {error}",
            hint="use a client of the version of the cluster: tctl status",
        ) from None


def encode_error(error: TeleportError) -> tuple[int, bytes]:
    """HTTP status and body of an error."""
    after = error.retry_after if isinstance(error, LimitExceeded) else 0.0
    reply = ErrorReply(code=error.code, message=error.message, hint=error.hint, retry_after=after)
    return STATUS.get(error.code, 500), msgspec.json.encode(reply)


def decode_error(status: int, body: bytes) -> TeleportError:
    """The error that a body with this status says."""
    try:
        reply = msgspec.json.decode(body, type=ErrorReply)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        return ConnectionProblem(
            f"the auth server answered with HTTP status {status}",
            hint="check that the address is an auth server's; its log says more",
        )
    if reply.code == LimitExceeded.code:
        return LimitExceeded(reply.message, hint=reply.hint, retry_after=min(max(reply.retry_after, 0.0), MAX_RETRY))
    return KINDS.get(reply.code, TeleportError)(reply.message, hint=reply.hint)
