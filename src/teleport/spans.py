"""Spans: what one request did, where, and for how long, over all daemons that it went through.

A span has a name, a beginning, an end, and a parent; those of one request are a trace (https://opentelemetry.io,
"Traces"). Who goes on with a request elsewhere is told by the text of W3C Trace Context (`TraceContext`): in the
`traceparent` header of the auth API, in the line by which a proxy vouches, and in a global request of `tsh --trace`.

Rules it keeps: nothing is made until a daemon installs a tracer, and `span` costs one comparison then; a span never
fails, delays or decides what it is about; what people choose (names, commands, files, addresses) is in no span, since
collectors are read by others than the audit log: attributes are of `ATTRIBUTES` alone, and their values are words of
this program, numbers, and ids that the audit log has, too.

    with span("proxy.ssh.dial", Kind.CLIENT) as dialled:
        dialled.set("teleport.way", "tunnel")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from enum import IntEnum
from types import EllipsisType
from typing import Final, Protocol

ATTRIBUTES: Final = frozenset(
    {
        "error.type",  # the class of what was raised
        "http.request.method",
        "http.response.status_code",
        "http.route",  # as the table of routes has it: no value stands in it
        "teleport.kube.verb",
        "teleport.node.id",  # a host's UUID
        "teleport.outcome",  # permit, or the code of a denial
        "teleport.session.id",  # by which the audit log tells who it was
        "teleport.session.kind",  # shell, exec, subsystem
        "teleport.way",  # memory, tunnel, dialled, another cluster
    }
)
MILLION: Final = 1_000_000
_HEADER: Final = r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"  # compiled once it is needed
LONGEST_HEADER: Final = 256  # characters of a header that is looked at
_SAMPLED: Final = 1

Value = str | int


class Kind(IntEnum):
    """What a span is in the way of a request; numbers of OTLP's SpanKind."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in which trace a request is (https://www.w3.org/TR/trace-context/)."""

    trace_id: bytes  # 16
    span_id: bytes  # 8
    sampled: bool

    @property
    def header(self) -> str:
        """The text of `traceparent`."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{'01' if self.sampled else '00'}"

    @classmethod
    def parse(cls, text: str) -> TraceContext | None:
        """What `traceparent` says; None when it cannot be read, as if it were not there (section 3.2.4)."""
        found = re.fullmatch(_HEADER, text) if len(text) <= LONGEST_HEADER else None
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more is not None):
            return None
        if not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(bytes.fromhex(trace_id), bytes.fromhex(span_id), bool(int(flags, 16) & _SAMPLED))


@dataclass(frozen=True, slots=True)
class Finished:
    """A span that is over."""

    name: str
    service: str  # which made it: proxy, node, auth, kube
    kind: Kind
    context: TraceContext
    parent: bytes  # a span's id; empty: the first of its trace
    began: int  # nanoseconds since 1970
    ended: int
    attributes: tuple[tuple[str, Value], ...]
    failed: bool


class Takes(Protocol):
    """What takes spans; it must come back at once."""

    def __call__(self, span: Finished, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Tracer:
    """What makes spans. `rate`: of a million traces that begin here, so many are kept."""

    rate: int
    take: Takes
    now: Callable[[], int]  # nanoseconds since 1970
    random: Callable[[int], bytes]


_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """From now on `tracer` makes spans of this process; None: nobody does. For the daemon, and for tests."""
    global _tracer
    _tracer = tracer


class Span:
    """One span while it lasts, as a context manager; and what stands for one where none is made."""

    __slots__ = (
        "_began",
        "_failed",
        "_kept",
        "_kind",
        "_name",
        "_over",
        "_parent",
        "_token",
        "_values",
        "context",
        "service",
    )

    def __init__(
        self, kept: Tracer | None, context: TraceContext | None, name: str, kind: Kind, parent: bytes, began: int
    ) -> None:
        self._kept = kept  # None: nothing is kept, or not any more
        self.context = context
        self.service = name.partition(".")[0]
        self._name = name
        self._kind = kind
        self._parent = parent
        self._began = began
        self._failed = False
        self._over = False
        self._values: dict[str, Value] = {}
        self._token: Token[Span | None] | None = None

    def set(self, name: str, value: Value) -> None:
        """Says something about it, once for each name of `ATTRIBUTES`."""
        if self._kept is not None:
            assert name in ATTRIBUTES, f"{name} is not among what spans may say"
            self._values[name] = value

    def fail(self, why: str) -> None:
        """It did not work. `why` is a word of this program: a code, the class of an error."""
        self._failed = True
        self.set("error.type", why)

    def end(self, at: int = 0) -> None:
        """It is over, now or since a `moment`; what is said later is not heard."""
        kept, self._kept = self._kept, None
        self._over = True
        if kept is None or self.context is None:
            return
        ended = max(at or kept.now(), self._began)  # a clock may be set back meanwhile
        values = tuple(self._values.items())
        kept.take(
            Finished(
                self._name,
                self.service,
                self._kind,
                self.context,
                self._parent,
                self._began,
                ended,
                values,
                self._failed,
            )
        )

    @property
    def counts(self) -> bool:
        """Whether others may be children of it."""
        return self.context is not None and not self._over

    def __enter__(self) -> Span:
        if self.context is not None:
            self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        if error is not None and not self._failed:
            self.fail(type(error).__name__)
        self.end()


NOTHING: Final = Span(None, None, "", Kind.INTERNAL, b"", 0)
_current: ContextVar[Span | None] = ContextVar("span", default=None)


def span(
    name: str,
    kind: Kind = Kind.INTERNAL,
    *,
    parent: TraceContext | EllipsisType | None = ...,
    begins: bool = True,
    first: bool = False,
    since: int = 0,
) -> Span:
    """A span, called SERVICE.WHAT, for `with`. Its parent is the span around it unless another is given (None: there
    is none); without one it begins a trace, which is kept at the tracer's rate, unless `begins` is False. `since`: when
    it began (`moment`), if not now. `first`: it is the first one of its parent's trace, since whoever began that (a
    person's program) sends no spans.
    """
    tracer = _tracer
    if tracer is None:
        return NOTHING
    around = None
    if isinstance(parent, EllipsisType):
        around = _living()
        parent = around.context if around is not None else None
    if parent is None:
        if not begins:
            return NOTHING
        trace_id = tracer.random(16)
        kept = int.from_bytes(trace_id[8:], "big") * MILLION >> 64 < tracer.rate
        found = Span(
            tracer if kept else None,
            TraceContext(trace_id, tracer.random(8), kept),
            name,
            kind,
            b"",
            since or tracer.now(),
        )
    else:
        context = TraceContext(parent.trace_id, tracer.random(8), parent.sampled)
        above = b"" if first else parent.span_id
        found = Span(tracer if parent.sampled else None, context, name, kind, above, since or tracer.now())
    if around is not None and name.startswith("api."):
        found.service = around.service
    return found


def _living() -> Span | None:
    """The span around. One that is over is none: tasks that it began may outlive it by hours."""
    found = _current.get()
    return found if found is not None and found.counts else None


def moment() -> int:
    """Now, for `since`; 0 where no spans are made."""
    return _tracer.now() if _tracer is not None else 0


def current() -> TraceContext | None:
    """Where the request is now, for whoever goes on with it elsewhere; None where no spans are made."""
    if _tracer is None:
        return None
    found = _living()
    return found.context if found is not None else None


def header() -> str:
    """The same as text; empty for None."""
    found = current()
    return found.header if found is not None else ""
