"""Tickets for files: each is good once for as long as it holds, however many are used (threats T47, T54)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from teleport.errors import LimitExceeded
from teleport.pki.web_secret import WebSecret
from teleport.testing.clock import FakeClock
from teleport.web import file_tickets
from teleport.web.file_tickets import LIFE, File, Tickets
from teleport.web.session import SessionOver, WebSession

FILE = File("example.com", "host", 0, "ann", "/etc/hostname")


@dataclass
class _Session:
    """What signs."""

    id: str
    secret: WebSecret

    def sign(self, purpose: str, text: str) -> str:
        return f"{self.secret.tag(purpose, text)}.{text}"

    def signed(self, purpose: str, signed: str) -> str | None:
        tag, _, text = signed.partition(".")
        return text if self.secret.tag_holds(purpose, text, tag) else None


def session(name: str) -> WebSession:
    return cast(WebSession, cast(Any, _Session(name, WebSecret(name.encode().ljust(32, b".")))))


def tickets() -> tuple[Tickets, FakeClock]:
    clock, numbers = FakeClock(datetime(2026, 1, 1, tzinfo=UTC)), itertools.count()
    return Tickets(clock, lambda: f"ticket-{next(numbers)}"), clock


def test_a_used_ticket_stays_used_however_many_are_used_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could make the proxy forget it would use it again; so those who use too many are refused instead."""
    monkeypatch.setattr(file_tickets, "MOST", 40)
    monkeypatch.setattr(file_tickets, "OF_SESSION", 10)
    made, clock = tickets()
    ann, bob = session("ann"), session("bob")
    first = made.make(ann, FILE, "certificate")
    assert made.take(ann, FILE, first) == "certificate"
    for _ in range(9):
        made.take(ann, FILE, made.make(ann, FILE, ""))
    one_more = made.make(ann, FILE, "")
    with pytest.raises(LimitExceeded) as refused:
        made.take(ann, FILE, one_more)
    assert refused.value.hint == f"wait {LIFE} s"
    made.take(bob, FILE, made.make(bob, FILE, ""))
    for number in range(29):
        made.take(session(f"other-{number}"), FILE, made.make(session(f"other-{number}"), FILE, ""))
    with pytest.raises(LimitExceeded):
        made.take(bob, FILE, made.make(bob, FILE, ""))
    with pytest.raises(SessionOver):
        made.take(ann, FILE, first)
    clock.advance(LIFE + 1)
    with pytest.raises(SessionOver):
        made.take(ann, FILE, first)
    for _ in range(10):
        made.take(ann, FILE, made.make(ann, FILE, ""))
    assert (len(made._used), dict(made._of_session)) == (10, {"ann": 10}), "nothing is kept of those that are over"


def test_a_ticket_is_for_its_session_and_its_file() -> None:
    made, _ = tickets()
    ticket = made.make(session("ann"), FILE, "")
    for whose, file in (
        (session("bob"), FILE),
        (session("ann"), File("example.com", "host", 0, "root", FILE.location)),
        (session("ann"), File("example.com", "host", 22, "ann", FILE.location)),
        (session("ann"), File("other.example", "host", 0, "ann", FILE.location)),
        (session("ann"), File("example.com", "host", 0, "ann\0/etc", "hostname")),
    ):
        with pytest.raises(SessionOver):
            made.take(whose, file, ticket)
    assert made.take(session("ann"), FILE, ticket) == ""
