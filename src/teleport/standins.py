"""Stand-ins for modules that a library imports and that nothing here uses; they cost memory and start time.

While the library is imported, each name taken from such a module is an empty class. It serves where a name is only
written down (annotations, base classes, `except`); who calls it, or asks it for anything, gets a `RuntimeError` that
names it, so that a use which nobody thought of is found and does nothing. Afterwards the names are free again: whoever
imports such a module later gets the real one, but the library keeps its stand-ins.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, NoReturn


class _Unused(type):
    """The class of the empty classes."""

    def __call__(cls, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"{cls.__module__}.{cls.__name__} is a stand-in: nothing here was known to use it")

    def __getitem__(cls, parameters: object) -> Any:
        return cls  # a generic class with its parameters, in an annotation or as a base

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):  # questions of the language, such as `__set_name__`, have an ordinary answer
            raise AttributeError(name)
        raise RuntimeError(f"{cls.__module__}.{cls.__name__}.{name} is a stand-in: nothing here was known to use it")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Unused(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


def _without_default(kind: Any) -> Any:
    """Makes what `typing` of this Python makes, which has no defaults yet; they matter to type checkers only."""

    def make(name: str, *constraints: object, default: object = None, **properties: object) -> object:
        return kind(name, *constraints, **properties)

    return make


TYPING_EXTENSIONS: Final[dict[str, dict[str, object]]] = {
    "typing_extensions": {
        **{name: getattr(typing, name) for name in ("NotRequired", "Required", "Unpack", "get_type_hints")},
        **{name: _without_default(getattr(typing, name)) for name in ("TypeVar", "TypeVarTuple")},
    }
}  # what libraries call of it while they are imported; the rest are names in annotations


@contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Those of `modules` that are not loaded yet cannot be imported until the context ends: for optional ones."""
    absent = [name for name in modules if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # importlib reads None as "there is no such module"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def standing_in(modules: Mapping[str, Mapping[str, object]], forget: tuple[str, ...] = ()) -> Iterator[None]:
    """Puts stand-ins in the place of `modules` that are not loaded yet, until the context ends.

    The mapping of each gives the values of names that are used after all. `forget` are real modules that took
    something from a stand-in while they were loaded: they too are loaded anew for whoever imports them later.
    """
    made = {}
    for name, values in modules.items():
        if name not in sys.modules:
            module = made[name] = _StandIn(name)
            module.__dict__.update(values)
    before = set(sys.modules)
    sys.modules.update(made)
    for name, module in made.items():  # as the import of a package's module leaves it
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in (*made, *(name for name in forget if name not in before)):
            module_of = sys.modules.pop(name, None)
            parent, _, child = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(child) is module_of:
                delattr(sys.modules[parent], child)
