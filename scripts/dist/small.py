"""What the archive with `tsh` alone leaves out: services, and packages of others that then nothing imports.

Layers below the services never import them, and tests keep it so; what is kept is looked through once more here.
"""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path

from scripts.dist.locked import Locked, needed_by, plain

SERVICES = (
    "auth", "backend", "backup", "copies", "daemon", "kernel", "kube", "launcher", "node", "proxy", "store", "testing",
    "tunnel", "web",
)  # fmt: skip
_NOT_THE_PROGRAM = ("cli/tctl", "cli/teleport")
_USED_OF_THEM = ("cli/tctl/__init__.py", "cli/teleport/__init__.py")
"""tsh takes a module or two from the other programs; the rest of them would not run and is left out with them."""


def kept(source: Path) -> list[Path]:
    """The files of the package `teleport` that tsh may import."""
    files = {path for path in source.rglob("*") if path.is_file() and path.suffix in (".py", ".typed")}
    files = {path for path in files if path.relative_to(source).parts[0] not in SERVICES}
    others = {path for path in files if path.relative_to(source).as_posix().startswith(_NOT_THE_PROGRAM)}
    found = files - others
    waiting = [*found, *(path for path in others if path.relative_to(source).as_posix() in _USED_OF_THEM)]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for name in imports(path, source):
            target = _file(source, name)
            if target in others and target not in found:
                waiting.append(target)
    return sorted(found)


def packages(files: list[Path], source: Path, locked: dict[str, Locked]) -> dict[str, Locked]:
    """The locked packages that `files` import, and what these need. Ends the program when a file needs a service."""
    known = packages_distributions()
    waiting: list[str] = []
    for path in files:
        for name in imports(path, source):
            if name.startswith("teleport."):
                if name.split(".")[1] in SERVICES and not path.relative_to(source).as_posix().startswith("cli/"):
                    sys.exit(f"dist: {path} imports {name}, which is not part of tsh")
                continue
            waiting += [plain(dist) for dist in known.get(name.partition(".")[0], ())]
    found: dict[str, Locked] = {}
    while waiting:
        name = waiting.pop()
        if name in locked and name not in found:
            found[name] = locked[name]
            waiting += needed_by(name, locked)
    return dict(sorted(found.items()))


def imports(path: Path, source: Path) -> set[str]:
    """The modules that a file imports, wherever in it; names that it imports from one are among them."""
    module = ("teleport", *path.relative_to(source).with_suffix("").parts)
    package = ".".join(module[:-1])
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())] if path.suffix == ".py" else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return found


def _file(source: Path, name: str) -> Path | None:
    if not name.startswith("teleport."):
        return None
    base = source.joinpath(*name.split(".")[1:])
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)
