"""What a command that changes things says of each: a sentence as it happens, or one JSON list at the end.

In JSON a failure half-way leaves stdout empty; what was done before it is part of the error's message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teleport.cli import render
from teleport.errors import TeleportError

Tell = Callable[[str, str, str, str], None]


@contextmanager
def outcome(form: str) -> Iterator[Tell]:
    """Hands out `tell(kind, name, done, sentence)`. Raises what the block raises."""
    rows: list[dict[str, str]] = []
    sentences: list[str] = []

    def tell(kind: str, name: str, done: str, sentence: str) -> None:
        if form == "json":
            rows.append({"kind": kind, "name": name, "done": done})
            sentences.append(sentence)
        else:
            render.out(f"{sentence}\n")

    try:
        yield tell
    except TeleportError as error:
        if sentences:
            error.message = "\n".join([error.message, "done before that:", *sentences])
        raise
    if form == "json":
        render.out(render.as_json(rows))
