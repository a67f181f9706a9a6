"""Durations, addresses, booleans and label forms: what is taken, what is refused, and how they print."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.resources.values import CommandLabel, Duration, HostPort, Labels, parse_boolean, parse_labels


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [
        ("0", 0, "0s"),
        ("5s", 5, "5s"),
        ("300ms", 0.3, "300ms"),
        ("1h30m", 5400, "1h30m0s"),
        ("2.5h", 9000, "2h30m0s"),
        (".5s", 0.5, "500ms"),
        ("1.s", 1, "1s"),
        ("1m1.25s", 61.25, "1m1.25s"),
        ("1.5us", 0.0000015, "1.5µs"),
        ("7ns", 7e-9, "7ns"),
        ("30h", 108000, "30h0m0s"),
        ("+1m", 60, "1m0s"),
    ],
)
def test_a_duration_is_read_and_printed_as_go_does(text: str, seconds: float, printed: str) -> None:
    duration = Duration.parse(text)
    assert duration.seconds == pytest.approx(seconds)
    assert str(duration) == printed
    assert Duration.parse(printed) == duration


@pytest.mark.parametrize(
    "text",
    ["", "5", "5 s", "s", ".s", "-5s", "1d", "1h 30m", "never", "\u0663s", "1e3s", "+", "99999999h", "1.2.3s", "--1s"],
)
def test_other_forms_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        Duration.parse(text)


def test_never_and_a_minus_are_taken_only_where_asked_for() -> None:
    assert Duration.parse("Never", never=True) == Duration(0)
    assert not Duration.parse("never", never=True)
    assert Duration.parse("-24h", negative=True).timedelta == timedelta(hours=-24)
    assert str(Duration.parse("-24h", negative=True)) == "-24h0m0s"


@given(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1))
def test_every_duration_survives_printing(nanoseconds: int) -> None:
    assert Duration.parse(str(Duration(nanoseconds)), negative=True).nanoseconds == nanoseconds


@pytest.mark.parametrize(
    ("text", "host", "port", "printed"),
    [
        ("example.com", "example.com", 3025, "example.com:3025"),
        ("example.com:0", "example.com", 0, "example.com:0"),
        ("tcp://10.0.0.1:22", "10.0.0.1", 22, "10.0.0.1:22"),
        ("[::1]", "::1", 3025, "[::1]:3025"),
        ("[2001:DB8::1]:65535", "2001:db8::1", 65535, "[2001:db8::1]:65535"),
        ("node_1", "node_1", 3025, "node_1:3025"),
    ],
)
def test_an_address_gets_the_default_port(text: str, host: str, port: int, printed: str) -> None:
    address = HostPort.parse(text, 3025)
    assert (address.host, address.port, str(address)) == (host, port, printed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":3025",
        "a:",
        "a:b",
        "a:65536",
        "a:-1",
        "a:\uff11",
        "::1",
        "[::1",
        "[]:1",
        "[::1]x",
        "[::1]:",
        "[example.com]:1",
        "http://a:1",
        "a b:1",
        "1.2.3",
        "1.2.3.400",
        "-a",
        "a..b",
        "a/b",
        "a\n",
        "x" * 64 + ".example.com" * 30,
    ],
)
def test_other_forms_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        HostPort.parse(text, 3025)


def test_a_port_is_needed_without_a_default_and_an_empty_host_only_means_any_for_listeners() -> None:
    with pytest.raises(ValueError, match="port is missing"):
        HostPort.parse("a")
    assert HostPort.parse(":3000", any_host="0.0.0.0") == HostPort("0.0.0.0", 3000)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (Duration.parse, HostPort.parse, parse_boolean, parse_labels):
        try:
            parse(text)
        except ValueError:
            continue


@pytest.mark.parametrize("text", ["yes", "TRUE", "On", "1", "y"])
def test_words_for_true(text: str) -> None:
    assert parse_boolean(text) is True


@pytest.mark.parametrize("text", ["no", "False", "OFF", "0", "N"])
def test_words_for_false(text: str) -> None:
    assert parse_boolean(text) is False


@pytest.mark.parametrize("text", ["", "nonsense", "2", "yes please"])
def test_other_words_are_no_booleans(text: str) -> None:
    with pytest.raises(ValueError, match="not yes, no"):
        parse_boolean(text)


def test_labels_of_the_flag_are_fixed_values_and_commands() -> None:
    labels = parse_labels('env=prod, arch=[1h:"uname -m, -p"],quoted="a,b",load=[1m:/bin/sh -c "uptime | cut -c1"]')
    assert labels == Labels(
        {"env": "prod", "quoted": "a,b"},
        (
            CommandLabel("arch", ("uname", "-m,", "-p"), Duration.parse("1h")),
            CommandLabel("load", ("/bin/sh", "-c", "uptime | cut -c1"), Duration.parse("1m")),
        ),
    )
    assert parse_labels("  ") == Labels()
    assert parse_labels("empty=").static == {"empty": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env", "key=value"),
        ("env=a,,b=c", "key=value"),
        ("a b=c", "label key"),
        ("*=x", "label key"),
        ("env=a,env=b", "twice"),
        ("a=[1m:x],a=b", "twice"),
        ("a=[x]", "form"),
        ("a=[5:x]", "duration"),
        ("a=[1s:x]", "1m or longer"),
        ("a=[1m:]", "command is missing"),
        ("a=[1m:x", "not closed"),
        ('a="x', "not closed"),
        ("a=[1m:x]y", "form"),
    ],
)
def test_a_bad_label_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_labels(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("[::1]:22", "::1"),
        ("[0:0:0:0:0:0:0:1]:22", "::1"),
        ("[2001:DB8::A]:22", "2001:db8::a"),
        ("[::ffff:10.0.0.1]:22", "10.0.0.1"),
        ("[::]:22", "::"),
        ("[fe80::1]:22", "fe80::1"),
    ],
)
def test_ipv6_addresses_have_one_spelling(text: str, host: str) -> None:
    found = HostPort.parse(text)
    assert found == HostPort(host, 22)
    assert HostPort.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["[fe80::1%eth0]:22", "[::1%]:22", "::1", "[::1", "[127.0.0.1]:22", "[]:22", "[:::1]:22"]
)
def test_zones_and_unbracketed_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        HostPort.parse(text)
