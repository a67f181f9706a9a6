"""How often functions are called: what tells two ways apart that must cost the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest


class Calls(Counter[str]):
    """Calls by name, of the functions that are counted until the test ends; they work as ever."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._patch = patch

    def count(self, owner: Any, name: str) -> None:
        """Counts the calls of `owner.name` from now on."""
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self[name] += 1
            return real(*args, **kwargs)

        self._patch.setattr(owner, name, call)
