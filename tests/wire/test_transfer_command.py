"""Commands that start a transfer, as OpenSSH, PuTTY, Ansible, paramiko and rsync send them, and what is none."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from teleport.wire.transfer_command import RsyncCommand, ScpCommand, Word, parse, split_words


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("scp -t /a", ScpCommand(True, (Word("/a"),))),
        ("scp -v -r -p -d -t -- -x", ScpCommand(True, (Word("-x"),), True, True, True)),
        ("scp -rpf 'a b' \"c'd\" e\\ f", ScpCommand(False, (Word("a b"), Word("c'd"), Word("e f")), True, True)),
        ("/usr/bin/scp -f ~/a", ScpCommand(False, (Word("a", None, ""),))),
        ("scp -f ~bob", ScpCommand(False, (Word("", None, "bob"),))),
        ("scp -f '~'/a", ScpCommand(False, (Word("~/a"),))),
        ("scp -f *.txt", ScpCommand(False, (Word("*.txt", "*.txt"),))),
        ("scp -f '*'*", ScpCommand(False, (Word("**", "[*]*"),))),
        ("scp -f ~/d/*", ScpCommand(False, (Word("d/*", "d/*", ""),))),
        ("rsync --server -vlogDtpre.iLsfxCIvu . /d/", RsyncCommand(False, ("-vlogDtpre.iLsfxCIvu",), (Word("/d/"),))),
        (
            "rsync --server --sender -Le.iLsfxCIvu --max-size=5 . a b",
            RsyncCommand(True, ("-Le.iLsfxCIvu", "--max-size=5"), (Word("a"), Word("b")), True),
        ),
        (
            "rsync --server --sender -re.LsfxCIvu --remove-source-files . a",
            RsyncCommand(True, ("-re.LsfxCIvu", "--remove-source-files"), (Word("a"),), False, True),
        ),
    ],
)
def test_what_clients_send_is_understood(command: str, parsed: object) -> None:
    assert parse(command) == parsed


@pytest.mark.parametrize(
    "command",
    [
        "scp", "scp -t", "scp -t a b", "scp -tf a", "scp -t a; id", "scp -t $HOME", "scp -t `id`", "scp -t a > b",
        "scp -t a\nid", "scp -t {a,b}", "scp -S sh -t a", "scp a b", "scp -t 'a", 'scp -t "a', 'scp -t "$x"',
        "scp -t a\\",
        "'scp' -x -t a", "*scp -t a", "scp -t a & id", "scp -t #a", "id", "", "scp -t ~'bob'/x", "scp -f ~bo\\b",
        "rsync --server . ", "rsync --daemon . x", "rsync --server -vve.L --daemon . x", "rsync -a x y",
        "rsync --server -e.L --config=/x . y", "rsync --server -e.L --log-file=/x . y", "rsync --server -e.L -M--x . y",
        "rsync --server -se.LsfxCIvu .", "rsync --server -se.LsfxCIvu . x", "rsync --server -re.L --files-from=x . y",
        "rsync --server -re.L --temp-dir=/x . y", "rsync --server -re.L --backup-dir=/x . y",
        "rsync --server -re.L --link-dest=/x . y", "rsync --server -re.L --partial-dir=/x . y",
        "rsync --server -esh . y", "rsync --server --rsh=sh . y", "rsync --server -re.L --rsync-path=x . y",
        "rsync --server -re.L . -esh", "rsync --server -re.L . a b", "rsync --server -re.L . --log-file=x",
        "rsync --server -re.L --debug=ALL . y",
        "rsync --server --log-format=%m/../x -re.L . a", "rsync --server --sender -re.L --info=FLIST2,;id . a",
    ],
)  # fmt: skip
def test_what_is_more_than_a_transfer_is_none(command: str) -> None:
    """Then it is an ordinary command, which the rules may refuse."""
    assert parse(command) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=5))
@example(["~", "*", "'", '"', "\\", "$x"])
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    assert split_words(shlex.join(words)) == [Word(word) for word in words]


def test_words_are_those_of_a_shell() -> None:
    """What is split here at all, `sh` splits alike: random lines of the characters that matter."""
    import random

    chance = random.Random(5)
    lines = ["".join(chance.choices("ab '\"\\-/.", k=chance.randrange(1, 14))) for _ in range(1500)]
    taken = [(line, words) for line in lines if (words := split_words(line)) is not None]
    assert len(taken) > 300
    script = "".join(f"printf '%s\\0' {line}\nprintf '\\1\\0'\n" for line, words in taken if words)
    printed = subprocess.run(["sh"], input=script, text=True, capture_output=True, check=True).stdout
    shown = [part.split("\0")[:-1] for part in printed.split("\1\0")[:-1]]
    assert shown == [[word.text for word in words] for _, words in taken if words]
