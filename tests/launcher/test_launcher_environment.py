"""The environment of a session is built from nothing (T29)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teleport.launcher.environment import (
    DEFAULT_PATH,
    DEFAULT_ROOT_PATH,
    MAX_FILE_LINES,
    MAX_PAIRS,
    build_environment,
    filter_environment,
    filter_file,
    login_paths,
    read_user_file,
)

REFUSED = [
    ("LD_PRELOAD", "/tmp/evil.so"),
    ("LD_LIBRARY_PATH", "/tmp"),
    ("LD_AUDIT", "x"),
    ("DYLD_INSERT_LIBRARIES", "x"),
    ("BASH_ENV", "/tmp/x"),
    ("ENV", "/tmp/x"),
    ("BASH_FUNC_ls%%", "() { id; }"),
    ("IFS", "/"),
    ("PATH", "/tmp"),
    ("SHELLOPTS", "xtrace"),
    ("BASHOPTS", "x"),
    ("PS4", "$(id)"),
    ("PROMPT_COMMAND", "id"),
    ("PYTHONPATH", "/tmp"),
    ("PYTHONSTARTUP", "/tmp/x"),
    ("PERL5LIB", "/tmp"),
    ("PERL5OPT", "-Mevil"),
    ("RUBYOPT", "-revil"),
    ("NODE_OPTIONS", "--require=/tmp/x"),
    ("GIT_SSH_COMMAND", "id"),
    ("GCONV_PATH", "/tmp"),
    ("GLIBC_TUNABLES", "x"),
    ("TMPDIR", "/tmp/x"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/tmp/sh"),
    ("SSH_TTY", "/dev/pts/0"),
    ("SSH_TELEPORT_USER", "admin"),
    ("SSH_AUTH_SOCK", "/tmp/x"),
    ("SSH_ORIGINAL_COMMAND", "x"),
    ("LANG", "C\nLD_PRELOAD=/tmp/evil.so"),
    ("LANG", "C\0LD_PRELOAD=x"),
    ("LC_ALL", "../../tmp/evil"),
    ("LC_ALL", "%s"),
    ("LC_X=LD_PRELOAD", "x"),
    ("LC_\n", "x"),
    ("LC_ALL\0", "x"),
    ("LC_ALL", "x" * 5000),
    ("lang", "C"),
    ("=", "x"),
    ("", "x"),
]


@pytest.mark.parametrize("pair", REFUSED, ids=[repr(name + "=" + value[:20]) for name, value in REFUSED])
def test_a_client_cannot_set(pair: tuple[str, str]) -> None:
    """What is not named in the allow-list, or has an odd value, is refused and reported by name."""
    assert filter_environment([pair]) == ((), (pair[0],))


KEPT = [
    ("LANG", "de_DE.UTF-8"),
    ("LANGUAGE", "de:en"),
    ("LC_TIME", "C.UTF-8"),
    ("LC_TERMINAL", "iTerm2"),
    ("COLORTERM", "truecolor"),
    ("NO_COLOR", ""),
    ("TERM", "xterm-256color"),
    ("GIT_PROTOCOL", "version=2"),
]


def test_a_client_sets_locale_and_terminal() -> None:
    """The allow-list; of one name the last value counts, and the order is kept."""
    assert filter_environment(KEPT) == (tuple(KEPT), ())
    assert filter_environment([("LANG", "a"), ("X", "b"), ("LANG", "c")]) == ((("LANG", "c"),), ("X",))


def test_a_client_cannot_send_endlessly_many() -> None:
    """The number of names is bounded; one that is known already may still change."""
    many = [(f"LC_{number}", "x") for number in range(MAX_PAIRS + 10)]
    kept, refused = filter_environment([*many, ("LC_0", "y")])
    assert len(kept) == MAX_PAIRS
    assert len(refused) == 10
    assert kept[0] == ("LC_0", "y")


# Names that a file cannot hold, and one whose "=" ends the name there.
NOT_IN_A_FILE = {"lang", "LC_\n", "LC_ALL\0", "LC_X=LD_PRELOAD"}
FILE_REFUSED = [pair for pair in REFUSED if pair[0] not in NOT_IN_A_FILE and "\n" not in pair[1]]


@pytest.mark.parametrize("pair", FILE_REFUSED, ids=[repr(name + "=" + value[:20]) for name, value in FILE_REFUSED])
def test_the_users_file_cannot_set(pair: tuple[str, str]) -> None:
    """~/.tsh/environment refuses the same names and values."""
    kept, refused = filter_file([f"{pair[0]}={pair[1]}"])
    assert kept == ()
    assert len(refused) == 1


def test_the_users_file_cannot_set_small_letters_instead() -> None:
    """Some programs read names without regard to case."""
    assert filter_file(["ld_preload=x", "Path=/tmp"]) == ((), ("ld_preload", "Path"))


def test_the_users_file_sets_ordinary_names() -> None:
    """Comments and empty lines are skipped, a line without a name is refused, a value may hold '='."""
    lines = ["# mine", "", "EDITOR=vim", "  KEY=a=b  ", "nonsense", "1X=2", "LD_PRELOAD=x", "LANG=C"]
    kept, refused = filter_file(lines)
    assert kept == (("EDITOR", "vim"), ("KEY", "a=b"), ("LANG", "C"))
    assert refused == ("", "1X", "LD_PRELOAD")


def test_the_users_file_is_read_to_its_thousandth_line() -> None:
    """config.md: at most 1000 lines."""
    kept, _ = filter_file([f"V{number}=x" for number in range(MAX_FILE_LINES + 5)])
    assert len(kept) == MAX_FILE_LINES


def test_the_users_file_must_be_a_regular_file(tmp_path: Path) -> None:
    """A pipe in its place neither blocks nor counts; no file is no error."""
    assert read_user_file(str(tmp_path)) == ()
    (tmp_path / ".tsh").mkdir()
    os.mkfifo(tmp_path / ".tsh" / "environment")
    assert read_user_file(str(tmp_path)) == ()
    (tmp_path / ".tsh" / "environment").unlink()
    (tmp_path / ".tsh" / "environment").write_text("A=1\nPATH=/tmp\n")
    assert read_user_file(str(tmp_path)) == (("A", "1"),)


def test_the_node_and_the_account_win() -> None:
    """Whatever a file or client says, identity and session come from the account and the node."""
    environment = build_environment(
        name="alice",
        home="/home/alice",
        shell="/bin/bash",
        path="/bin",
        client_env=[("LANG", "C"), ("TERM", "evil"), ("PATH", "/tmp")],
        session_env=[("SSH_TELEPORT_USER", "a@example.com"), ("LD_PRELOAD", "x"), ("SSH_CLIENT", "1\n2")],
        term="xterm-256color",
        tty="/dev/pts/7",
        file_env=[("HOME", "/"), ("EDITOR", "vim"), ("LANG", "de")],
    )
    assert environment == {
        "EDITOR": "vim",
        "LANG": "C",
        "USER": "alice",
        "LOGNAME": "alice",
        "HOME": "/home/alice",
        "SHELL": "/bin/bash",
        "PATH": "/bin",
        "SSH_TELEPORT_USER": "a@example.com",
        "SSH_TTY": "/dev/pts/7",
        "TERM": "xterm-256color",
    }


@pytest.mark.parametrize("term", ["", "a/b", "x\ny", "%n"])
def test_an_odd_terminal_type_becomes_xterm(term: str) -> None:
    """TERM names a file of the terminal library."""
    environment = build_environment(
        name="a", home="/", shell="/bin/sh", path="/bin", client_env=(), session_env=(), term=term, tty="/dev/pts/7"
    )
    assert environment["TERM"] == "xterm"


def test_search_paths_come_from_login_defs() -> None:
    """login.defs(5): ENV_PATH and ENV_SUPATH, each with or without 'PATH='."""
    assert login_paths("ENV_PATH\tPATH=/a:/b\n#ENV_PATH /x\nENV_SUPATH /s\n") == ("/a:/b", "/s")
    assert login_paths("") == (DEFAULT_PATH, DEFAULT_ROOT_PATH)
