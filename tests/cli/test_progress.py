"""Progress is for a person at a terminal: it shows on stderr while something takes long, and is gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

from teleport.testing.terminal import Terminal

WAITS = """
import sys
from teleport.cli.progress import progress
with progress("digging", "stones", after=float(sys.argv[1])) as so_far:
    so_far(7)
    sys.stdin.readline()
print("done")
"""


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **more}


def test_a_person_sees_what_is_going_on_and_then_only_the_result() -> None:
    with Terminal([sys.executable, "-c", WAITS, "0"], environment(TERM="xterm")) as terminal:
        terminal.expect("digging: 7 stones [0-9]+ s")
        terminal.type("\n")
        terminal.expect("\r\x1b\\[K.*done")
        assert terminal.ended() == 0


def test_of_bytes_the_part_that_is_done_is_shown_where_the_whole_is_known() -> None:
    script = WAITS.replace('"stones"', '"bytes"').replace("[1]))", "[1]), total=10**7)").replace("(7)", "(2_500_000)")
    with Terminal([sys.executable, "-c", script, "0"], environment(TERM="xterm")) as terminal:
        terminal.expect("digging: 25% of 10.0 MB, [0-9.]+ MB/s, [0-9]+ s")
        terminal.type("\n")
        assert terminal.ended() == 0


def test_what_is_over_soon_shows_nothing() -> None:
    with Terminal([sys.executable, "-c", WAITS, "3600"], environment(TERM="xterm")) as terminal:
        terminal.type("\n")
        assert terminal.ended() == 0
        assert b"digging" not in terminal.shown
        assert b"\x1b" not in terminal.shown


def test_scripts_and_plain_terminals_see_nothing() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WAITS, "0"], env=environment(TERM="xterm"), input=b"\n", capture_output=True, check=True
    )
    assert (ran.stdout, ran.stderr) == (b"done\n", b"")
    with Terminal([sys.executable, "-c", WAITS, "0"], environment(TERM="dumb")) as terminal:
        terminal.type("\n")
        assert terminal.ended() == 0
        assert b"digging" not in terminal.shown
