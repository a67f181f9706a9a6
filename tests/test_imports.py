"""Imports point down only; asyncssh stays in `ssh/`; the pure core does no input or output."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "teleport"

# Each package and what it may import of ours. A package without a row fails: closed by default.
VALUES = {
    "errors",
    "clock",
    "counted",
    "identity",
    "resources",
    "standins",
    "lean",
    "quick_dataclasses",
    "spans",
    "__init__",
}
PURE = {"authz", "pki", "wire", "audit.chain", "audit.events", "audit.codes", "recording.format"}
ADAPTERS = {"kernel", "ssh", "transport", "backend", "audit", "recording"}
SHARED = {"tunnel", "api", "store", "backup", "transfer", "sharing", "copies"}
SERVICES = {"auth", "proxy", "node", "kube", "web", "client"}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(VALUES, VALUES),
    **dict.fromkeys(PURE, VALUES | PURE),
    **{name: VALUES | PURE | {name} for name in ADAPTERS},
    **dict.fromkeys(SHARED, VALUES | PURE | ADAPTERS | SHARED),
    **{name: VALUES | PURE | ADAPTERS | SHARED | {name} for name in SERVICES},
    "launcher": {"errors", "clock", "launcher", "wire.sftp", "wire.scp_lines", "__init__"},
    "daemon": VALUES | PURE | ADAPTERS | SHARED | SERVICES | {"daemon", "launcher"},
    "cli": VALUES | PURE | ADAPTERS | SHARED | {"client", "daemon", "cli"},
    "testing": VALUES | PURE | ADAPTERS | SHARED | SERVICES | {"daemon", "launcher", "testing", "cli"},
}
MAY_IMPORT["aws"] = VALUES | {"aws"}
for _name in ("backend", "recording", "copies"):  # the two adapters that speak to AWS, and what builds on one of them
    MAY_IMPORT[_name] = MAY_IMPORT[_name] | {"aws"}
MAY_IMPORT["cli"] |= {"launcher"}  # `teleport start` forks it before anything else is imported
MAY_IMPORT["node"] |= {"launcher"}  # the node asks the launcher for processes, by messages
MAY_IMPORT["ssh"] |= {"transport.accepting"}  # connections are taken alike, whatever is spoken on them
FOREIGN_FORBIDDEN_IN_PURE = {"asyncio", "socket", "ssl", "asyncssh", "aiohttp", "subprocess", "threading"}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def _row(module: str) -> str:
    for length in (2, 1):
        name = ".".join(module.split(".")[:length])
        if name in MAY_IMPORT:
            return name
    raise AssertionError(f"{module} has no row in MAY_IMPORT: say what it may import")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            assert node.module is not None
            found.add(node.module)
            if node.module.startswith("teleport"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[_module(path) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    """A module imports only from the packages its row names."""
    module = _module(path)
    row = _row(module)
    allowed = MAY_IMPORT[row] | {row}
    for name in _imports(path):
        if name == "teleport" or not name.startswith("teleport."):
            continue
        target = name.removeprefix("teleport.")
        if not (SOURCE / Path(*target.split(".")[:1])).exists() and not (SOURCE / f"{target}.py").exists():
            continue  # `from teleport import __version__`
        names = {".".join(target.split(".")[:length]) for length in (1, 2)}
        assert names & allowed, f"{module} imports {name}, but {row} may import only {sorted(allowed)}"


@pytest.mark.parametrize("path", FILES, ids=[_module(path) for path in FILES])
def test_asyncssh_is_imported_in_ssh_only(path: Path) -> None:
    """The library's sharp edges stay behind one package."""
    if path.is_relative_to(SOURCE / "ssh"):
        return
    assert not any(name.split(".")[0] == "asyncssh" for name in _imports(path))


@pytest.mark.parametrize("path", FILES, ids=[_module(path) for path in FILES])
def test_pure_core_does_no_io(path: Path) -> None:
    """authz, pki, wire and the two formats take values and return values."""
    if _row(_module(path)) not in PURE:
        return
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in _imports(path)} & FOREIGN_FORBIDDEN_IN_PURE
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef), f"{path}: async def in the pure core"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"{path}: opens a file"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"now", "utcnow"}, f"{path}: reads a clock"
