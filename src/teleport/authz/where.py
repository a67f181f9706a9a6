"""Evaluates `where` predicates (`resources.md` 7) over facts.

Facts are maps by root name: `user`, `resource`, `session`, ... A missing field or map key is empty. A comparison of
things that cannot be compared raises `WhereError`; callers count that as "no" under allow and as "yes" under deny.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from teleport.resources.lexer import BadSyntax
from teleport.resources.predicate import And, Call, CAType, Function, Not, Operand, Or, Path, Predicate, Text
from teleport.resources.predicate import parse_predicate as parse_predicate

Facts = Mapping[str, object]


class WhereError(ValueError):
    """The predicate cannot be evaluated over these facts."""


def holds(text: str, facts: Facts, ca_type: str = "") -> bool:
    """Whether the predicate `text` is true of `facts`; an empty one is. Raises `WhereError`."""
    if not text:
        return True
    try:
        predicate = parse_predicate(text)
    except BadSyntax as error:
        raise WhereError(str(error)) from None
    return evaluate(predicate, facts, ca_type)


def evaluate(predicate: Predicate, facts: Facts, ca_type: str = "") -> bool:
    """The truth of `predicate`; raises `WhereError`."""
    match predicate:
        case Call():
            left = _value(predicate.left, facts, ca_type)
            right = _value(predicate.right, facts, ca_type)
            return _equals(left, right) if predicate.function is Function.EQUALS else _contains(left, right)
        case Not():
            return not evaluate(predicate.inner, facts, ca_type)
        case And():
            return all(evaluate(part, facts, ca_type) for part in predicate.parts)
        case Or():
            return any(evaluate(part, facts, ca_type) for part in predicate.parts)
    assert_never(predicate)


def _value(operand: Operand, facts: Facts, ca_type: str) -> object:
    """Text, a sequence of text, or None for what is missing."""
    match operand:
        case Text():
            return operand.value
        case CAType():
            return ca_type
        case Path():
            value: object = facts
            for part in operand.parts:
                if value is None:
                    return None
                if not isinstance(value, Mapping):
                    raise WhereError(f"{operand}: {part} is asked of something that has no fields")
                value = value.get(part)
            if isinstance(value, bool):
                return "true" if value else "false"
            if isinstance(value, int):
                return str(value)
            if value is None or isinstance(value, str):
                return value
            if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
                return tuple(value)
            raise WhereError(f"{operand} is neither text nor a list of text")
    assert_never(operand)


def _equals(left: object, right: object) -> bool:
    if left is None or right is None:
        # What is missing equals the empty value of either sort, as in the reference.
        return not left and not right
    if isinstance(left, str) != isinstance(right, str):
        raise WhereError("equals compares two texts or two lists")
    return left == right


def _contains(items: object, item: object) -> bool:
    if items is None:
        return False
    if not isinstance(items, tuple) or not (item is None or isinstance(item, str)):
        raise WhereError("contains asks a list for a text")
    return item is not None and item in items
