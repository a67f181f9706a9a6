"""The numbers of a daemon as pages, without a daemon."""

from __future__ import annotations

from math import inf

import pytest

from teleport.cli.tctl.measured import Page, Sample, pages

TEXT = """# HELP a_total Of a.
# TYPE a_total counter
a_total 3
b{of="x\\"\\\\\\n"} 2.5
b{of="y"} 1e3
nonsense here too
c{of="x",more="y"} 1
took_seconds_bucket{le="0.1"} 5
took_seconds_bucket{le="1.0"} 9
took_seconds_bucket{le="+Inf"} 10
took_seconds_sum 7
took_seconds_count 10
broken x
"""


def rows(found: list[Page], name: str) -> dict[str, tuple[str, ...]]:
    page = next(one for one in found if one.name == name)
    return {row[0]: row[1:] for part in page.parts for row in part.rows}


def test_the_text_is_read_and_what_is_none_of_it_left_out() -> None:
    sample = Sample.parse(TEXT, 100.0)
    assert sample.one("a_total") == 3
    assert sample.all("b") == {'x"\\\n': 2.5, "y": 1000}
    assert sample.sum("b") == 1002.5
    assert set(sample.values) == {"a_total", "b", "took_seconds_bucket", "took_seconds_sum", "took_seconds_count"}
    assert (sample.one("none"), sample.sum("none")) == (None, None)


def test_quantiles_lie_between_the_bounds() -> None:
    sample = Sample.parse(TEXT, 100.0)
    assert sample.quantile("took_seconds", 0.25) == pytest.approx(0.05)
    assert sample.quantile("took_seconds", 0.5) == pytest.approx(0.1)
    assert sample.quantile("took_seconds", 0.7) == pytest.approx(0.55)
    assert sample.quantile("took_seconds", 0.99) == inf
    assert sample.quantile("none", 0.5) is None
    assert Sample.parse('n_bucket{le="1.0"} 0\nn_bucket{le="+Inf"} 0', 0).quantile("n", 0.5) is None


def test_rates_are_of_the_time_between_and_of_one_run() -> None:
    def sample(at: float, started: float, count: int) -> Sample:
        text = f"process_start_time_seconds {started}\nteleport_cache_events {count}\n"
        return Sample.parse(f"{text}process_cpu_seconds_total {count / 100}\n", at)

    found = pages(sample(110, 50, 40), sample(100, 50, 20))
    assert rows(found, "Cache")["taken in by caches"] == ("40", "2")
    assert rows(found, "Common")["Processor"] == ("2.0 %",)
    for before in (None, sample(100, 40, 30)):
        assert rows(pages(sample(110, 50, 40), before), "Cache")["taken in by caches"] == ("40", "-")


def test_a_daemon_without_a_service_has_nothing_on_its_page() -> None:
    found = pages(Sample.parse("process_state 2\nteleport_node_sessions 4\n", 10), None)
    assert [page.name for page in found] == ["Common", "Backend", "Cache", "Sessions", "Audit"]
    assert rows(found, "Common")["State"] == ("degraded",)
    assert rows(found, "Sessions") == {"all sessions here": ("4",)}
    assert rows(found, "Backend") == {}


def test_what_has_ended_stands_out() -> None:
    found = pages(Sample.parse('teleport_host_certificate_not_after{role="node"} 99\n', 100), None)
    assert rows(found, "Common")["certificate of node"] == ("ENDED",)
