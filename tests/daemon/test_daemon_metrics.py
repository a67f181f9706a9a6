"""Numbers for monitoring: their text, and those of tunnels on a running daemon."""

from __future__ import annotations

import pytest

from teleport.daemon.diag import Readiness, diagnostics
from teleport.daemon.metrics import CONTENT_TYPE, Gauge, Metrics, shown


def test_the_text_is_that_of_prometheus() -> None:
    metrics = Metrics()
    metrics.add(Gauge("b_total", "Of b.", "of"), lambda: {"x": 2, 'a"\\\n': 1.5})
    metrics.add(Gauge("a", "Of a."), lambda: 3)
    assert metrics.text() == (
        "# HELP a Of a.\n# TYPE a gauge\na 3\n"
        '# HELP b_total Of b.\n# TYPE b_total gauge\nb_total{of="a\\"\\\\\\n"} 1.5\nb_total{of="x"} 2\n'
    )
    assert shown(Gauge("none", "Of nothing.", "of"), {}) == ["# HELP none Of nothing.", "# TYPE none gauge"]


def test_one_that_cannot_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise KeyError("gone")

    metrics = Metrics()
    metrics.add(Gauge("broken", "Of nothing."), broken)
    metrics.add(Gauge("whole", "Of it."), lambda: 1)
    answer = diagnostics(Readiness(()), metrics).answer("/metrics")
    assert answer is not None
    assert (answer.status, answer.content_type) == (200, CONTENT_TYPE)
    assert answer.body == b"# HELP whole Of it.\n# TYPE whole gauge\nwhole 1\n"
    assert "the metric broken cannot be read" in caplog.text
    assert diagnostics(Readiness(())).answer("/metrics") is None
