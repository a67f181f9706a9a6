"""The published description of the API: every route is in it as it is called, and nothing in it leads nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from teleport.api.openapi import document
from teleport.api.routes import ROUTES, Route, Stream

PUBLISHED = Path(__file__).parents[2] / "docs" / "openapi.json"
MADE = document()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def at(reference: str) -> Any:
    found: Any = MADE
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_what_is_published_is_what_the_code_says() -> None:
    assert json.loads(PUBLISHED.read_text()) == MADE, "run `make docs`"


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to() -> None:
    found = set(references(MADE))
    assert all(at(reference) is not None for reference in found)
    schemas = {f"#/components/schemas/{name}" for name in MADE["components"]["schemas"]}
    assert schemas <= found


def test_every_route_is_there_once_and_no_other() -> None:
    operations = {
        (method.upper(), path): one["operationId"]
        for path, item in MADE["paths"].items()
        for method, one in item.items()
    }
    assert operations == {(route.method, route.path): route.name for route in ROUTES.values()}
    assert len(set(operations.values())) == len(operations)


@pytest.mark.parametrize("route", ROUTES.values(), ids=lambda route: route.name)
def test_fields_are_where_a_call_has_them(route: Route[Any, Any]) -> None:
    """In the path, the query or the body: each once. Open routes say why, all others what right they need."""
    operation = MADE["paths"][route.path][route.method.lower()]
    parameters = operation.get("parameters", [])
    inside = {one["name"] for one in parameters if one["in"] == "path"}
    assert inside == route.path_fields
    query = {one["name"] for one in parameters if one["in"] == "query"}
    body: set[str] = set()
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        shape = content["application/json"]["schema"]
        body = set((at(shape["$ref"]) if "$ref" in shape else shape)["properties"])
    fields = {field.name for field in msgspec.structs.fields(route.request)}
    assert (inside | query | body, len(inside) + len(query) + len(body)) == (fields, len(fields))
    assert not query or not body
    assert ("application/octet-stream" in content) == (route.stream is Stream.UP)
    assert (operation.get("security") == []) == (route.verb is None) == ("x-open-because" in operation)
    assert operation.get("x-verb", "") == (route.verb or "")
