"""Releases side by side, as `make install` leaves them: a folder for each, and one link to the one that is current."""

from __future__ import annotations

import compileall
import shutil
import sys
from pathlib import Path

import teleport
from teleport import __version__

PROGRAM = """\
#!{python}
import os, sys
sys.path.insert(0, os.path.realpath("{current}"))
from teleport.cli.teleport import main
sys.exit(main())
"""
# At the end of every module: it is loaded by no process of another release.
GUARD = """

import teleport as _release

if _release.__version__ != "{version}":
    raise AssertionError(f"{{__name__}} of {version} was loaded by {{_release.__version__}}")
"""
VERSION = f'__version__ = "{__version__}"'


class Releases:
    """The folders, and the link. The first release is this one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.program = folder / "teleport"
        self.program.write_text(PROGRAM.format(python=sys.executable, current=folder / "current"))
        self.program.chmod(0o755)
        self.add(__version__, {})
        self.turn(__version__)

    def add(self, version: str, changes: dict[str, list[tuple[str, str]]]) -> None:
        """A copy of this release with another version, and with these texts of its files replaced."""
        package = self._copy(version)
        for name, replacements in {"__init__.py": [(VERSION, f'__version__ = "{version}"')], **changes}.items():
            text = (package / name).read_text()
            for old, new in replacements:
                assert old in text, f"{name} has no {old}"
                text = text.replace(old, new)
            (package / name).write_text(text)

    def add_changed(self, version: str) -> int:
        """A copy in which every module is another one, and cannot be loaded by another release; how many there are."""
        package = self._copy(version)
        modules = sorted(package.rglob("*.py"))
        for module in modules:
            text = module.read_text()
            if module == package / "__init__.py":
                module.write_text(text.replace(VERSION, f'__version__ = "{version}"'))
            else:
                module.write_text(text + GUARD.format(version=version))
        compileall.compile_dir(package, quiet=1, workers=2)  # as installing does
        return len(modules)

    def turn(self, version: str) -> None:
        """Makes it the current one, at once."""
        new = self._folder / "new"
        new.symlink_to(version)
        new.replace(self._folder / "current")

    def _copy(self, version: str) -> Path:
        package = self._folder / version / "teleport"
        shutil.copytree(Path(teleport.__file__).parent, package)
        return package
