"""The package says what it is, and installing it gives the three commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from teleport import __version__

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("teleport", "tctl", "tsh")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_the_metadata_names_version_licence_python_and_readme(project: dict[str, Any]) -> None:
    assert project["version"] == __version__
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert (ROOT / project["readme"]).is_file()
    assert [name for name in project["license-files"] if not (ROOT / name).is_file()] == []
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_three_commands_are_the_entry_points(project: dict[str, Any]) -> None:
    assert set(project["scripts"]) == set(PROGRAMS)


def test_the_changelog_has_the_version(project: dict[str, Any]) -> None:
    assert re.search(rf"^## {re.escape(project['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_locked_requirements_cover_the_dependencies_with_hashes(project: dict[str, Any]) -> None:
    text = (ROOT / "requirements" / "runtime.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if re.match(r"[a-z0-9]", entry)]
    pinned = {entry.partition("==")[0] for entry in entries}
    wanted = {re.split(r"[<>=~!\[; ]", name)[0].lower() for name in project["dependencies"]}
    assert wanted - pinned == set()
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = (ROOT / "README.md").read_text().partition("\n## ")[0].splitlines()
    code = [line.partition("#")[0].strip() for line in opening if line.startswith("make ")]
    assert code == ["make run", "make test"]
    assert opening.index(next(line for line in opening if line.startswith("make "))) < 5


@pytest.mark.long
@pytest.mark.timeout(600)
def test_installing_the_package_gives_the_three_commands(tmp_path: Path, project: dict[str, Any]) -> None:
    """A fresh environment, the locked wheels, then `pip install .` without anything that is not locked."""
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"

    def pip(*arguments: str) -> None:
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        if done.returncode and re.search(r"No matching distribution|Connection|Retrying", done.stderr):
            pytest.skip(f"no wheels can be had here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr

    for name in ("build", "runtime"):
        pip("--require-hashes", "-r", str(ROOT / "requirements" / f"{name}.txt"))
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    copy = subprocess.run(["cp", "-r", str(ROOT / "src"), str(source / "src")], check=False)
    assert copy.returncode == 0
    pip("--no-deps", "--no-build-isolation", str(source))
    pages = list(place.glob("lib/python*/site-packages/teleport/web/static/app/*"))
    assert {"index.html"} < {one.name for one in pages}, "the web pages are inside, and no Node.js is needed for them"
    for program in PROGRAMS:
        done = subprocess.run(
            [str(place / "bin" / program), "version"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert project["version"] in done.stdout
    assert sys.version_info >= (3, 11)
