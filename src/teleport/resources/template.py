"""Template strings in roles: `{{internal.logins}}`, `{{external["x-y"]}}`, functions, one literal prefix and suffix.

This module reads them (`resources.md` 6); `authz.traits` fills them in. One expression per string. What looks like a
template but is none is an error when the role is written, never a literal at run time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from teleport.resources.lexer import BadSyntax, Token, TokenKind, Tokens, tokenize
from teleport.resources.pattern import BadPattern, Pattern, compile_pattern

MAX_TEMPLATE = 2048  # characters
INTERNAL_TRAITS = frozenset(
    {"logins", "kubernetes_groups", "kubernetes_users", "db_names", "db_users", "aws_role_arns"}
)


class Transform(StrEnum):
    """What is done to each value of the trait."""

    NONE = ""
    EMAIL_LOCAL = "email.local"
    REGEXP_REPLACE = "regexp.replace"


@dataclass(frozen=True, slots=True)
class Template:
    """One expression between a literal prefix and suffix."""

    trait: str
    prefix: str = ""
    suffix: str = ""
    transform: Transform = Transform.NONE
    pattern: Pattern | None = None
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Matcher:
    """`{{regexp.match("..")}}` or `{{regexp.not_match("..")}}`: asks about a name instead of giving one."""

    pattern: Pattern
    negated: bool


_BRACES = re.compile(r"(?s)([^{}]*)\{\{(.*)\}\}([^{}]*)")


def is_template(text: str) -> bool:
    """Whether `text` means to be a template."""
    return "{{" in text or "}}" in text


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template | Matcher:
    """The template that `text` holds; raises `BadSyntax` saying what is wrong. Call it when `is_template(text)`."""
    if len(text) > MAX_TEMPLATE:
        raise BadSyntax(f"is longer than {MAX_TEMPLATE} characters")
    found = _BRACES.fullmatch(text)
    if found is None or "{{" in found[2] or "}}" in found[2]:
        raise BadSyntax("needs exactly one {{expression}}, with text before or after it at most")
    prefix, expression, suffix = found[1].lstrip(), found[2], found[3].rstrip()
    tokens = Tokens(tokenize(expression))
    result = _expression(tokens, prefix, suffix)
    tokens.expect(TokenKind.END)
    return result


def _expression(tokens: Tokens, prefix: str, suffix: str) -> Template | Matcher:
    namespace = tokens.expect(TokenKind.NAME)
    match namespace.text:
        case "internal" | "external":
            return Template(_trait(namespace.text, tokens), prefix, suffix)
        case "email":
            _function(tokens, "local")
            trait = _reference(tokens)
            tokens.sign(")")
            return Template(trait, prefix, suffix, Transform.EMAIL_LOCAL)
        case "regexp":
            tokens.sign(".")
            name = tokens.expect(TokenKind.NAME).text
            tokens.sign("(")
            if name == "replace":
                trait = _reference(tokens)
                tokens.sign(",")
                pattern = _pattern(tokens)
                tokens.sign(",")
                replacement = tokens.expect(TokenKind.STRING).text
                tokens.sign(")")
                return Template(trait, prefix, suffix, Transform.REGEXP_REPLACE, pattern, replacement)
            if name in {"match", "not_match"}:
                pattern = _pattern(tokens)
                tokens.sign(")")
                if prefix or suffix:
                    raise BadSyntax(f"regexp.{name} takes no text around it")
                return Matcher(pattern, negated=name == "not_match")
            raise BadSyntax(f"regexp.{name} is not known; there are replace, match and not_match")
    raise BadSyntax(f"{namespace.text!r} is not known; there are internal, external, email.local and regexp.replace")


def _function(tokens: Tokens, name: str) -> None:
    tokens.sign(".")
    found = tokens.expect(TokenKind.NAME)
    if found.text != name:
        raise BadSyntax(f"email.{found.text} is not known; there is email.{name}")
    tokens.sign("(")


def _reference(tokens: Tokens) -> str:
    namespace = tokens.expect(TokenKind.NAME)
    if namespace.text not in {"internal", "external"}:
        raise BadSyntax(f"{namespace.text!r} is not a source of traits; there are internal and external")
    return _trait(namespace.text, tokens)


def _trait(namespace: str, tokens: Tokens) -> str:
    name: Token
    if tokens.skip("["):
        name = tokens.expect(TokenKind.STRING)
        tokens.sign("]")
    else:
        tokens.sign(".")
        name = tokens.expect(TokenKind.NAME)
    if not name.text:
        raise BadSyntax("names no trait")
    if namespace == "internal" and name.text not in INTERNAL_TRAITS:
        raise BadSyntax(f"internal.{name.text} is not known; there are {', '.join(sorted(INTERNAL_TRAITS))}")
    return name.text


def _pattern(tokens: Tokens) -> Pattern:
    source = tokens.expect(TokenKind.STRING).text
    try:
        return compile_pattern(source)
    except BadPattern as error:
        raise BadSyntax(f"regular expression {source!r}: {error}") from None
