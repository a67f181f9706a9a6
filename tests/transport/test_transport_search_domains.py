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


async def names(
    host: str, canonical: str, whole: list[str] | None = None, leads_to: str = ""
) -> tuple[tuple[str, ...], list[str]]:
    """What counts besides `host`, which led to 192.0.2.1; and what was looked up. None: nothing has that whole name,
    which leads to `leads_to`."""
    asked = []

    async def look_up(name: str) -> tuple[list[str], str]:
        asked.append(name)
        if whole is None:
            raise OSError("no such name")
        return whole, leads_to

    return await other_names(host, ["192.0.2.1"], canonical, look_up), asked


async def test_a_name_is_what_it_may_have_been_taken_for_and_what_it_led_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "resolv.conf"
    monkeypatch.setattr(subject, "RESOLVER", config)
    monkeypatch.setenv("LOCALDOMAIN", "a.example")
    assert await names("db", "real.example") == (("db.a.example", "real.example"), []), "without a file, too"
    config.write_text("search b.example\n")
    assert await names("db", "db") == (("db.a.example", "db.b.example"), [])
    both = ("x.org.a.example", "x.org.b.example")
    assert await names("x.org", "X.org.") == ((), []), "it led to itself"
    assert await names("x.org", "x.org.b.example") == (both, ["x.org."])
    assert await names("x.org", "cdn.net") == ((*both, "cdn.net"), ["x.org."])
    assert await names("x.org", "cdn.net", ["192.0.2.7"]) == ((*both, "cdn.net"), ["x.org."])
    assert await names("x.org", "cdn.net", ["192.0.2.7", "192.0.2.1"]) == (("cdn.net",), ["x.org."])
    elsewhere = ["192.0.2.7"]
    assert await names("x.org", "cdn.net", elsewhere, "CDN.net.") == (("cdn.net",), ["x.org."]), "addresses take turns"
    assert await names("x.org", "cdn.net", elsewhere, "x.org") == ((*both, "cdn.net"), ["x.org."])
    assert await names("x.org", "", elsewhere, "") == (both, ["x.org."])
    assert await names("x.org", "") == (both, ["x.org."]), "nobody says what it led to"
    assert await names("x.org.", "cdn.net") == (("cdn.net",), [])
