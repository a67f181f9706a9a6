"""A collector of traces, as a real HTTP server: it reads what comes by OpenTelemetry's own messages, strictly.

Needs `opentelemetry-proto` and `protobuf`, which the requirements for development have.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from teleport.testing.loopback import LOOPBACK
from teleport.testing.processes import wait_until


def as_protobuf(body: bytes) -> Any:
    """An ExportTraceServiceRequest. Raises `json_format.ParseError` for what is not in the schema. The one difference
    of OTLP's JSON is that ids are hexadecimal and not base64."""
    document = json.loads(body)

    def turn(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                turn(one)
        elif isinstance(value, dict):
            for name in value:
                if name in ("traceId", "spanId", "parentSpanId"):
                    value[name] = base64.b64encode(bytes.fromhex(value[name])).decode()
                else:
                    turn(value[name])

    turn(document)
    return json_format.ParseDict(document, ExportTraceServiceRequest())


@dataclass(frozen=True)
class Got:
    """A span as it came."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    began: int
    ended: int
    attributes: Mapping[str, str | int]
    resource: Mapping[str, str]


def read(body: bytes) -> Iterator[Got]:
    """The spans of one request. Raises as `as_protobuf`."""
    for part in as_protobuf(body).resource_spans:
        resource = {one.key: one.value.string_value for one in part.resource.attributes}
        for scope in part.scope_spans:
            for span in scope.spans:
                yield Got(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes},
                    resource,
                )


@dataclass
class Collector:
    """Takes spans at `url`; `answers` are given first: a status, or a status with headers."""

    context: ssl.SSLContext | None = None
    port: int = 0
    spans: list[Got] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    reply: bytes = b"{}"
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # what was not in the schema

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://{LOOPBACK}:{self.port}"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Listens while the context lasts; the next time at the same port."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = collector._take(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                said = collector.reply if status == 200 else b""
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the tests look at what came."""

        server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        server.daemon_threads = True
        if self.context is not None:
            server.socket = self.context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="collector")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        self.requests.append((path, headers))
        if self.answers:
            return self.answers.pop(0)
        try:
            found = list(read(body))
        except (ValueError, json_format.ParseError) as error:
            self.unread.append(str(error))
            return 400, {}
        self.bodies.append(body)
        self.spans += found
        return 200, {"Content-Type": "application/json"}

    def wait(self, name: str, seconds: float = 30.0, **attributes: str | int) -> Got:
        """The first span of that name, with these attributes (`__` for a dot), once it has come."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}

        def found() -> Got | None:
            for one in list(self.spans):
                if one.name == name and wanted.items() <= one.attributes.items():
                    return one
            return None

        return wait_until(f"a span {name} with {wanted}", found, seconds)

    def trace(self, trace: str) -> dict[str, Got]:
        """The spans of one trace by their ids."""
        return {one.id: one for one in list(self.spans) if one.trace == trace}
