"""Frozen dataclasses share the two functions that refuse changes: a quicker start, and 0.6 MB less in a daemon.

`dataclasses` compiles a `__setattr__` and a `__delattr__` for each frozen class. The ones here are the same for all,
and refuse what those refuse: every attribute of an instance of the class itself, and of one of a subclass that is no
dataclass the fields. Where Python has no such function to replace (it is not part of the documented interface),
nothing changes.

To be imported before the modules that define the classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import FrozenInstanceError
from typing import Any, Final

MAKER: Final = "_frozen_get_del_attr"


def _refused(self: Any, name: str) -> bool:
    return "__dataclass_fields__" in type(self).__dict__ or name in type(self).__dataclass_fields__


def __setattr__(self: Any, name: str, value: object) -> None:
    if _refused(self, name):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def __delattr__(self: Any, name: str) -> None:
    if _refused(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def _shared(*_: object) -> tuple[Any, Any]:
    return __setattr__, __delattr__


if hasattr(dataclasses, MAKER):
    setattr(dataclasses, MAKER, _shared)
