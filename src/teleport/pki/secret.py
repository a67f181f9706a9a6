"""Bytes that must not be seen: printing, formatting, pickling or copying a `Secret` shows or yields nothing."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds secret bytes; `reveal()` is the only way to them, so that every use can be found by its name."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __str__(self) -> str:
        return "Secret(hidden)"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret in a set or as a key ends up in somebody's dump

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied; hand the object itself on")
