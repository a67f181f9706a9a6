"""Commands that are printed for copying: whatever names hold, a shell takes each as one word (threat T16)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.api import messages as m
from teleport.api.join_steps import for_host
from teleport.cli.tsh.accept import login_command
from teleport.client.accept import InvitationLink
from teleport.client.profile import Profile
from teleport.daemon.welcome import Welcome, welcome_text

HOSTILE = ["$(touch owned)", "a;touch owned", "a`touch owned`", "a'b", 'a"b', "a&touch owned", "a|b", "~root"]
HOSTILE += ["a>owned", "a\\", "[::1]", "a?b", "a<b", "#a", "!a", "a\nb", "$HOME", "${IFS}", "a b"]
PINS = ("sha256:" + "0" * 64,)
HEAD = """
tsh() { printf '%s\\0' "$@"; }
teleport() { printf '%s\\0' "$@"; }
"""


def words(command: str, folder: Path) -> list[str]:
    """What the shell makes of a printed command, whose program only prints its arguments."""
    shell = ["sh", "-c", HEAD + command]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=10, check=True, env={"HOME": "/"})
    assert not done.stderr, done.stderr
    assert list(folder.iterdir()) == [], "something ran"
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_login_that_accept_prints_is_of_one_user(name: str, tmp_path: Path) -> None:
    link = InvitationLink("::1", 3080, "t" * 16)
    flags = words(login_command(link, name, PINS), tmp_path)
    shown = name.replace("\n", "\\n")  # controls are shown, never sent to a terminal
    assert flags == ["login", "--proxy=[::1]:3080", f"--user={shown}", f"--ca-pin={PINS[0]}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_the_login_of_a_profile_is_of_one_user(name: str, tmp_path: Path) -> None:
    profile = Profile("::1", "[::1]:3080", "[::1]:3023", name, "main", "main")
    assert words(profile.login_command, tmp_path) == ["login", "--proxy=[::1]:3080", f"--user={name}"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text("""abc $`\\"';&|<>()[]{}*?~#!\n""", min_size=1, max_size=20))
def test_the_instructions_for_a_new_host_run_nothing_of_the_token_s(token: str) -> None:
    """The token may be one of somebody's own choice, and the file's name too."""
    import shlex
    import tempfile

    made = m.JoinToken(
        token=token,
        id="1",
        roles=["node"],
        expires=datetime(2030, 1, 1, tzinfo=UTC),
        ca_pins=list(PINS),
        auth_servers=["[::1]:3025"],
    )
    with tempfile.TemporaryDirectory() as folder:
        for out in ("", token):
            text = for_host(made, out, [])
            command = (
                text[text.index("teleport start") :].rpartition("\n\nThat address")[0]
                or text[text.index("teleport start") :]
            )
            found = words(command, Path(folder))
            assert found[0] == "start"
            assert "--auth-server=[::1]:3025" in found
            if out:
                assert f"--token={out}" in found
            else:
                line = next(part for part in text.split("    ") if part.startswith("(umask"))
                written = line.partition(" > ")[0].removeprefix("(umask 077 && ")
                assert shlex.split(written)[2] == token


@pytest.mark.parametrize("login", HOSTILE)
def test_what_a_first_start_prints_is_of_one_account(login: str, tmp_path: Path) -> None:
    facts = Welcome("main", "alpha", ("auth",), PINS, "[::1]:3080", has_users=False)
    text = welcome_text(facts, tctl="tctl", tsh="tsh", login=login)
    seen: Mapping[str, str] = {
        "--proxy=": f"--user={login}",
        "tsh ssh": f"{login}@alpha",
    }
    for marker, wanted in seen.items():
        lines = text.split("     ")
        command = next(line for line in lines if line.startswith("tsh") and marker in line)
        assert wanted in words(command.rstrip().rpartition("\n4.")[0] or command.rstrip(), tmp_path)
