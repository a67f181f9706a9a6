"""`-o`: what is known does something, what always holds takes its one value, others are an error with the list."""

from __future__ import annotations

import pytest

from teleport.client.many import Host, LineBuffer, Outcome, for_terminal, prefixes
from teleport.client.ssh_options import KNOWN, SshOptions
from teleport.errors import BadRequest
from teleport.wire.forward_spec import Direction, Forward, TcpEnd


def said(*options: str) -> SshOptions:
    found = SshOptions()
    for option in options:
        found.apply(option)
    return found


def test_each_option_is_read_in_both_forms_and_any_case() -> None:
    assert said("Port=2022").port == said("port 2022").port == said("PORT = 2022".replace(" ", "")).port == 2022
    assert said("RequestTTY=force").tty == "force"
    assert (said("ForwardAgent=yes").agent, said("ForwardAgent no").agent) == (True, False)
    assert said("ServerAliveInterval=30s").alive_seconds == 30.0
    assert said("EscapeChar=none").escape is None
    assert said("SessionType=none").no_command
    assert said("LogLevel=QUIET").quiet
    assert said("User=ann").user == "ann"


def test_forwards_are_read_as_in_a_file() -> None:
    forwards = said("LocalForward=8080 web:80", "DynamicForward 1080").forwards
    assert forwards == [
        Forward(Direction.LOCAL, TcpEnd("localhost", 8080), TcpEnd("web", 80)),
        Forward(Direction.DYNAMIC, TcpEnd("localhost", 1080)),
    ]


def test_the_first_value_counts() -> None:
    assert said("Port=1", "Port=2").port == 1
    assert said("SetEnv=A=1", "SetEnv=A=2 B=3").environment == {"A": "1", "B": "3"}


def test_which_variables_are_sent() -> None:
    present = {"LANG": "C", "LC_ALL": "C", "SECRET": "x", "EDITOR": "vi", "EDITING": "y"}
    assert said().variables(present) == {"LANG": "C", "LC_ALL": "C"}
    assert said("SendEnv=EDIT*", "SetEnv=EDITOR=ed").variables(present) == {
        "LANG": "C", "LC_ALL": "C", "EDITOR": "ed", "EDITING": "y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("StrictHostKeyChecking=no", "hosts always prove who they are"),
        ("StrictHostKeyChecking=accept-new", "hosts always prove who they are"),
        ("Compression=yes", "do not compress"),
        ("ControlMaster=auto", "plain ssh"),
        ("PasswordAuthentication=yes", "a certificate is the only way in"),
    ],
)
def test_what_always_holds_takes_its_one_value(option: str, why: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(BadRequest, match=why):
        said(option)
    said(f"{name}={'yes' if name.startswith('Strict') else 'no'}")


@pytest.mark.parametrize(
    "option",
    ["ProxyCommand=x", "UserKnownHostsFile=/dev/null", "Port=0", "Port=x", "RequestTTY=maybe", "ForwardAgent=perhaps",
     "SetEnv=1A=x", "SetEnv=A", "SendEnv=$(x)", "Port", "=x", "", "EscapeChar=abc", "LocalForward=x",
     "ServerAliveInterval=-1", "ConnectTimeout=0"],
)  # fmt: skip
def test_what_is_no_option_is_an_error_with_a_next_step(option: str) -> None:
    with pytest.raises(BadRequest) as caught:
        said(option)
    assert caught.value.hint


def test_the_list_names_every_option() -> None:
    with pytest.raises(BadRequest) as caught:
        said("Nonsense=1")
    assert all(name in caught.value.hint for name in KNOWN)


# --- lines of many hosts


def test_prefixes_are_aligned_and_coloured_when_asked() -> None:
    hosts = [Host("a", "a"), Host("longer", "longer"), Host("evil\x1b[2J", "x")]
    plain = prefixes(hosts, colours=False)
    assert plain[hosts[0]] == b"a               | "
    assert len(set(map(len, plain.values()))) == 1
    assert b"\x1b" not in plain[hosts[2]]
    coloured = prefixes(hosts, colours=True)
    assert coloured[hosts[0]].startswith(b"\x1b[36ma ")
    assert coloured[hosts[0]] != coloured[hosts[1]]


def test_lines_are_cut_whatever_the_pieces() -> None:
    shown: list[bytes] = []
    lines = LineBuffer(shown.append)
    for piece in (b"on", b"e\r\ntw", b"o\n\nthree"):
        lines.feed(piece)
    lines.finish()
    lines.finish()
    assert shown == [b"one", b"two", b"", b"three"]


def test_a_line_without_an_end_does_not_grow_for_ever() -> None:
    shown: list[bytes] = []
    LineBuffer(shown.append).feed(b"x" * 200_000)
    assert len(shown) == 3


def test_a_host_cannot_write_in_another_one_s_name() -> None:
    """Threats T44 and T45: what moves the cursor is made visible; colours stay and end with the line."""
    assert for_terminal(b"\rweb2 | owned") == b"\\rweb2 | owned"
    assert for_terminal(b"\x1b[1A\x1b[2Kx") == b"<U+001B>[1A<U+001B>[2Kx"
    assert for_terminal(b"\x1b[31mred") == b"\x1b[31mred\x1b[0m"
    assert b"\x07" not in for_terminal(b"\x1b]52;c;AAAA\x07")


def test_outcomes_are_said_in_a_word() -> None:
    assert (str(Outcome(3)), Outcome(3).code, Outcome(0).good) == ("exit 3", 3, True)
    assert (str(Outcome(problem="gone")), Outcome(problem="gone").code) == ("gone", 255)
