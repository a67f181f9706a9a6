"""The dashboard and the alert rules in examples/ name metrics that there are, and Prometheus takes what they ask."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.cluster_prometheus import DASHBOARD, ROOT, RULES, why_no_prometheus

from teleport.daemon.monitoring.catalogue import catalogue

SAMPLES = {sample: one for one in catalogue() for sample in one.samples}
WORDS = {"and", "or", "unless", "by", "on", "ignoring", "without", "le"}
OF_PROMETHEUS = {"up"}
VARIABLES = {"$job": "teleport", "$instance": ".*"}


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


def asked() -> Iterator[tuple[str, str]]:
    """Each expression of the two files, with where it stands."""
    for rule in rules():
        yield rule["alert"], str(rule["expr"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = str(target["expr"])
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield f"panel {panel['title']}", expression


def names(expression: str) -> set[str]:
    """The metrics that an expression of Prometheus' language names."""
    plain = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    plain = re.sub(r"\{[^}]*\}|\b(?:by|on|ignoring|without) *\([^)]*\)", "", plain)
    return set(re.findall(r"\b[a-z_][a-z0-9_]*\b(?! *\()", plain)) - WORDS


def labels(expression: str) -> Iterator[tuple[str, str]]:
    """Which labels are asked of which metric."""
    for name, inside in re.findall(r"([a-z_][a-z0-9_]*)\{([^}]*)\}", expression):
        for label in re.findall(r"([a-z_]+)(?:=|!)", inside):
            yield name, label


ASKED = list(asked())


@pytest.mark.parametrize(("where", "expression"), ASKED, ids=[where for where, _ in ASKED])
def test_every_metric_that_is_named_exists_and_has_the_label(where: str, expression: str) -> None:
    found = names(expression)
    assert found, where
    assert found - set(SAMPLES) - OF_PROMETHEUS == set(), where
    for name, label in labels(expression):
        if name not in OF_PROMETHEUS:
            assert label in {"job", "instance", "le", SAMPLES[name].label}, f"{where}: {name} has no {label}"


def test_a_metric_that_there_is_not_is_noticed() -> None:
    assert names('sum by (le) (rate(no_such_total{a="b"}[5m])) > 0.5 and up == 0') == {"no_such_total", "up"}
    assert list(labels('a_b{job="x", of=~"y"} + c')) == [("a_b", "job"), ("a_b", "of")]


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in places)
    for one, (x, y, w, h) in enumerate(places):
        for x2, y2, w2, h2 in places[one + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, "panels lie on each other"


def test_every_alert_says_what_happened_and_stands_on_the_page_of_operations() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rows = {line.split("|")[1].strip(" `"): line for line in section.splitlines() if line.startswith("| `")}
    assert set(rows) == {rule["alert"] for rule in rules()}
    for name, row in rows.items():
        assert len(row.split("|")) == 5, f"{name}: what it means, and what to do"
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]


def test_promtool_takes_the_rules_and_the_ends_of_certificates_and_what_is_dropped_are_told(tmp_path: Path) -> None:
    """By its clock, which begins at 1970: no daemon can be had that is months older."""
    if why := why_no_prometheus():
        pytest.skip(why)
    day = 86400
    cases = {
        "TeleportHostCertificateEnds": ('teleport_host_certificate_not_after{role="node"}', 14),
        "TeleportWebCertificateEnds": ('teleport_web_certificate_not_after{name="x"}', 14),
        "TeleportAuthorityEnds": ('teleport_authority_not_after{type="host"}', 180),
    }
    tests = []
    for name, (series, days) in cases.items():
        for end, fires in ((days * day + 3700, False), (days * day - 60, True)):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": series, "values": f"{end}x100"}],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                            "eval_time": "1h",
                            "exp_samples": [{"labels": "{}", "value": int(fires)}],
                        }
                    ],
                }
            )
    for name, series in {
        "TeleportLogLinesDropped": 'teleport_log_ship_dropped_lines_total{receiver="siem"}',
        "TeleportSpansDropped": "teleport_trace_spans_dropped_total",
    }.items():
        for values, fires in (("7x100", False), ("0+1x100", True)):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": series, "values": values}],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
                            "eval_time": "1h",
                            "exp_samples": [{"labels": "{}", "value": int(fires)}],
                        }
                    ],
                }
            )
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(file)]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
