"""What is wrong with a file that a person wrote: each mistake with its place, collected, and raised together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from teleport.errors import BadRequest

MAX_PROBLEMS: Final = 200  # more are counted, not kept


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file. `path` is the key path (`ssh_service.labels.env`), empty for the whole document."""

    source: str
    line: int  # from 1
    path: str
    found: str
    allowed: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return f"{where}found {self.found}, allowed: {self.allowed}"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something in a file that is accepted, but that its author should know."""

    source: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.path}: {self.text}"


class Problems:
    """Collects what is wrong with one or more files; true when there is anything."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}  # in order of discovery, each once
        self._more = 0
        self._notices: dict[Notice, None] = {}

    def add(self, problem: Problem) -> None:
        if problem in self._problems:
            return
        if len(self._problems) >= MAX_PROBLEMS:
            self._more += 1
        else:
            self._problems[problem] = None

    def add_notice(self, notice: Notice) -> None:
        """Records a warning about an accepted value."""
        self._notices[notice] = None

    @property
    def is_full(self) -> bool:
        """Further problems are only counted, so that their wording need not be worked out."""
        return len(self._problems) >= MAX_PROBLEMS

    @property
    def notices(self) -> tuple[Notice, ...]:
        return tuple(sorted(self._notices, key=lambda notice: (notice.source, notice.line)))

    def __bool__(self) -> bool:
        return bool(self._problems)

    def __len__(self) -> int:
        return len(self._problems) + self._more

    def __iter__(self) -> Iterator[Problem]:
        """By source and line."""
        return iter(sorted(self._problems, key=lambda problem: (problem.source, problem.line)))

    def lines(self) -> list[str]:
        """One line of text for each problem."""
        more = [f"and {self._more} more"] if self._more else []
        return [*(str(problem) for problem in self), *more]

    def raise_if_any(self, *, hint: str = "") -> None:
        """Raises `InvalidDocument` with every problem, if there is one."""
        if self:
            raise InvalidDocument(self, hint=hint)


class InvalidDocument(BadRequest):
    """A file that cannot be used. The message holds every problem on a line of its own."""

    def __init__(self, problems: Problems, *, hint: str = "") -> None:
        super().__init__("\n".join(problems.lines()), hint=hint or "correct these lines and try again")
        self.problems = tuple(problems)


def quoted(text: str, limit: int = 60) -> str:
    """`text` in double quotes for a message: cut to `limit`, with everything that is not printable escaped."""
    shown = "".join(_shown(character) for character in text[:limit])
    return f'"{shown}..."' if len(text) > limit else f'"{shown}"'


def _shown(character: str) -> str:
    if character == '"':
        return '\\"'
    return character if character.isprintable() and character != "\\" else ascii(character)[1:-1]


def join_path(path: str, key: str) -> str:
    """The path of `key` inside the map at `path`; unusual keys are quoted."""
    usual = key.isprintable() and 0 < len(key) <= 80 and not set(key) & set('. "[]')
    name = key if usual else quoted(key)
    return f"{path}.{name}" if path else name
