"""What a resolver may take a name for (resolv.conf(5))."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.transport import search_domains as subject
from teleport.transport.search_domains import completed, other_names, search_domains


@pytest.mark.parametrize(
    ("config", "host_name", "override", "domains"),
    [
        ("nameserver 192.0.2.53\n", "web", "", ()),
        ("nameserver 192.0.2.53\n", "web.corp.example", "", ("corp.example",)),
        ("search a.example B.example.\n", "web.corp.example", "", ("a.example", "b.example")),
        ("domain a.example\n# search no.example\nsearch\tb.example a.example", "web", "", ("a.example", "b.example")),
        ("  search a.example\n", "web", "c.example d.example", ("c.example", "d.example", "a.example")),
        ("search .\n", "web.corp.example", "", ("corp.example",)),
    ],
)  # fmt: skip
def test_every_domain_that_may_be_tried_counts(
    config: str, host_name: str, override: str, domains: tuple[str, ...]
) -> None:
    assert search_domains(config, host_name, override) == domains


def test_a_whole_name_and_localhost_are_completed_with_nothing() -> None:
    domains = ("a.example", "b.example")
    assert completed("db", domains) == ("db.a.example", "db.b.example")
    assert completed("db.corp", domains) == ("db.corp.a.example", "db.corp.b.example")
    assert completed("db.", domains) == completed("LocalHost", domains) == completed("", domains) == ()


def test_the_name_that_it_led_to_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "resolv.conf"
    monkeypatch.setattr(subject, "RESOLVER", config)
    monkeypatch.setenv("LOCALDOMAIN", "a.example")
    assert other_names("db", "real.example") == ("db.a.example", "real.example"), "without a file, too"
    config.write_text("search b.example\n")
    assert other_names("db", "db") == ("db.a.example", "db.b.example")
