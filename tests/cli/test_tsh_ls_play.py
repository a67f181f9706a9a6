"""`tsh ls`, `clusters` and `play`: what hosts and sessions say of themselves never drives the terminal (T44, T45)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence

import pytest
from tests.cli.tsh_runner import PROGRAM, Tsh
from tests.recording.recording_samples import SID, header

from teleport.recording.format import ChunkEncoder, Frame, FrameKind, encode_header, encode_size
from teleport.recording.sanitise import RESET_TERMINAL
from teleport.testing.terminal import Terminal
from teleport.testing.web_lab import WebLab

HOSTILE = "evil\x1b]52;c;cm0gLXJmIH4=\x07\x1b[2J\n\r\x9b31m\u202etxt\u200b"
NODES = [
    {
        "kind": "node",
        "metadata": {"name": "id-b", "labels": {"env": "prod", "team": "a,b", "zone": "x"}},
        "spec": {"hostname": "beta", "addr": "10.0.0.2:3022"},
    },
    {"kind": "node", "metadata": {"name": "id-a"}, "spec": {"hostname": "alpha", "use_tunnel": True}},
]


def harmless(text: str) -> bool:
    """Nothing but letters and line ends."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


# --- ls


def test_hosts_are_listed_by_name_two_labels_a_line(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.nodes[:] = NODES
    assert tsh("ls").stdout == (
        "Node Name Address       Labels\n"
        "--------- ------------- ------------------\n"
        "alpha     ⟵ Tunnel\n"
        "beta      10.0.0.2:3022 env=prod, team=a,b\n"
        "                        zone=x\n\n"
    )
    verbose = tsh("ls", "-v").stdout.splitlines()
    assert verbose[0].split() == ["Node", "Name", "Node", "ID", "Address", "Labels"]
    assert verbose[3].split(None, 3) == ["beta", "id-b", "10.0.0.2:3022", "env=prod, team=a,b, zone=x"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [("env=prod", "beta\n"), ('env=prod,team="a,b"', "beta\n"), ("env=test", ""), ("env=prod,zone=y", "")],
)
def test_all_labels_asked_for_must_match(tsh: Tsh, lab: WebLab, labels: str, names: str) -> None:
    lab.auth.nodes[:] = NODES
    assert tsh("ls", "--format=names", labels).stdout == names


def test_json_is_what_auth_sent(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.nodes[:] = NODES
    assert json.loads(tsh("ls", "--format=json").stdout) == [NODES[1], NODES[0]]


def test_a_hostile_hosts_words_are_shown_as_escapes_in_every_form(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.nodes[:] = [
        {
            "kind": "node",
            "metadata": {"name": HOSTILE, "labels": {HOSTILE: HOSTILE}},
            "spec": {"hostname": HOSTILE, "addr": HOSTILE},
        }
    ]
    for arguments in (["ls"], ["ls", "-v"], ["ls", "--format=names"], ["ls", "--format=json"]):
        shown = tsh(*arguments)
        assert harmless(shown.stdout), arguments
        assert "evil" in shown.stdout
    assert json.loads(tsh("ls", "--format=json").stdout)[0]["spec"]["hostname"] == HOSTILE
    assert len(tsh("ls", "--format=names").stdout.splitlines()) == 1, "one host, one line"


def test_a_cluster_that_is_not_there_is_said_so(tsh: Tsh) -> None:
    ran = tsh("ls", "--cluster=other")
    assert (ran.status, ran.stderr) == (3, "tsh: the cluster other is not known here\n  hint: tsh clusters\n")


def test_the_cluster_is_listed_as_online_and_selected(tsh: Tsh) -> None:
    assert tsh("clusters").stdout.splitlines()[2].split() == ["lab.test", "online", "root", "*"]
    assert tsh("clusters", "-q").stdout == "lab.test online\n"
    assert json.loads(tsh("clusters", "--format=json").stdout) == [
        {"cluster_name": "lab.test", "status": "online", "cluster_type": "root", "selected": True}
    ]


def test_lost_hosts_show_their_age_and_equal_names_their_ids(tsh: Tsh, lab: WebLab) -> None:
    lost = {"hostname": "web", "addr": "10.0.0.3:3022", "silent_for": "12m1s"}
    lab.auth.nodes[:] = [
        {"kind": "node", "metadata": {"name": "id-1"}, "spec": lost},
        {"kind": "node", "metadata": {"name": "id-2"}, "spec": {"hostname": "web", "addr": "10.0.0.4:3022"}},
        {"kind": "node", "metadata": {"name": "id-3"}, "spec": {"hostname": "db", "silent_for": HOSTILE}},
        {
            "kind": "node",
            "metadata": {"name": "id-4"},
            "spec": {"hostname": "far", "use_tunnel": True, "tunnel_lost_for": "12s"},
        },
    ]
    text = tsh("ls").stdout
    assert harmless(text)
    assert "web (id-1) 10.0.0.3:3022 (lost, silent for 12m1s)" in text
    assert "web (id-2) 10.0.0.4:3022\n" in text
    assert "(ended 12s ago, its proxies say)" in text
    assert tsh("ls", "--format=names").stdout.split() == ["db", "far", "id-1", "id-2"]
    assert json.loads(tsh("ls", "--format=json").stdout)[2]["spec"]["silent_for"] == "12m1s"


# --- play

ATTACKS = {
    "clipboard": b"\x1b]52;c;ZWNobw==\x07",
    "link": b"\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "title": b"\x1b]0;title\x07",
    "title report": b"\x1b[21t",
    "device attributes": b"\x1b[c\x1b[>c\x1b[=c",
    "status report": b"\x1b[6n\x1b[5n\x1b[?15n",
    "request of settings": b'\x1bP$q"p\x1b\\',
    "answerback": b"\x05",
    "eight bit": b"\xc2\x9b6n\xc2\x9d52;c;ZWNobw==\xc2\x9c",
    "long parameters": b"\x1b[" + b"1;" * 5000 + b"m",
    "mouse": b"\x1b[?1000h\x1b[?1006h",
    "paste": b"\x1b[?2004h",
    "bidi": "\u202eevil\u2066".encode(),
    "zero width": "a\u200bb".encode(),
    "printer": b"\x1b[5i",
    "unfinished": b"\x1b]52;c;AAAA",
}


def recording(*frames: tuple[int, FrameKind, bytes]) -> bytes:
    parts = [encode_header(header())]
    encoder = ChunkEncoder(parts[0][-32:])
    parts += encoder.encode([Frame(time, kind, payload) for time, kind, payload in frames])
    parts += encoder.end("ended", time=encoder.end_time)[0]
    return b"".join(parts)


def attack() -> bytes:
    out = FrameKind.OUTPUT
    steps = [(number, out, b"[" + payload + b"]") for number, payload in enumerate(ATTACKS.values())]
    return recording(*steps, (100, out, b"\r\n\x1b[31mred\x1b[0m end\r\n"))


FORBIDDEN: Sequence[bytes] = [
    b"\x1b]", b"\x1bP", b"\x1b[c", b"\x1b[>", b"\x1b[=", b"6n", b"5n", b"\x05", b"21t", b"\xc2\x9b", b"?1000", b"?2004",
    b"\xe2\x80\xae", b"\xe2\x80\x8b", b"1;1;1;1",
]  # fmt: skip


def test_a_recording_from_auth_or_a_file_never_drives_the_viewers_terminal(tsh: Tsh, lab: WebLab) -> None:
    data = attack()
    lab.auth.recordings[SID] = data
    (tsh.folder / "session.rec").write_bytes(data)
    for source in (SID, "session.rec"):
        shown = tsh("play", source).stdout.encode()
        assert b"\x1b[31mred\x1b[0m" in shown, "colours pass"
        assert not [found for found in FORBIDDEN if found in shown]


@pytest.mark.parametrize("form", ["text", "json", "cast"])
def test_every_other_form_prints_nothing_that_drives_a_terminal(tsh: Tsh, form: str) -> None:
    (tsh.folder / "session.rec").write_bytes(attack())
    ran = tsh("play", "session.rec", f"--format={form}")
    assert ran.status == 0
    assert harmless(ran.stdout.replace("\t", ""))
    assert "end" in ran.stdout


def test_at_a_terminal_space_holds_it_and_q_ends_it(tsh: Tsh) -> None:
    """The pause in the recording is an hour long: only keys end the wait."""
    out = FrameKind.OUTPUT
    (tsh.folder / "long.rec").write_bytes(recording((0, out, b"first"), (3_600_000_000, out, b"second")))
    with Terminal([*PROGRAM, "play", str(tsh.folder / "long.rec")], tsh.environment()) as terminal:
        terminal.expect("first")
        terminal.type(" +q")
        assert terminal.ended() == 0
    assert b"second" not in terminal.shown
    assert terminal.shown.rstrip().endswith(b"\x1b[999H"), "the terminal is put back in order"


def test_at_a_terminal_nothing_of_the_attacks_arrives(tsh: Tsh) -> None:
    """Drawn from a model of the screen: the sequences that arrive are the player's own."""
    (tsh.folder / "attack.rec").write_bytes(attack())
    with Terminal([*PROGRAM, "play", str(tsh.folder / "attack.rec")], tsh.environment()) as terminal:
        terminal.expect("red")
        assert terminal.ended() == 0
    shown = terminal.shown.replace(RESET_TERMINAL, b"")
    assert not [found for found in FORBIDDEN if found in shown]
    assert set(re.findall(rb"\x1b\[[0-9;?]*([^0-9;?])", shown)) <= {b"m", b"H", b"K", b"h", b"l"}
    assert set(re.findall(rb"\x1b\[([?0-9]*)[hl]", shown)) <= {b"?25"}
    assert not re.search(rb"\x1b[^\[]", shown)


def test_at_a_terminal_one_searches_goes_to_a_time_and_back(tsh: Tsh) -> None:
    """Hours of pauses; nobody waits for them."""
    out = FrameKind.OUTPUT
    hour = 3_600_000_000
    steps = [
        (number * hour, out, f"\x1b[2J\x1b[Hpage-{number}\x1b[31m colou\x1b[32mred".encode()) for number in range(5)
    ]
    (tsh.folder / "hours.rec").write_bytes(recording(*steps))
    with Terminal([*PROGRAM, "play", str(tsh.folder / "hours.rec")], tsh.environment()) as terminal:
        terminal.expect("page-0")
        terminal.type("/PAGE-3 coloured\r")
        terminal.expect("3:00:00  page-3 coloured")
        terminal.type("g1:00:01\r")
        terminal.expect("page-1")
        terminal.type("\x1b[D")
        terminal.expect("0:59:56.*page-0|page-0.*59:56")
        terminal.type("/nowhere\r")
        terminal.expect("not found: nowhere")
        terminal.type("G")
        terminal.expect("4:00:00  the end")
        terminal.type("q")
        assert terminal.ended() == 0
    assert terminal.shown.rstrip().endswith(b"\x1b[999H")


def test_pauses_are_skipped_where_that_is_asked(tsh: Tsh) -> None:
    out = FrameKind.OUTPUT
    (tsh.folder / "idle.rec").write_bytes(recording((0, out, b"first"), (3_600_000_000, out, b"second")))
    command = [*PROGRAM, "play", "--skip-idle-time", "--speed=100", str(tsh.folder / "idle.rec")]
    with Terminal(command, tsh.environment()) as terminal:
        terminal.expect("second")
        assert terminal.ended() == 0


def test_a_torn_recording_plays_up_to_the_break_and_says_so(tsh: Tsh) -> None:
    parts = [encode_header(header())]
    encoder = ChunkEncoder(parts[0][-32:])
    for text in (b"one ", b"two "):
        parts += encoder.encode([Frame(0, FrameKind.OUTPUT, text)])
    (tsh.folder / "torn.rec").write_bytes(b"".join(parts)[:-7])
    ran = tsh("play", "torn.rec")
    assert ran.status != 0
    assert "one" in ran.stdout
    assert ran.stderr.startswith("tsh: ")


def test_a_reader_that_leaves_is_no_fault_of_the_recording(tsh: Tsh) -> None:
    frames = [(0, FrameKind.OUTPUT, b"x" * 9000)] * 100
    (tsh.folder / "long.rec").write_bytes(recording(*frames))
    command = f"{' '.join(map(repr, PROGRAM))} play long.rec | head -c 1"
    ran = subprocess.run(["sh", "-c", command], env=tsh.environment(), cwd=tsh.folder, capture_output=True, check=False)
    assert (ran.stdout, ran.stderr) == (b"x", b"")


def test_what_is_no_session_is_said_so(tsh: Tsh) -> None:
    assert tsh("play", "nothing").status == 3
    assert tsh("play", "7a3c6d4e-0000-4000-8000-000000000000").status == 3
    (tsh.folder / "odd").write_bytes(b"\x1b[2Jnot a recording")
    odd = tsh("play", "odd")
    assert odd.status == 2
    assert harmless(odd.stderr)


def test_resizes_are_part_of_a_recording_that_plays(tsh: Tsh) -> None:
    out, size = FrameKind.OUTPUT, FrameKind.RESIZE
    (tsh.folder / "sizes.rec").write_bytes(recording((0, out, b"a"), (1, size, encode_size(10, 5)), (2, out, b"b")))
    assert tsh("play", "sizes.rec").stdout.startswith("ab")
