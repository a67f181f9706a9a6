"""Text that must not be seen: private keys and hashes inside resources. Printing or formatting it shows nothing."""

from __future__ import annotations

import hmac
from typing import NoReturn


class SecretText:
    """Holds secret text; `reveal()` is the only way to it, so that every use can be found by its name."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "SecretText(hidden)"

    def __str__(self) -> str:
        return "SecretText(hidden)"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretText):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret in a set or as a key ends up in somebody's dump

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretText is not pickled or copied; hand the object itself on")
