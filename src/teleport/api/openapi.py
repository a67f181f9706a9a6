"""The routes as OpenAPI 3.1, made from their table: `docs/openapi.json`, for clients in other languages.

Fields of a request travel in the path where it names them, else in the query or in a JSON body (`api.codec`); a
document is a resource as `tctl get --format=json` prints it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from teleport import __version__
from teleport.api.codec import STATUS
from teleport.api.messages import ErrorReply
from teleport.api.routes import ROUTES, Route, Stream

_REFERENCE: Final = "#/components/schemas/{name}"
_NO_BODY: Final = ("GET", "DELETE")


def document() -> dict[str, Any]:
    """Everything, in an order that is always the same."""
    used = {type_ for route in ROUTES.values() for type_ in (route.request, route.reply)} | {ErrorReply}
    types = sorted(used, key=lambda type_: type_.__name__)
    _, schemas = msgspec.json.schema_components(types, schema_hook=_hook, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES.values():
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    used_names = {*_references(paths), ErrorReply.__name__} - {"error"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Auth API",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "What services, tctl and tsh ask of auth, over TLS 1.3. docs/api.md says who may ask.",
        },
        "servers": [{"url": "https://{address}", "variables": {"address": {"default": "127.0.0.1:3025"}}}],
        "security": [{"certificate": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A certificate of the cluster, of a host or a user.",
                }
            },
            "responses": {"error": _reply(f"What was wrong, and what to do: {_statuses()}.", ErrorReply.__name__)},
            "schemas": {name: schemas[name] for name in sorted(_reached(used_names, schemas))},
        },
    }


def _operation(route: Route[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    shape = schemas[route.request.__name__]
    fields, required = shape.get("properties", {}), set(shape.get("required", ()))
    found: dict[str, Any] = {"operationId": route.name, "tags": [route.kind.removeprefix("*")]}
    if doc := (route.request.__doc__ or "").strip():
        found["summary"] = " ".join(doc.partition("\n\n")[0].split())
    if route.verb is None:
        found |= {"security": [], "x-open-because": route.reason}
    else:
        found |= {"x-verb": str(route.verb), "x-kind": route.kind}
    if route.events:
        found["x-audit-events"] = list(route.events)
    inside = [name for name in fields if name in route.path_fields]
    parameters = [{"name": name, "in": "path", "required": True, "schema": fields[name]} for name in inside]
    others = [name for name in fields if name not in route.path_fields]
    if _has_body(route):
        if others:
            found["requestBody"] = {
                "required": any(name in required for name in others),
                "content": {"application/json": {"schema": _body(route, shape, others)}},
            }
    else:
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": fields[name]} for name in others
        ]
    if route.stream is Stream.UP:
        bytes_ = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        found["requestBody"] = {"required": True, "content": bytes_}
    if parameters:
        found["parameters"] = parameters
    done = _reply("Done.", route.reply.__name__)
    if route.stream is Stream.DOWN:
        done = {
            "description": f"A stream of bytes, or of lines that are each a {route.reply.__name__}.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    found["responses"] = {"200": done, "default": {"$ref": "#/components/responses/error"}}
    return found


def _body(route: Route[Any, Any], shape: dict[str, Any], others: list[str]) -> dict[str, Any]:
    """The request, without what the path says."""
    if not route.path_fields:
        return {"$ref": _REFERENCE.format(name=route.request.__name__)}
    kept = {key: value for key, value in shape.items() if key not in ("properties", "required", "title", "description")}
    needed = [name for name in shape.get("required", ()) if name in others]
    kept["properties"] = {name: shape["properties"][name] for name in others}
    return {**kept, **({"required": needed} if needed else {})}


def _has_body(route: Route[Any, Any]) -> bool:
    return route.method not in _NO_BODY and route.stream is Stream.NONE


def _reply(what: str, name: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=name)}
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _statuses() -> str:
    return ", ".join(f"{status} {code}" for code, status in sorted(STATUS.items(), key=lambda one: one[1]))


def _reached(names: set[str], schemas: dict[str, Any]) -> set[str]:
    """The schemas that these refer to, and so on; queries and paths have theirs in place."""
    found: set[str] = set()
    waiting = [name for name in names if name in schemas]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return found


def _references(value: Any) -> list[str]:
    match value:
        case {"$ref": str(target)}:
            return [target.rpartition("/")[2]]
        case dict():
            return [name for inner in value.values() for name in _references(inner)]
        case list():
            return [name for inner in value for name in _references(inner)]
    return []


def _hook(type_: type) -> dict[str, Any]:
    if issubclass(type_, msgspec.Raw):
        return {"description": "a resource, as tctl get --format=json prints it"}
    raise NotImplementedError(type_)
