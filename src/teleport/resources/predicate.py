"""The `where` language of rules (`resources.md` 7): its syntax tree and a parser with limits.

`authz.where` evaluates what is parsed here.

expression = and-part { "||" and-part }         operand = string | path | "system.catype()"
and-part   = unary { "&&" unary }               path    = name { "." name | "[" string "]" }
unary      = "!" unary | "(" expression ")" | ("equals" | "contains") "(" operand "," operand ")"
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from teleport.resources.lexer import BadSyntax, TokenKind, Tokens, tokenize

MAX_LENGTH = 4096  # characters
MAX_DEPTH = 32  # of nested parentheses and negations
MAX_TERMS = 256  # calls in one predicate

ROOTS = frozenset(
    {
        "user",
        "resource",
        "session",
        "ssh_session",
        "impersonate_user",
        "impersonate_role",
        "reviewer",
        "request",
    }
)
USER_PATHS = frozenset({("metadata", "name"), ("spec", "roles"), ("spec", "traits")})


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class Path:
    """A field of the facts, such as `resource.metadata.labels["env"]`."""

    parts: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True, slots=True)
class CAType:
    """`system.catype()`: the type of the authority asked about, or empty."""


Operand = Text | Path | CAType


class Function(StrEnum):
    EQUALS = "equals"
    CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class Call:
    function: Function
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class Not:
    inner: Predicate


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Predicate, ...]


Predicate = Call | Not | And | Or


@lru_cache(maxsize=4096)
def parse_predicate(text: str) -> Predicate:
    """The tree of `text`; raises `BadSyntax` with the place."""
    if len(text) > MAX_LENGTH:
        raise BadSyntax(f"is longer than {MAX_LENGTH} characters")
    parser = _Parser(Tokens(tokenize(text)))
    result = parser.either(0)
    parser.tokens.expect(TokenKind.END)
    return result


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.terms = 0

    def either(self, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise BadSyntax(f"is nested more than {MAX_DEPTH} deep")
        parts = [self.both(depth)]
        while self.tokens.skip("||"):
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, depth: int) -> Predicate:
        parts = [self.unary(depth)]
        while self.tokens.skip("&&"):
            parts.append(self.unary(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def unary(self, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise BadSyntax(f"is nested more than {MAX_DEPTH} deep")
        if self.tokens.skip("!"):
            return Not(self.unary(depth + 1))
        if self.tokens.skip("("):
            inner = self.either(depth + 1)
            self.tokens.sign(")")
            return inner
        return self.call()

    def call(self) -> Call:
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise BadSyntax(f"has more than {MAX_TERMS} terms")
        name = self.tokens.expect(TokenKind.NAME)
        if name.text not in {function.value for function in Function}:
            raise BadSyntax(f"{name} is not a function; there are equals(a, b) and contains(list, item)")
        self.tokens.sign("(")
        left = self.operand()
        self.tokens.sign(",")
        right = self.operand()
        self.tokens.sign(")")
        return Call(Function(name.text), left, right)

    def operand(self) -> Operand:
        if self.tokens.next.kind is TokenKind.STRING:
            return Text(self.tokens.take().text)
        root = self.tokens.expect(TokenKind.NAME)
        parts = [root.text]
        while True:
            if self.tokens.skip("."):
                parts.append(self.tokens.expect(TokenKind.NAME).text)
            elif self.tokens.skip("["):
                parts.append(self.tokens.expect(TokenKind.STRING).text)
                self.tokens.sign("]")
            else:
                break
        if parts == ["system", "catype"]:
            self.tokens.sign("(")
            self.tokens.sign(")")
            return CAType()
        if root.text not in ROOTS:
            raise BadSyntax(f"{root} is not known; there are {', '.join(sorted(ROOTS))} and system.catype()")
        if root.text == "user" and tuple(parts[1:3]) not in USER_PATHS:
            raise BadSyntax(f"{'.'.join(parts)} is not known; a user has metadata.name, spec.roles and spec.traits")
        return Path(tuple(parts))
