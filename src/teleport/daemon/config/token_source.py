"""A join token that is named in the configuration and read only when it is used, so that it is nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from teleport.errors import BadRequest, NotFound, TeleportError

_MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Literal text, or the absolute path of a file that holds the token. Printing shows the path, never the token."""

    _text: str = field(default="", repr=False)
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A path when `text` begins with a slash, the token itself otherwise; `ValueError` when there is none."""
        stripped = text.strip()
        if not stripped or any(not character.isprintable() or character.isspace() for character in stripped):
            raise ValueError("a token is one word, or the absolute path of a file")
        return cls(path=Path(stripped)) if stripped.startswith("/") else cls(stripped)

    def read(self) -> str:
        """The token, without white space around it.

        Raises `NotFound` when there is no such file, `TeleportError` when it cannot be read, `BadRequest` when it
        holds no token.
        """
        if self.path is None:
            return self._text
        try:
            with self.path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            raise NotFound(
                f"there is no token file {self.path}",
                hint="create one on the auth server: tctl tokens add --type=node --out=FILE",
            ) from None
        except OSError as error:
            raise TeleportError(
                f"the token file {self.path} cannot be read: {error.strerror}", hint="run as the owner of the file"
            ) from None
        token = content.decode("ascii", errors="replace").strip()
        if len(content) > _MOST_BYTES or not token.isascii() or not token.isprintable() or not token or " " in token:
            raise BadRequest(
                f"the file {self.path} does not hold a join token", hint="it has to hold one word and nothing else"
            )
        return token
