"""The commands with which clients start a transfer: `scp -t PATH`, `scp -f PATH...`, `rsync --server ... . PATH...`.

A command is read as a POSIX shell would read plain words and quotes (Shell Command Language 2.2, 2.6.1). What a shell
would do more with (variables, substitutions, redirections, several commands, braces) is not one of these, and neither
is an option that is not listed here: then it is an ordinary command, for a shell to run or for the rules to refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_WORDS: Final = 1000

_SPECIAL = frozenset("|&;<>()$`\n{}#!")  # unquoted, a shell may do more than take them as they are
_GLOB = frozenset("*?[")
_IN_QUOTES = frozenset('$`"\\\n')


@dataclass(frozen=True, slots=True)
class Word:
    """A word. `pattern` is there when it has unquoted globs; what was quoted is in brackets in it. `home` is the
    account whose home it begins with (`~NAME`; empty: one's own)."""

    text: str
    pattern: str | None = None
    home: str | None = None


@dataclass(frozen=True, slots=True)
class ScpCommand:
    """One end of scp's own protocol."""

    sink: bool  # takes files; else it gives them
    paths: tuple[Word, ...]
    recursive: bool = False
    preserve: bool = False
    folder: bool = False  # the target has to be a folder


@dataclass(frozen=True, slots=True)
class RsyncCommand:
    """One end of rsync's protocol, with options that neither run anything nor name a file."""

    sender: bool  # gives files; else it takes them
    options: tuple[str, ...]
    paths: tuple[Word, ...]
    follows_links: bool = False  # leads out of the folders that are named
    removes: bool = False  # also takes away what it gave


def parse(command: str) -> ScpCommand | RsyncCommand | None:
    """The transfer that a command starts; None: it is something else."""
    words = split_words(command)
    if not words or len(words) > MAX_WORDS or words[0].pattern is not None or words[0].home is not None:
        return None
    match words[0].text:
        case "scp" | "/usr/bin/scp" | "/bin/scp":
            return _scp(words[1:])
        case "rsync" | "/usr/bin/rsync" | "/bin/rsync":
            return _rsync(words[1:])
    return None


def split_words(command: str) -> list[Word] | None:
    """The words of a command; None when a shell would do more than split and unquote it."""
    words: list[Word] = []
    at, end = 0, len(command)
    while at < end:
        if command[at] in " \t":
            at += 1
            continue
        found = _word(command, at)
        if found is None:
            return None
        word, at = found
        words.append(word)
    return words


def _word(command: str, at: int) -> tuple[Word, int] | None:
    text: list[str] = []
    pattern: list[str] = []
    globs = False
    tilde = command[at] == "~"
    plain_until = 0  # characters of the text, from its start, that were not quoted
    plain = True

    def take(piece: str) -> None:
        text.append(piece)
        pattern.append("".join(f"[{one}]" if one in _GLOB else one for one in piece))

    end = len(command)
    while at < end and command[at] not in " \t":
        one = command[at]
        if one == "'":
            plain = False
            close = command.find("'", at + 1)
            if close < 0:
                return None
            take(command[at + 1 : close])
            at = close + 1
        elif one == '"':
            plain = False
            quoted = _double_quoted(command, at + 1)
            if quoted is None:
                return None
            piece, at = quoted
            take(piece)
        elif one == "\\":
            plain = False
            if at + 1 >= end or command[at + 1] == "\n":
                return None
            take(command[at + 1])
            at += 2
        elif one in _SPECIAL or ord(one) < 32:
            return None
        else:
            text.append(one)
            pattern.append(one)
            globs = globs or one in _GLOB
            at += 1
            if plain:
                plain_until += 1
    whole = "".join(text)
    home = None
    if tilde:
        name, _, rest = whole[1:].partition("/")
        if len(name) + 1 > plain_until or not re.fullmatch(r"[a-z_][a-z0-9_.-]*", name or "_"):
            return None
        home, whole = name, rest
        shown = "".join(pattern)
        pattern = [shown[len(name) + 2 :]]
    return Word(whole, "".join(pattern) if globs else None, home), at


def _double_quoted(command: str, at: int) -> tuple[str, int] | None:
    piece: list[str] = []
    while at < len(command):
        one = command[at]
        if one == '"':
            return "".join(piece), at + 1
        if one in "$`":
            return None
        if one == "\\" and at + 1 < len(command) and command[at + 1] in _IN_QUOTES:
            at += 1
            one = command[at]
            if one == "\n":
                return None
        piece.append(one)
        at += 1
    return None


def _scp(words: list[Word]) -> ScpCommand | None:
    flags, rest = "", list(words)
    while rest and rest[0].text.startswith("-") and rest[0].pattern is None and rest[0].home is None:
        option = rest.pop(0).text
        if option == "--":
            break
        if not re.fullmatch(r"-[vrpdqtf]+", option):
            return None
        flags += option[1:]
    sink = "t" in flags
    if sink is ("f" in flags) or not rest or (sink and len(rest) != 1):
        return None
    if any("\0" in word.text for word in rest):
        return None
    return ScpCommand(sink, tuple(rest), "r" in flags, "p" in flags, "d" in flags)


# Flags of rsync(1) before the `e`, and what a client says of itself after it.
_BUNDLE = re.compile(r"-(?P<flags>[vqcrRbudlHpEAXogDtOJSnWxzIymhi8UNLkK]*)(?:e[0-9]*\.[A-Za-z]*)?")
_NUMBER = r"=[0-9]{1,19}"
_WORDY = r"=[A-Za-z0-9,]{1,200}"
_LONG = re.compile(
    "--(?:"
    "delete(?:-before|-during|-after|-delay|-excluded|-missing-args)?|ignore-errors|force|partial|inplace|append"
    "|append-verify|existing|ignore-existing|ignore-non-existing|ignore-missing-args|size-only|numeric-ids|relative"
    "|no-implied-dirs|no-relative|no-r|no-R|no-i-r|no-inc-recursive|no-W|no-whole-file|whole-file|new-compress|old-compress"
    "|stats|safe-links|munge-links|sparse|preallocate|fsync|mkpath|open-noatime|list-only|fuzzy|delay-updates|super"
    "|remove-source-files|specials|no-specials|devices|no-devices|ignore-times|use-qsort"
    f"|(?:timeout|bwlimit|block-size|modify-window|compress-level|zl|max-delete|max-size|min-size){_NUMBER}"
    "|modify-window=-1"
    f"|(?:compress-choice|zc|checksum-choice|cc|info){_WORDY}"
    "|log-format=(?:X|%i|%i%I|%o)|out-format=(?:X|%i)"
    ")"
)
_LEADS_OUT = frozenset("LkK")


def _rsync(words: list[Word]) -> RsyncCommand | None:
    if any(word.home is not None or word.pattern is not None for word in words[:1]) or not words:
        return None
    if words[0].text != "--server":
        return None
    options: list[str] = []
    sender = follows = removes = False
    rest = list(words[1:])
    while rest and rest[0].text != ".":
        word = rest.pop(0)
        if word.pattern is not None or word.home is not None:
            return None
        if word.text == "--sender":
            sender = True
            continue
        bundle = _BUNDLE.fullmatch(word.text) if not word.text.startswith("--") else None
        if bundle is not None:
            follows = follows or bool(_LEADS_OUT & set(bundle["flags"]))
        elif not _LONG.fullmatch(word.text):
            return None
        removes = removes or word.text == "--remove-source-files"
        options.append(word.text)
    paths = rest[1:]
    if not paths or any(word.text.startswith("-") and word.home is None for word in paths):
        return None
    if not sender and len(paths) != 1:
        return None
    return RsyncCommand(sender, tuple(options), tuple(paths), follows, removes)
