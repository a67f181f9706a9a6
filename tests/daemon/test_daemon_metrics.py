"""Numbers for monitoring: their text, and those of tunnels on a running daemon."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from teleport.counted import Counter, Histogram
from teleport.daemon.monitoring import process_metrics
from teleport.daemon.monitoring.diag import Readiness, diagnostics
from teleport.daemon.monitoring.looking import Looking
from teleport.daemon.monitoring.metrics import CONTENT_TYPE, Gauge, Metrics, shown


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


def test_what_is_counted_is_shown_as_prometheus_reads_it() -> None:
    metrics = Metrics()
    plain, by, took = (
        Counter("a", "A.", "all"),
        Counter("b", "B.", "all", "of", ("x",)),
        Histogram("c", "C.", "all", (1, 2.5)),
    )
    metrics.count([plain, by, took])
    metrics.count([plain])
    plain.add()
    by.add("y", 0.5)
    for value in (0.5, 1.0, 2.0, 9.0):
        took.add(value)
    assert metrics.text() == (
        "# HELP a A.\n# TYPE a counter\na 1\n"
        '# HELP b B.\n# TYPE b counter\nb{of="x"} 0\nb{of="y"} 0.5\n'
        "# HELP c C.\n# TYPE c histogram\n"
        'c_bucket{le="1.0"} 2\nc_bucket{le="2.5"} 3\nc_bucket{le="+Inf"} 4\nc_sum 12.5\nc_count 4\n'
    )


def test_what_takes_time_is_timed_also_when_it_fails() -> None:
    took = Histogram("c", "C.", "all")
    with pytest.raises(KeyError), took.timed():
        raise KeyError
    assert sum(took.counts) == 1
    assert 0 < took.sum < 30


async def test_numbers_of_the_process_and_of_its_interpreter() -> None:
    metrics = Metrics()
    process_metrics.add(metrics)
    found = dict(line.rsplit(" ", 1) for line in metrics.text().splitlines() if not line.startswith("#"))
    assert float(found["process_resident_memory_bytes"]) > 1e6
    assert float(found["process_virtual_memory_bytes"]) > float(found["process_resident_memory_bytes"])
    assert 0 < float(found["process_open_fds"]) < float(found["process_max_fds"])
    assert float(found["process_cpu_seconds_total"]) > 0
    assert float(found["process_threads"]) >= 1
    assert float(found["teleport_event_loop_tasks"]) >= 1
    assert {f'python_gc_collections_total{{generation="{one}"}}' for one in range(3)} <= set(found)


async def test_a_loop_that_is_held_up_is_seen() -> None:
    """By what is due once a second."""
    before = list(process_metrics.LAG.counts)
    task = asyncio.create_task(process_metrics.measure_lag(), name="lag")
    try:
        await asyncio.sleep(0)
        time.sleep(1.3)  # noqa: ASYNC251 - that is what is to be seen
        deadline = time.monotonic() + 10
        while process_metrics.LAG.counts == before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    late = [now - then for now, then in zip(process_metrics.LAG.counts, before, strict=True)]
    assert sum(late[3:]) == 1, "more than a tenth of a second late"


async def test_disks_and_folders_are_looked_at(tmp_path: Path) -> None:
    upload, stored = tmp_path / "upload", tmp_path / "records"
    (upload / "7").mkdir(parents=True)
    stored.mkdir()
    for name in ("a.rec", "b.rec.part", "c.rec.broken"):
        (upload / "7" / name).write_text("x")
    os.utime(upload / "7" / "a.rec", (time.time() - 500, time.time() - 500))
    (stored / "d.rec").write_text("x")
    looking = Looking(
        {"data_dir": tmp_path, "later": tmp_path / "later"},
        "data_dir",
        {"auth": [upload, tmp_path / "none"], "s3": [stored]},
    )
    seen = looking.look()
    assert set(seen.free) == {"data_dir"}
    assert seen.free["data_dir"] > 0
    assert 0 < seen.used < 100
    assert seen.read_only == {"data_dir": 0}
    assert seen.waiting == {"auth": 1, "s3": 1}
    assert 499 < seen.oldest["auth"] < 600
    assert seen.oldest["s3"] < 100
    metrics = Metrics()
    looking.add(metrics)
    looking.seen = seen
    assert 'teleport_recordings_waiting{to="auth"} 1\n' in metrics.text()
