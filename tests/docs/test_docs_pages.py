"""What people read is true: links lead somewhere, examples load, commands and options exist, no foreign paths."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from teleport.daemon.config.file import load_config
from teleport.daemon.config.sample import sample_config
from teleport.resources.parse import parse_resources

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("teleport", "tctl", "tsh")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """Each fenced block of one of the languages, with the name of its page and its number there."""
    for page in PAGES:
        for number, block in enumerate(BLOCK.finditer(page.read_text()), 1):
            if block[1] in languages:
                yield f"{page.name} block {number}", block[2]


def anchors(page: Path) -> set[str]:
    """The anchors that headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
            if "://" not in target and (page.parent / target).is_file():
                waiting.append((page.parent / target).resolve())
    assert sorted(page.name for page in PAGES if page not in reached) == []


@pytest.mark.parametrize(("where", "text"), [pytest.param(*found, id=found[0]) for found in blocks("yaml")])
def test_yaml_examples_load(where: str, text: str, tmp_path: Path) -> None:
    for name in re.findall(r"/etc/teleport/(\S+)", text):  # files that have to exist
        (tmp_path / name).write_text("")
    text = text.replace("/etc/teleport/", f"{tmp_path}/")
    if re.search(r"^kind:", text, re.MULTILINE):
        parsed = parse_resources(text, where)
        assert parsed
    else:
        assert load_config(text, where).present, "an example says something"


def test_the_sample_configuration_loads() -> None:
    assert load_config(sample_config("example.com"), "sample").document.auth_service.cluster_name == "example.com"


@functools.cache
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "docs.py"))


def invocations(text: str, *, prompt: bool) -> Iterator[list[str]]:
    """The commands of a shell example that call one of our programs, each from the program on."""
    for line in text.replace("\\\n", " ").splitlines():
        if prompt:
            if not line.startswith("$ "):
                continue
            line = line[2:]
        for part in re.split(r"&&|\|\||[;|()]", re.sub(r"\$\([^)]*\)", "x", line)):
            words = shlex.split(part, comments=True)
            words = words[: next((at for at, word in enumerate(words) if word.startswith(">")), len(words))]
            if words and Path(words[0]).name in PROGRAMS:
                yield [Path(words[0]).name, *words[1:]]


def check(words: list[str], *, inline: bool = False) -> None:
    """Raises `click.UsageError` when a word is no command, no option, or an option lacks its value.

    Within a sentence (`inline`) an option may be named without its value.
    """
    try:
        _check(words)
    except click.BadOptionUsage:
        if not inline:
            raise


def _check(words: list[str]) -> None:
    command: click.Command = generator()["program"](words[0])
    context = click.Context(command, info_name=words[0], help_option_names=["-h", "--help"])
    rest = words[1:]
    while True:
        if not isinstance(command, click.Group):
            command.make_parser(context).parse_args(list(rest))
            return
        parser = command.make_parser(context)
        parser.allow_interspersed_args = False
        _, rest, _ = parser.parse_args(list(rest))
        if not rest:
            return
        found = command.get_command(context, rest[0])
        if found is None:
            raise click.UsageError(f"there is no command {rest[0]!r}", context)
        context = click.Context(found, info_name=rest[0], parent=context)
        command, rest = found, rest[1:]


EXAMPLES = [(where, words) for where, text in blocks("sh", "bash") for words in invocations(text, prompt=False)]
EXAMPLES += [(where, words) for where, text in blocks("console") for words in invocations(text, prompt=True)]
EXAMPLES += [
    (f"{page.name} inline", words)
    for page in PAGES
    if page.name != "cli.md"
    for text in re.findall(r"`((?:teleport|tctl|tsh) [a-z][^`]*)`", BLOCK.sub("", page.read_text()))
    for words in invocations(text, prompt=False)
    if not re.search(r" v[0-9]", text)  # the first lines of formats look like commands
]


@pytest.mark.parametrize(("where", "words"), EXAMPLES, ids=[f"{where}: {' '.join(words)}" for where, words in EXAMPLES])
def test_examples_use_commands_and_options_that_exist(where: str, words: list[str]) -> None:
    check(words, inline=where.endswith(" inline"))


@pytest.mark.parametrize(
    "line",
    [
        "tctl users invite alice",
        "tctl tokens add --for=node",
        "tsh login --proxy",
        "teleport start --colour",
        "tctl nope",
    ],
)
def test_an_example_that_cannot_be_typed_is_noticed(line: str) -> None:
    [words] = invocations(line, prompt=False)
    with pytest.raises(click.UsageError):
        check(words)


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"`make ([a-z-]+)`", page.read_text())
        assert [name for name in named if name not in targets] == [], page.name


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    """A clone anywhere builds from the pinned requirements alone, with whatever index its user has set."""
    machine = re.compile(rb"(?<![\w.$}])/(?:work|root)/[A-Za-z.]")
    registry = re.compile(
        rb"(?i)(?:--(?:extra-)?index-url|--find-links|--trusted-host|pypi[\w.-]*/simple|/opt/" + rb"wheels)"
    )
    found = []
    for path in tracked():
        if path == Path(__file__).resolve() or not path.is_file():
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if machine.search(line) or registry.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line[:120]!r}")
    assert found == []
