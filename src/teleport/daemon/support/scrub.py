"""Texts without what could be a secret: what is known to be one, and what looks like one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

HIDDEN: Final = "(hidden)"
SHORTEST: Final = 4  # letters of a secret that is looked for: shorter ones are in every text
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEY_WORD: Final = re.compile(
    "passw|passphrase|secret|token|cookie|authorization|bearer|api_?key|private_?key|otp|credential|conn_string|"
    r"\bpin\b|invit|session_key",
    re.IGNORECASE,
)
# whole words only, so that each letter of a long one is looked at once
_NAME: Final = re.compile(r"(?<![\w.-])[\w.-]++[\"']?\s{0,9}[=:]\s{0,9}")
_VALUE: Final = re.compile(r"\"[^\"]*+\"?|'[^']*+'?|[^\s,;]++")
# bounded, so that a log in which somebody wrote one long word takes no longer than others
_RULES: Final = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]{1,60}-----.*?(-----END [A-Z0-9 ]{1,60}-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), rf"\1 {HIDDEN}"),
    (re.compile(r"(\w{1,20}://)[^/\s@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(/web/[a-z_-]+/)[^\s/\"']{8,}(?!/)"), rf"\1{HIDDEN}"),
)
# What is looked through without an end being found is taken, too: else each "http://" in it would begin anew.
_URL: Final = re.compile(r"(https?://[^\s?&#\"']*+)(?:([?&#])\S+)?")
_RUN: Final = re.compile(r"[A-Za-z0-9+/=_-]{20,}")


def scrubbed(text: str, known: Iterable[str] = ()) -> str:
    """`text` in which `known` secrets, and whatever looks like a key, token or password, are hidden."""
    for secret in sorted({one for one in known if len(one) >= SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for rule, instead in _RULES:
        text = rule.sub(instead, text)
    return _RUN.sub(_run, _without_values(_URL.sub(_url, text)))


def _url(found: re.Match[str]) -> str:
    """Without what follows the path."""
    return found[1] + (f"{found[2]}{HIDDEN}" if found[2] else "")


def _without_values(text: str) -> str:
    """Without what stands after a name that says that it is secret: `token=...`, `"password": "..."`."""
    parts, done = [], 0
    for name in _NAME.finditer(text):
        if name.start() < done or _KEY_WORD.search(name[0][-60:]) is None:
            continue
        value = _VALUE.match(text, name.end())
        if value is not None:
            parts += [text[done : name.end()], HIDDEN]
            done = value.end()
    return "".join([*parts, text[done:]])


def _run(found: re.Match[str]) -> str:
    """A path part by part; other long words whole, as a slash may be a digit of base64."""
    text = found[0]
    if text.startswith("/"):
        return "/".join(HIDDEN if _random(part) else part for part in text.split("/"))
    return HIDDEN if _random(text) else text


def _random(text: str) -> bool:
    """Whether somebody's dice wrote it: long, with digits or both sizes of letters, and no identifier that is known to
    be none."""
    if len(text) < 20:
        return False
    rest = _UUID.sub("", text)
    if len(rest) < 20:
        return False
    return any(letter.isdigit() for letter in rest) or (rest != rest.lower() and rest != rest.upper())


def scrubbed_values(value: Any, known: Iterable[str] = ()) -> Any:
    """The same for every text in a document of maps and lists; names of keys are ours."""
    secrets = tuple(known)
    match value:
        case str():
            return scrubbed(value, secrets)
        case dict():
            return {key: scrubbed_values(one, secrets) for key, one in value.items()}
        case list() | tuple():
            return [scrubbed_values(one, secrets) for one in value]
    return value
