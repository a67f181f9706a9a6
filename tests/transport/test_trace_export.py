"""Spans to a real HTTP server: batches, back-off, refusals, one that is away, and one that never answers."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from teleport.spans import Finished, Kind, TraceContext
from teleport.testing.loopback import LOOPBACK, free_port
from teleport.testing.otlp_collector import Collector
from teleport.testing.public_authority import PublicAuthority
from teleport.testing.running import wait_until
from teleport.transport import trace_export
from teleport.transport.trace_export import BATCH, Destination, Exporter

_numbers = itertools.count(1)


def a_span(name: str = "proxy.ssh.dial") -> Finished:
    number = next(_numbers)
    context = TraceContext(number.to_bytes(16, "big"), number.to_bytes(8, "big"), True)
    return Finished(name, "proxy", Kind.CLIENT, context, b"", number, number + 1, (), False)


@asynccontextmanager
async def running(exporter: Exporter) -> AsyncIterator[None]:
    task = asyncio.create_task(exporter.run(), name="export")
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def exporter(to: str, **more: float | int) -> Exporter:
    return Exporter(
        Destination(to),
        lambda: {"host.name": "alpha"},
        **{"soon": 0.01, "first_wait": 0.02, **more},  # type: ignore[arg-type]
    )


async def until(what: str, done: Callable[[], object]) -> None:
    await wait_until(lambda: bool(done()))


async def test_spans_come_in_batches_and_none_twice() -> None:
    collector = Collector()
    with collector.up():
        one = exporter(f"{collector.url}/v1/traces")
        sent = [a_span() for _ in range(BATCH + 10)]
        for span in sent:
            one.put(span)
        async with running(one):
            await until("all of them", lambda: len(collector.spans) == len(sent))
            assert len(collector.bodies) == 2
            one.put(a_span("later"))
            await until("one more", lambda: len(collector.spans) == len(sent) + 1)
    assert [got.id for got in collector.spans[: len(sent)]] == [span.context.span_id.hex() for span in sent]
    path, headers = collector.requests[0]
    assert path == "/v1/traces"
    assert headers["Content-Type"] == "application/json"
    assert collector.spans[0].resource == {"service.name": "teleport.proxy", "host.name": "alpha"}
    assert not one.dropped
    assert not collector.unread


async def test_one_that_is_busy_is_asked_again_and_one_that_refuses_is_not() -> None:
    collector = Collector()
    collector.answers = [(503, {}), (429, {"Retry-After": "0"}), (502, {})]
    with collector.up():
        one = exporter(collector.url)
        async with running(one):
            one.put(a_span("kept"))
            await until("it at last", lambda: collector.spans)
            assert len(collector.requests) == 4
            collector.answers = [(400, {})]
            one.put(a_span("refused"))
            await until("a refusal", lambda: one.dropped == 1)
            collector.answers = [(302, {"Location": f"{collector.url}/elsewhere"})]
            one.put(a_span("led elsewhere"))
            await until("no redirect", lambda: one.dropped == 2)
            one.put(a_span("next"))
            await until("the next", lambda: len(collector.spans) == 2)
    assert [got.name for got in collector.spans] == ["kept", "next"]
    assert {path for path, _ in collector.requests} == {"/"}


async def test_what_a_collector_rejects_in_part_is_counted() -> None:
    collector = Collector(reply=b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}')
    with collector.up():
        one = exporter(collector.url)
        async with running(one):
            one.put(a_span())
            await until("they are counted", lambda: one.dropped == 2)
    assert len(collector.requests) == 1, "and not sent again"


async def test_one_that_is_away_costs_memory_for_so_many_only(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once that it is away, and once that it is back."""
    collector = Collector(port=free_port())
    one = exporter(f"{collector.url}/in?key=sesame", most=5)
    async with running(one):
        one.put(a_span("first"))
        await until("the first is taken up", lambda: not one.waiting)
        for _ in range(8):
            one.put(a_span())
        assert one.waiting == 5
        assert one.dropped == 3
        await until("it is told", lambda: "spans are not taken" in caplog.text)
        with collector.up():
            await until("what was kept", lambda: len(collector.spans) == 6)
            await until("it is told", lambda: "spans are taken again" in caplog.text)
    assert caplog.text.count("spans are not taken") == 1
    assert collector.requests[0][0] == "/in?key=sesame"
    assert "sesame" not in caplog.text


async def test_after_so_many_tries_a_batch_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    collector.answers = [(503, {})] * trace_export.TRIES
    with collector.up():
        one = exporter(collector.url, first_wait=0.001)
        async with running(one):
            one.put(a_span())
            await until("it is dropped", lambda: one.dropped == 1)
            one.put(a_span("next"))
            await until("the next", lambda: collector.spans)
    assert len(collector.requests) == trace_export.TRIES + 1


async def test_a_mistake_of_ours_costs_spans_and_not_the_daemon(caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector()
    mistakes = [ZeroDivisionError("a mistake")]

    def about() -> dict[str, str]:
        if mistakes:
            raise mistakes.pop()
        return {}

    with collector.up():
        one = Exporter(Destination(collector.url), about, soon=0.01)
        async with running(one):
            one.put(a_span())
            await until("it is dropped", lambda: one.dropped == 1)
            one.put(a_span("next"))
            await until("the next", lambda: collector.spans)
    assert [got.name for got in collector.spans] == ["next"]
    assert "spans could not be sent" in caplog.text


async def test_what_waits_at_the_end_is_sent() -> None:
    collector = Collector()
    with collector.up():
        one = exporter(collector.url, soon=600)
        async with running(one):
            one.put(a_span())
            await asyncio.sleep(0)
        assert len(collector.spans) == 1


async def test_one_that_never_answers_holds_up_neither_who_puts_nor_the_end() -> None:
    """A listener that takes connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        one = exporter(f"http://{LOOPBACK}:{silent.getsockname()[1]}")
        loop = asyncio.get_running_loop()
        async with running(one):
            one.put(a_span())
            await until("it is being sent", lambda: not one.waiting)
            one.put(a_span())
            begun = loop.time()
        assert loop.time() - begun < 5 * trace_export.LAST


async def test_tls_believes_who_it_is_told_to_and_proves_itself(tmp_path: Path) -> None:
    authority = PublicAuthority("Collector")
    ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.write_bytes(authority.root)
    other.write_bytes(PublicAuthority("Other").root)
    cert, key = authority.issue(LOOPBACK).write(tmp_path, "server")
    own = authority.issue("alpha.example.com").write(tmp_path, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    collector = Collector(context=context)
    with collector.up():
        for trusted, shown in (((ca,), ()), ((other,), (own,)), ((), (own,)), ((tmp_path / "none.pem",), (own,))):
            wrong = Exporter(Destination(collector.url, trusted, shown), dict, soon=0.01, first_wait=0.001)
            async with running(wrong):
                wrong.put(a_span())
                await until("it is dropped", lambda wrong=wrong: wrong.dropped == 1)  # type: ignore[misc]
        assert not collector.requests
        right = Exporter(Destination(collector.url, (other, ca), (own,)), dict, soon=0.01)
        async with running(right):
            right.put(a_span())
            await until("it comes", lambda: collector.spans)


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with collector.up():
        one = exporter(collector.url)
        async with running(one):
            one.put(a_span())
            await until("it comes", lambda: collector.spans)
