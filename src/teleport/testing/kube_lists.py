"""How the stand-in API server answers lists: plain, as tables or metadata, in chunks, compressed, and as protobuf."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

_LEAST_COMPRESSED: Final = 1024  # bytes
_PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_META: Final = "meta.k8s.io/v1"


def form(request: web.Request) -> str:
    """The first form that the client accepts: `Table`, `PartialObjectMetadataList`, `protobuf` or `json`."""
    for media in request.headers.get("Accept", "").split(","):
        kind, *parameters = [part.strip() for part in media.split(";")]
        if kind == _PROTOBUF:
            return "protobuf"
        if kind == "application/json":
            return next((one.removeprefix("as=") for one in parameters if one.startswith("as=")), "json")
    return "json"


def answer_list(request: web.Request, items: Sequence[dict[str, Any]], kind: str = "Pod") -> web.Response:
    """The list in the form, the chunk and the coding that are asked for."""
    begin = 0
    if request.query.get("continue"):
        begin = int(base64.b64decode(request.query["continue"]))
    limit = int(request.query.get("limit", "0")) or len(items)
    metadata: dict[str, Any] = {"resourceVersion": "1"}
    if begin + limit < len(items):
        metadata["continue"] = base64.b64encode(str(begin + limit).encode()).decode()
        metadata["remainingItemCount"] = len(items) - begin - limit
    chunk = items[begin : begin + limit]
    wanted = form(request)
    if wanted == "protobuf":
        return web.Response(body=b"k8s\x00" + json.dumps(chunk).encode(), content_type=_PROTOBUF)
    if wanted == "Table":
        found = table(chunk) | {"metadata": metadata}
    elif wanted == "PartialObjectMetadataList":
        found = {"kind": wanted, "apiVersion": _META, "metadata": metadata, "items": [_partial(one) for one in chunk]}
    else:
        found = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": metadata, "items": list(chunk)}
    body = json.dumps(found).encode()
    if "gzip" in request.headers.get("Accept-Encoding", "") and len(body) > _LEAST_COMPRESSED:
        coded = {"Content-Encoding": "gzip"}
        return web.Response(body=gzip.compress(body), content_type="application/json", headers=coded)
    return web.Response(body=body, content_type="application/json")


def _partial(one: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": one["metadata"]}


def table(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table of pods."""
    columns = [
        {"name": name, "type": "string", "format": "", "description": "", "priority": 0} for name in ("Name", "Status")
    ]
    rows = [
        {"cells": [one["metadata"]["name"], one.get("status", {}).get("phase", "")], "object": _partial(one)}
        for one in items
    ]
    return {
        "kind": "Table",
        "apiVersion": _META,
        "metadata": {"resourceVersion": "1"},
        "columnDefinitions": columns,
        "rows": rows,
    }


def event_in_form(line: bytes, wanted: str, *, first: bool) -> bytes:
    """An event of a watch, in the form that is asked for; of tables only the first one has columns."""
    if wanted != "Table":
        return line
    event = json.loads(line)
    found = table([event["object"]])
    if not first:
        found["columnDefinitions"] = None
    return json.dumps({"type": event["type"], "object": found}).encode() + b"\n"
