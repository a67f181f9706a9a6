"""Templates in roles: every form of `resources.md` 6, and what is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.resources.lexer import BadSyntax
from teleport.resources.template import Matcher, Template, Transform, is_template, parse_template


@pytest.mark.parametrize(
    ("text", "trait", "prefix", "suffix", "transform"),
    [
        ("{{internal.logins}}", "logins", "", "", Transform.NONE),
        ("{{ internal.logins }}", "logins", "", "", Transform.NONE),
        ('{{external["x-y"]}}', "x-y", "", "", Transform.NONE),
        ('{{internal["db_names"]}}', "db_names", "", "", Transform.NONE),
        ("IAM#{{external.foo}};", "foo", "IAM#", ";", Transform.NONE),
        ("{{email.local(external.email)}}", "email", "", "", Transform.EMAIL_LOCAL),
        ('{{email.local(external["e-mail"])}}', "e-mail", "", "", Transform.EMAIL_LOCAL),
        ('{{regexp.replace(external.x, "^(a{2})$", "$1")}}', "x", "", "", Transform.REGEXP_REPLACE),
        ("{{regexp.replace(external.x, `^\\d$`, `y`)}}", "x", "", "", Transform.REGEXP_REPLACE),
    ],
)
def test_every_form_is_read(text: str, trait: str, prefix: str, suffix: str, transform: Transform) -> None:
    template = parse_template(text)
    assert isinstance(template, Template)
    assert (template.trait, template.prefix, template.suffix, template.transform) == (trait, prefix, suffix, transform)


def test_matchers_are_read() -> None:
    assert isinstance(parse_template('{{regexp.match("^a$")}}'), Matcher)
    negated = parse_template('{{regexp.not_match("^a$")}}')
    assert isinstance(negated, Matcher)
    assert negated.negated


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "}}",
        "{{}}",
        "{{internal}}",
        "{{internal.}}",
        "{{internal.nonsense}}",
        "{{external}}",
        '{{external[""]}}',
        "{{external.a.b}}",
        "{{internal.logins}}{{internal.logins}}",
        "{{{internal.logins}}}",
        "{internal.logins}}",
        "{{foo.bar}}",
        "{{email.local(internal.logins)",
        "{{email.remote(external.email)}}",
        '{{email.local("literal")}}',
        '{{regexp.replace(external.x, "(", "")}}',
        '{{regexp.replace(external.x, "a")}}',
        '{{regexp.replace("a", "b", "c")}}',
        '{{regexp.match("(?=a)")}}',
        'x{{regexp.match("a")}}',
        "{{internal.logins | upper}}",
    ],
)
def test_what_only_looks_like_a_template_is_an_error(text: str) -> None:
    assert is_template(text)
    with pytest.raises(BadSyntax):
        parse_template(text)


@settings(deadline=None)
@given(st.text('{}internalexter.[]"()regp, ', max_size=40))
def test_any_text_is_a_template_or_refused(text: str) -> None:
    with contextlib.suppress(BadSyntax):
        parse_template(text)
