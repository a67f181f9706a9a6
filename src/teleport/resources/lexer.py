"""Words, strings and signs of the two small languages inside roles: `where` predicates and templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BadSyntax(ValueError):
    """The text is not in the language; the message says what is wrong and where."""


class TokenKind(StrEnum):
    NAME = "a name"
    STRING = "a string"
    SIGN = "a sign"
    END = "the end"


@dataclass(frozen=True, slots=True)
class Token:
    kind: TokenKind
    text: str  # of a string: its value
    at: int  # characters from the beginning

    def __str__(self) -> str:
        return "the end" if self.kind is TokenKind.END else f"{self.text!r} at {self.at + 1}"


_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<sign>&&|\|\||[!().,\[\]]))"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def tokenize(text: str) -> list[Token]:
    """The tokens of `text` with an END; raises `BadSyntax`. Strings are as in Go: "..." with escapes, `...` raw."""
    tokens: list[Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadSyntax(f"cannot read {text[at:].strip()[:20]!r} at {at + 1}")
        kind = TokenKind[(found.lastgroup or "sign").upper()]
        word = found[found.lastgroup or 0]
        start = found.end() - len(word)
        if kind is TokenKind.STRING:
            word = word[1:-1] if word[0] == "`" else _unescape(word[1:-1], start)
        tokens.append(Token(kind, word, start))
        at = found.end()
    tokens.append(Token(TokenKind.END, "", len(text)))
    return tokens


def _unescape(text: str, at: int) -> str:
    def one(escape: re.Match[str]) -> str:
        if escape[1] not in _ESCAPES:
            raise BadSyntax(f"unknown escape \\{escape[1]} in the string at {at + 1}; `...` takes text as it is")
        return _ESCAPES[escape[1]]

    return re.sub(r"\\(.)", one, text)


class Tokens:
    """A place in a list of tokens."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def next(self) -> Token:
        return self._tokens[self._at]

    def take(self) -> Token:
        token = self._tokens[self._at]
        if token.kind is not TokenKind.END:
            self._at += 1
        return token

    def skip(self, sign: str) -> bool:
        """Steps over `sign` if it comes next."""
        if self.next.kind is TokenKind.SIGN and self.next.text == sign:
            self._at += 1
            return True
        return False

    def sign(self, sign: str) -> None:
        """Steps over `sign`, which must come next."""
        if not self.skip(sign):
            raise BadSyntax(f"expected {sign!r}, found {self.next}")

    def expect(self, kind: TokenKind) -> Token:
        if self.next.kind is not kind:
            raise BadSyntax(f"expected {kind.value}, found {self.next}")
        return self.take()
