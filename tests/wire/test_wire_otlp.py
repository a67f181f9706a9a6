"""What collectors are sent is read back with OpenTelemetry's own messages."""

from __future__ import annotations

import pytest
from google.protobuf import json_format

from teleport.spans import Finished, Kind, TraceContext
from teleport.testing.otlp_collector import as_protobuf
from teleport.wire import otlp

_TRACE, _ROOT, _CHILD = bytes(range(16)), bytes(range(8)), bytes(range(8, 16))
SPANS = [
    Finished("proxy.ssh.dial", "proxy", Kind.CLIENT, TraceContext(_TRACE, _CHILD, True), _ROOT, 2, 3, (), False),
    Finished(
        "node.decide",
        "node",
        Kind.INTERNAL,
        TraceContext(_TRACE, bytes(8), True),
        _CHILD,
        1_700_000_000_000_000_001,
        1_700_000_000_000_000_002,
        (("teleport.outcome", "permit"), ("http.response.status_code", 200)),
        True,
    ),
    Finished("proxy.ssh.connect", "proxy", Kind.SERVER, TraceContext(_TRACE, _ROOT, True), b"", 1, 4, (), False),
]


def test_spans_are_what_they_are_in_the_schema() -> None:
    found = as_protobuf(otlp.encode(SPANS, {"host.name": "alpha"}, "1.2.3"))
    proxy, node = found.resource_spans
    names = [{one.key: one.value.string_value for one in part.resource.attributes} for part in (proxy, node)]
    assert names == [
        {"service.name": "teleport.proxy", "host.name": "alpha"},
        {"service.name": "teleport.node", "host.name": "alpha"},
    ]
    assert (proxy.scope_spans[0].scope.name, proxy.scope_spans[0].scope.version) == ("teleport", "1.2.3")
    dial, connect = proxy.scope_spans[0].spans
    (decide,) = node.scope_spans[0].spans
    assert {one.trace_id for one in (dial, connect, decide)} == {_TRACE}
    assert (connect.span_id, connect.parent_span_id) == (_ROOT, b"")
    assert (dial.span_id, dial.parent_span_id) == (_CHILD, _ROOT)
    kinds = type(decide)
    assert [one.kind for one in (decide, connect, dial)] == [
        kinds.SPAN_KIND_INTERNAL,
        kinds.SPAN_KIND_SERVER,
        kinds.SPAN_KIND_CLIENT,
    ]
    assert decide.start_time_unix_nano == 1_700_000_000_000_000_001, "no digit is lost"
    assert decide.status.code == decide.status.STATUS_CODE_ERROR
    assert connect.status.code == connect.status.STATUS_CODE_UNSET
    assert [(one.key, one.value.WhichOneof("value")) for one in decide.attributes] == [
        ("teleport.outcome", "string_value"),
        ("http.response.status_code", "int_value"),
    ]
    assert decide.attributes[1].value.int_value == 200


def test_the_reader_of_these_tests_refuses_what_is_not_in_the_schema() -> None:
    body = otlp.encode(SPANS, {}, "1").replace(b'"startTimeUnixNano"', b'"startTime"')
    with pytest.raises(json_format.ParseError, match="startTime"):
        as_protobuf(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"full"}}', (3, "full")),
        (b'{"partialSuccess":{"rejectedSpans":2}}', (2, "")),
        (b'{"partialSuccess":null}', (0, "")),
        (b"{}", (0, "")),
        (b"", (0, "")),
        (b"<html>", (0, "")),
        (b'{"partialSuccess":{"rejectedSpans":"many"}}', (0, "")),
    ],
)
def test_what_a_collector_answers(body: bytes, expected: tuple[int, str]) -> None:
    assert otlp.rejected(body) == expected
