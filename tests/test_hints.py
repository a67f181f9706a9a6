"""Every error that a command can print says what to do next.

What is raised in the commands themselves, in what tsh is made of and where a daemon starts names its hint in place. An
error that comes from deeper, or from the far end, and has none is printed with the usual hint of its kind.
"""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.cli import render
from teleport.errors import KINDS, TeleportError

SOURCE = Path(__file__).resolve().parents[1] / "src" / "teleport"
PLACES = ("cli", "client", "daemon", "api", "transport/blocking.py", "ssh/client.py", "store/resolve.py")
# (file, function): why an error there needs no hint of its own
WITHOUT = {
    (
        "daemon/restarts/handover.py",
        "take",
    ): "what a daemon hands to its own child; no person wrote it, and the log names both",
    ("daemon/restarts/child.py", "start_child"): "the parent serves on, and its log says why the child could not start",
    ("daemon/restarts/child.py", "_spawn"): "the parent serves on, and its log says why the child could not start",
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def kinds_of_error() -> frozenset[str]:
    """The names of `TeleportError` and of everything in the package that is made of it."""
    parents: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                parents.setdefault(node.name, set()).update(bases)
    found = {"TeleportError"}
    while True:
        more = {name for name, bases in parents.items() if bases & found} - found
        if not more:
            return frozenset(found)
        found |= more


def without_hint(source: str, names: frozenset[str]) -> Iterator[tuple[str, int, str]]:
    """Function, line and name of each error that `source` makes without a hint; an empty one is none."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            hints = [one.value for one in node.keywords if one.arg in ("hint", None)]
            if not hints or (isinstance(hints[0], ast.Constant) and not hints[0].value):
                yield function, node.lineno, node.func.id
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    yield from walk(ast.parse(source), "")


def takes_no_hint(names: frozenset[str]) -> set[str]:
    """Errors with a constructor of their own, which makes the hint itself."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and node.name in names - {"TeleportError"}:
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                        given = [argument.arg for argument in (*method.args.args, *method.args.kwonlyargs)]
                        if "hint" not in given and "hint=" in ast.unparse(method):
                            found.add(node.name)
    return found


def files() -> list[Path]:
    places = [SOURCE / place for place in PLACES]
    return sorted(file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place]))


def test_what_commands_and_daemon_raise_names_its_hint() -> None:
    names = kinds_of_error()
    names -= takes_no_hint(names)
    missing = [
        f"{path.relative_to(SOURCE)}:{line}: {name} in {function} has no hint"
        for path in files()
        for function, line, name in without_hint(path.read_text(), names)
        if (path.relative_to(SOURCE).as_posix(), function) not in WITHOUT
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(): raise NotFound('x')", [("f", 1, "NotFound")]),
        ("def f(): raise NotFound('x', hint='')", [("f", 1, "NotFound")]),
        ("def f(): raise NotFound('x', hint='tsh ls')", []),
        ("def f(): return LoginEnded(f'{x}')", [("f", 1, "LoginEnded")]),
        ("raise ValueError('x')", []),
    ],
)
def test_the_check_finds_an_error_without_a_hint(source: str, found: list[tuple[str, int, str]]) -> None:
    assert list(without_hint(source, kinds_of_error())) == found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_error_without_a_hint_is_printed_with_the_usual_one(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = KINDS[kind]("something failed")
    assert error.hint == ""
    render.report(error, "tsh", as_json_object=False)
    assert capsys.readouterr().err == f"tsh: something failed\n  hint: {KINDS[kind].usual_hint}\n"
    render.report(error, "tsh", as_json_object=True)
    assert json.loads(capsys.readouterr().err)["hint"] == KINDS[kind].usual_hint != ""


def test_each_kind_has_a_usual_hint_of_its_own() -> None:
    assert len({kind.usual_hint for kind in KINDS.values()}) == len(KINDS)
    render_hint = TeleportError("x", hint="tsh login").next_step
    assert render_hint == "tsh login"
