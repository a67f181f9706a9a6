"""The real Prometheus (Debian's package of that name, which brings `promtool`): scrapes daemons, judges our rules."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from tests.cluster.cluster_packages import install

from teleport.testing.cluster import LOOPBACK, at, free_port, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "examples" / "prometheus" / "teleport.rules.yml"
DASHBOARD: Final = ROOT / "examples" / "grafana" / "teleport.json"


def why_no_prometheus() -> str:
    """Why there is none; empty when there is one, installed if need be."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return ""
    return install("prometheus", "Prometheus")


@dataclass(frozen=True, slots=True)
class Alert:
    """One that fires."""

    name: str
    labels: Mapping[str, str]

    @property
    def instance(self) -> str:
        return self.labels.get("instance", "")


class Prometheus:
    """`with Prometheus(folder, {"name": port, ...}, [rules]) as prometheus:`; every instance is called by its name."""

    def __init__(self, folder: Path, targets: Mapping[str, int], rules: Sequence[str]) -> None:
        self._folder = folder
        self._port = free_port()
        folder.mkdir()
        for number, text in enumerate(rules):
            (folder / f"{number}.rules.yml").write_text(text)
        statics = [{"targets": [at(port, LOOPBACK)], "labels": {"instance": name}} for name, port in targets.items()]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [{"job_name": "teleport", "static_configs": statics}],
            "rule_files": ["*.rules.yml"],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        words = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={at(self._port, LOOPBACK)}",
            "--log.level=warn",
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder)
        try:
            wait_until("Prometheus is ready", self._ready, 60.0)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return self._ask("/-/ready")[0] == 200
        except OSError:
            return False

    def _ask(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _api(self, path: str) -> Any:
        status, body = self._ask(f"/api/v1/{path}")
        assert status == 200, body
        return json.loads(body)["data"]

    def query(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        """The values of an expression now."""
        found = self._api(f"query?query={urllib.parse.quote(expression)}")["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def firing(self) -> list[Alert]:
        return [
            Alert(one["labels"]["alertname"], one["labels"])
            for one in self._api("alerts")["alerts"]
            if one["state"] == "firing"
        ]

    def wait_alert(self, name: str, seconds: float, labels: Mapping[str, str]) -> Alert:
        """Returns once the alert of this name fires with these labels."""

        def found() -> Alert | None:
            for one in self.firing():
                if one.name == name and all(one.labels.get(key) == value for key, value in labels.items()):
                    return one
            return None

        return wait_until(f"the alert {name} with {labels}", found, seconds)


def at_once(rules: str) -> str:
    """The rules with every `for:` as 0s: what holds fires at the next look."""
    changed, count = re.subn(r"^( +for:) \w+$", r"\1 0s", rules, flags=re.MULTILINE)
    assert count, "rules have a time for which they must hold"
    return changed


def with_other_thresholds(rules: str, thresholds: Mapping[str, tuple[str, str]]) -> str:
    """Only the named rules, each with one part of its expression as another one."""
    document = yaml.safe_load(rules)
    kept = []
    for rule in document["groups"][0]["rules"]:
        if rule["alert"] in thresholds:
            old, new = thresholds[rule["alert"]]
            assert old in rule["expr"], rule["alert"]
            labels = {**rule["labels"], "substituted": "yes"}
            kept.append({**rule, "expr": rule["expr"].replace(old, new), "labels": labels})
    assert len(kept) == len(thresholds)
    document["groups"][0].update(name="substituted", rules=kept)
    return yaml.safe_dump(document)
