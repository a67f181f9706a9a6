"""Spans: whose children they are, which traces are kept, and that nothing is made where nobody asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from teleport import spans
from teleport.spans import Finished, Kind, TraceContext, Tracer, span


class Made:
    """What a tracer made, by a clock and by chance of the test's."""

    def __init__(self) -> None:
        self.found: list[Finished] = []
        self.time = 1000
        self.chance = 0

    def now(self) -> int:
        self.time += 10
        return self.time

    def random(self, size: int) -> bytes:
        self.chance += 1
        return self.chance.to_bytes(size, "big")

    def install(self, rate: int = spans.MILLION) -> None:
        spans.install(Tracer(rate, self.found.append, self.now, self.random))

    def named(self, name: str) -> Finished:
        (found,) = [one for one in self.found if one.name == name]
        return found


@pytest.fixture
def made() -> Iterator[Made]:
    found = Made()
    found.install()
    yield found
    spans.install(None)


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_header_that_can_be_read(text: str, sampled: bool) -> None:
    """Examples of W3C Trace Context, sections 3.2 and 3.2.4."""
    found = TraceContext.parse(text)
    assert found == TraceContext(bytes.fromhex(TRACE), bytes.fromhex(SPAN), sampled)
    assert TraceContext.parse(found.header) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 300}",
        "\x00" * 55,
    ],
)
def test_what_cannot_be_read_is_as_if_it_were_not_there(text: str) -> None:
    assert TraceContext.parse(text) is None


def test_without_a_tracer_nothing_is_made_and_nothing_told() -> None:
    with span("proxy.ssh.connect", Kind.SERVER) as one:
        one.set("teleport.way", "memory")
        one.fail("Broken")
        assert one is spans.NOTHING
        assert spans.header() == ""
        assert spans.current() is None
        assert spans.moment() == 0


def test_spans_within_a_span_are_its_children(made: Made) -> None:
    with span("proxy.ssh.connect", Kind.SERVER) as outer:
        with span("proxy.ssh.dial", Kind.CLIENT) as inner:
            inner.set("teleport.way", "tunnel")
            assert spans.header() == inner.context.header if inner.context else ""
        with span("api.call"):
            pass
        assert outer.context is not None
        assert spans.current() == outer.context
    assert spans.current() is None
    connect, dial, call = (made.named(name) for name in ("proxy.ssh.connect", "proxy.ssh.dial", "api.call"))
    assert connect.parent == b""
    assert dial.parent == call.parent == connect.context.span_id
    assert {one.context.trace_id for one in made.found} == {connect.context.trace_id}
    assert dial.attributes == (("teleport.way", "tunnel"),)
    assert [one.service for one in (connect, dial, call)] == ["proxy", "proxy", "proxy"]
    assert connect.began < dial.began < dial.ended <= call.began < connect.ended


def test_a_parent_from_elsewhere_decides_whether_it_is_kept(made: Made) -> None:
    kept, left = (TraceContext(bytes(15) + b"\x01", bytes(7) + b"\x02", sampled) for sampled in (True, False))
    made.install(rate=0)
    with span("node.ssh.connect", parent=kept), span("node.decide"):
        pass
    assert [one.name for one in made.found] == ["node.decide", "node.ssh.connect"]
    assert made.named("node.ssh.connect").parent == kept.span_id
    assert {one.context.trace_id for one in made.found} == {kept.trace_id}
    made.found.clear()
    made.install()
    with span("node.ssh.connect", parent=left), span("node.decide"):
        assert spans.header().endswith("-00"), "whoever goes on with it keeps nothing either"
    assert not made.found


def test_what_a_persons_program_began_has_its_first_span_here(made: Made) -> None:
    began = TraceContext(bytes(15) + b"\x01", bytes(7) + b"\x02", True)
    with span("proxy.ssh.connect", parent=began, first=True):
        pass
    found = made.named("proxy.ssh.connect")
    assert (found.context.trace_id, found.parent) == (began.trace_id, b"")


def test_of_a_million_traces_so_many_are_kept() -> None:
    """By the last half of a random id; children follow their first span."""
    found = Made()
    step = (1 << 64) // 1000
    ids = iter(range(step // 2, 1000 * step, step))

    def random(size: int) -> bytes:
        return next(ids).to_bytes(size, "big") if size == 16 else b"12345678"

    spans.install(Tracer(250_000, found.found.append, found.now, random))
    try:
        for _ in range(1000):
            with span("proxy.web"), span("api.call"):
                pass
    finally:
        spans.install(None)
    assert len(found.found) == 2 * 250


def test_without_a_beginning_there_is_no_child(made: Made) -> None:
    with span("api.call", begins=False) as one:
        assert one is spans.NOTHING
    with span("auth.api", parent=None, begins=False) as one:
        assert one is spans.NOTHING
    assert not made.found


def test_what_goes_wrong_is_told_by_its_class_alone(made: Made) -> None:
    with pytest.raises(ValueError, match="a secret"), span("node.decide"):
        raise ValueError("a secret")
    found = made.named("node.decide")
    assert found.failed
    assert found.attributes == (("error.type", "ValueError"),)


def test_only_what_is_listed_may_be_said(made: Made) -> None:
    with span("node.decide") as one, pytest.raises(AssertionError, match="user"):
        one.set("user", "ann")


@pytest.mark.parametrize("rate", [0, spans.MILLION], ids=["not kept", "kept"])
def test_a_span_that_is_over_has_no_more_children(made: Made, rate: int) -> None:
    """A task that was begun within a request may go on for hours: what it asks later is no part of it."""
    made.install(rate)
    later = asyncio.Event()
    heard: list[str] = []

    async def lasting() -> None:
        heard.append(spans.header())
        await later.wait()
        heard.append(spans.header())
        with span("api.call", begins=False):
            pass

    async def main() -> None:
        with span("node.session.start"):
            task = asyncio.create_task(lasting())
            await asyncio.sleep(0)
        later.set()
        await task

    asyncio.run(main())
    assert heard[0]
    assert not heard[1]
    assert [one.name for one in made.found] == (["node.session.start"] if rate else [])


def test_it_may_have_begun_and_ended_before(made: Made) -> None:
    """And a clock that is set back makes no span end before it began."""
    since = spans.moment()
    admitted = spans.moment()
    with span("proxy.ssh.connect", since=since):
        span("proxy.ssh.login", since=since).end(admitted)
        made.time = 0
    login, connect = made.named("proxy.ssh.login"), made.named("proxy.ssh.connect")
    assert (login.began, login.ended) == (since, admitted)
    assert connect.began == connect.ended == since
    assert login.parent == connect.context.span_id


def test_what_is_said_afterwards_is_not_heard(made: Made) -> None:
    with span("kube.call") as one:
        one.set("http.response.status_code", 200)
        one.end()
        one.set("http.response.status_code", 500)
    assert made.named("kube.call").attributes == (("http.response.status_code", 200),)
