"""OTLP's JSON for spans: what a collector takes by POST at /v1/traces.

The form is OpenTelemetry's protocol 1.x, JSON Protobuf encoding (https://opentelemetry.io/docs/specs/otlp/): names in
lowerCamelCase, ids in hexadecimal, 64-bit numbers as text, enumerations as numbers. Pure; tests read it back with
OpenTelemetry's own messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from teleport.spans import Finished, Value

PATH: Final = "/v1/traces"
CONTENT_TYPE: Final = "application/json"
_FAILED: Final = 2  # of Status.StatusCode
_SCOPE: Final = "teleport"


def encode(spans: Sequence[Finished], about: Mapping[str, str], version: str) -> bytes:
    """An ExportTraceServiceRequest. `about` are attributes of this host; `version` is that of the program."""
    services: dict[str, list[Finished]] = {}
    for one in spans:
        services.setdefault(one.service, []).append(one)
    return msgspec.json.encode(
        {
            "resourceSpans": [
                {
                    "resource": {
                        "attributes": _attributes({"service.name": f"teleport.{name}", **about}.items()),
                    },
                    "scopeSpans": [
                        {"scope": {"name": _SCOPE, "version": version}, "spans": [_span(one) for one in found]}
                    ],
                }
                for name, found in services.items()
            ]
        }
    )


def _span(one: Finished) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": one.context.trace_id.hex(),
        "spanId": one.context.span_id.hex(),
        "name": one.name,
        "kind": int(one.kind),
        "startTimeUnixNano": str(one.began),
        "endTimeUnixNano": str(one.ended),
        "attributes": _attributes(one.attributes),
    }
    if one.parent:
        found["parentSpanId"] = one.parent.hex()
    if one.failed:
        found["status"] = {"code": _FAILED}
    return found


def _attributes(values: Iterable[tuple[str, Value]]) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}}
        for name, value in values
    ]


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: str | int = 0
    error_message: str = ""


class _Reply(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


def rejected(body: bytes) -> tuple[int, str]:
    """How many spans of a batch a collector did not take, and why, as its answer of 2xx says."""
    try:
        partial = msgspec.json.decode(body, type=_Reply).partial_success
        return (int(partial.rejected_spans), partial.error_message) if partial is not None else (0, "")
    except (msgspec.MsgspecError, ValueError):
        return 0, ""  # an empty answer, or one in another form: what was sent was taken
