"""Events as values and lines: names, codes, documentation, hostile text (threats T45)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.audit import catalog
from teleport.audit.codes import CODES
from teleport.audit.events import (
    MAX_LINE,
    REGISTRY,
    Actor,
    Exec,
    Port,
    ServerEvent,
    SessionStart,
    Subsystem,
    TokenCreate,
    UnknownEvent,
    UserCreate,
    UserLogin,
    encode_event,
    event_name,
    is_canonical,
    new_event,
)
from teleport.audit.events.base import Event
from teleport.errors import BadRequest

NOW = datetime(2021, 5, 1, 10, 0, tzinfo=UTC)
ROOT = Path(__file__).parent.parent.parent

# Names and codes as `reference/audit-events.md` 3 lists them, for the operations that exist.
REFERENCE = {
    "user.login": ("T1000I", "T1000W"),
    "user.create": ("T1002I",),
    "user.update": ("T1003I",),
    "user.delete": ("T1004I",),
    "user.password_change": ("T1005I",),
    "mfa.add": ("T1006I",),
    "mfa.delete": ("T1007I",),
    "session.rejected": ("T1006W",),
    "session.start": ("T2000I",),
    "session.join": ("T2001I",),
    "resize": ("T2002I",),
    "session.leave": ("T2003I",),
    "session.end": ("T2004I",),
    "session.upload": ("T2005I",),
    "session_recording.access": ("T2012I",),
    "session.data": ("T2006I",),
    "subsystem": ("T3001I", "T3001E"),
    "exec": ("T3002I", "T3002E"),
    "scp": ("T3005I", "T3005E"),
    "port": ("T3003I", "T3003E"),
    "x11-forward": ("T3008I", "T3008W"),
    "client.disconnect": ("T3006I",),
    "auth": ("T3007W",),
    "kube.request": ("T3009I",),
    "session.command": ("T4000I",),
    "session.disk": ("T4001I",),
    "session.network": ("T4002I",),
    "reset_password_token.create": ("T6000I",),
    "trusted_cluster.create": ("T7000I",),
    "trusted_cluster.delete": ("T7001I",),
    "trusted_cluster_token.create": ("T7002I",),
    "role.created": ("T9000I",),
    "role.deleted": ("T9001I",),
    "lock.created": ("TLK00I",),
    "lock.deleted": ("TLK01I",),
}


def test_codes_are_those_of_the_reference_and_ours_begin_at_t9010() -> None:
    """Readers outside match on codes."""
    for name, row in CODES.items():
        codes = tuple(dict.fromkeys((row.ok, row.failed)))
        if name in REFERENCE:
            assert codes == REFERENCE[name], name
        else:
            assert all(re.fullmatch(r"T9(0[1-9]|[1-9]\d)\d[IWE]", code) for code in codes), name
    assert set(REFERENCE) <= set(CODES)
    every = [code for row in CODES.values() for code in {row.ok, row.failed}]
    assert len(every) == len(set(every))


def test_every_code_has_a_class_and_every_class_a_code() -> None:
    """An event without a row would have no code; a row without a class could not be written."""
    assert set(REGISTRY.by_name) == set(CODES)


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_event_can_be_made_with_its_common_fields_alone(name: str) -> None:
    """All else has a default, so that old lines stay readable when fields are added."""
    event = new_event(REGISTRY.by_name[name], NOW, "u1")
    line = encode_event(event)
    assert json.loads(line)["event"] == name
    assert event.code in (CODES[name].ok, CODES[name].failed)
    assert REGISTRY.decode(line) == event
    assert is_canonical(line)


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_field_says_what_it_means(name: str) -> None:
    """The comment on the field's line is its documentation."""
    cls: type[msgspec.Struct] = REGISTRY.by_name[name]
    while cls is not msgspec.Struct:
        assert all(catalog.field_docs(cls).values()), cls
        cls = cls.__mro__[1]


def test_the_page_of_events_is_made_from_the_code() -> None:
    """`python -m teleport.audit.catalog > docs/audit-events.md` brings it up to date."""
    assert (ROOT / "docs" / "audit-events.md").read_text() == catalog.render()


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (UserLogin(time=NOW, uid="u"), "T1000I"),
        (UserLogin(time=NOW, uid="u", success=False, error="bad password"), "T1000W"),
        (Exec(time=NOW, uid="u", exit_code="0"), "T3002I"),
        (Exec(time=NOW, uid="u", exit_code="3"), "T3002E"),
        (Exec(time=NOW, uid="u", exit_error="killed by TERM"), "T3002E"),
        (Subsystem(time=NOW, uid="u", exit_error="refused"), "T3001E"),
        (Port(time=NOW, uid="u", success=False), "T3003E"),
    ],
    ids=lambda value: value if isinstance(value, str) else event_name(value),
)
def test_the_outcome_chooses_the_code(event: Event, code: str) -> None:
    """Failure has a code of its own where the reference has one."""
    assert event.code == code


def test_connection_fields_have_the_names_of_the_reference() -> None:
    """`addr.local`, `addr.remote`, `exitCode` are what readers outside look for."""
    event = Exec(time=NOW, uid="u", addr_local="a:1", addr_remote="b:2", exit_code="0")
    found = json.loads(encode_event(event))
    assert (found["addr.local"], found["addr.remote"], found["exitCode"]) == ("a:1", "b:2", "0")


def test_a_local_administrator_is_named_by_the_unix_side() -> None:
    """`reference/ours.md`: local tctl is audited with Unix user, login uid and terminal; absent for anybody else."""
    actor = Actor(unix_user="root", login_uid=1000, terminal="/dev/pts/1")
    found = json.loads(encode_event(UserCreate(time=NOW, uid="u", name="ann", actor=actor)))
    assert found["actor"] == {"unix_user": "root", "login_uid": 1000, "terminal": "/dev/pts/1"}
    assert "actor" not in json.loads(encode_event(UserCreate(time=NOW, uid="u", name="ann")))


def test_unknown_fields_and_unknown_events_are_read() -> None:
    """Formats only grow: an older reader meets a newer writer."""
    line = b'{"event":"user.login","code":"T1000I","time":"2021-05-01T10:00:00Z","uid":"u","user":"ann","later":[1]}'
    event = REGISTRY.decode(line)
    assert isinstance(event, UserLogin)
    assert event.user == "ann"
    unknown = REGISTRY.decode(b'{"event":"moon.rise","code":"T9999I","time":"2021-05-01T10:00:00Z","uid":"u","x":1}')
    assert isinstance(unknown, UnknownEvent)
    assert (unknown.name, unknown.code, unknown.fields["x"]) == ("moon.rise", "T9999I", 1)


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"event":1}', b'{"event":"user.login","uid":3}', b"\xff{}"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    """With one kind of error."""
    with pytest.raises(BadRequest):
        REGISTRY.decode(line)


HOSTILE = {
    "newline": "a\nb\r\nc",
    "breaks json": '","event":"user.delete","x":"\\',
    "ansi": "\x1b[2J\x1b]52;c;AAAA\x07",
    "c1": "a\x9b31m\x85b",
    "line separators": "a\u2028b\u2029c",
    "direction marks": "\u202etxt.exe\u2066",
    "zero width": "a\u200bdmin\ufeff",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "not utf-8": b"caf\xe9 \xff\xfe".decode("utf-8", "surrogateescape"),
    "lone surrogate": "\ud800x",
    "tags": "\U000e0041",
    "1 MB": "x" * 1_000_000,
    "1 MB of controls": "\0" * 1_000_000,
    "1 MB of escapes": "\u2028" * 1_000_000,
}


def hostile_events(text: str) -> list[Event]:
    return [
        UserLogin(time=NOW, uid="u", user=text, user_agent=text, error=text, success=False),
        Exec(time=NOW, uid="u", command=text, login=text, server_hostname=text, server_labels={text: text}),
        SessionStart(time=NOW, uid="u", initial_command=[text] * 5, addr_remote=text),
        TokenCreate(time=NOW, uid="u", name=text, system_roles=[text]),
    ]


def assert_one_safe_line(event: Event) -> None:
    line = encode_event(event)
    text = line.decode()
    assert text.isprintable(), "a control character would reach a terminal"
    assert len(text.splitlines()) == 1
    assert len(line) <= MAX_LINE
    assert is_canonical(line)
    found = json.loads(line)
    plain = json.loads(encode_event(type(event)(time=NOW, uid="u")))
    assert found["event"] == plain["event"]
    for name, value in plain.items():
        assert type(found[name]) is type(value), f"{name} changed its type"
    assert type(REGISTRY.decode(line)) is type(event)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_one_line_with_the_same_types(text: str) -> None:
    """T45: names, commands, labels and addresses come from the other side."""
    for event in hostile_events(text):
        assert_one_safe_line(event)


@given(
    st.text(alphabet=st.characters(exclude_categories=()))
    | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape"))
)
@settings(max_examples=200, deadline=None)
def test_any_text_stays_one_line(text: str) -> None:
    """The same for whatever can be a Python text, surrogates included."""
    for event in hostile_events(text):
        assert_one_safe_line(event)


def test_what_was_cut_says_how_long_it_was() -> None:
    """A reader must see that something is missing."""
    event = REGISTRY.decode(encode_event(Exec(time=NOW, uid="u", command="y" * 1_000_000)))
    assert isinstance(event, Exec)
    assert event.command.startswith("yyyy")
    assert event.command.endswith(" [cut: 1000000 characters]")
    labels = {f"k{n}": "v" for n in range(5000)}
    many = REGISTRY.decode(encode_event(Exec(time=NOW, uid="u", server_labels=labels)))
    assert isinstance(many, ServerEvent)
    assert many.server_labels["[cut]"] == "5000 entries"


def test_bytes_that_are_not_utf8_can_still_be_told() -> None:
    """They read as \\xNN."""
    event = REGISTRY.decode(
        encode_event(Exec(time=NOW, uid="u", command=b"caf\xe9".decode("utf-8", "surrogateescape")))
    )
    assert isinstance(event, Exec)
    assert event.command == "caf\\xe9"


def test_ordinary_names_of_any_language_stay_readable() -> None:
    """Only what cannot be printed is escaped."""
    assert "Zoë 山田".encode() in encode_event(UserLogin(time=NOW, uid="u", user="Zoë 山田"))


def test_a_value_of_another_type_is_refused() -> None:
    """SIEM field types are stable: a wrong one is our mistake and must not reach the log."""
    wrong: dict[str, object] = {"user": 5}
    with pytest.raises(BadRequest, match="wrong type"):
        encode_event(new_event(UserLogin, NOW, "u", **wrong))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b'{"a":"\\u0041"}',
        b'{"a":"\x7f"}',
        b'{"a":"\xc2\x85"}',
        b'{"a":"\xe2\x80\xa8"}',
        b'{"a":1}\n',
        b"[]",
    ],
)
def test_lines_that_no_event_is_written_as_are_told_apart(body: bytes) -> None:
    """Doubled keys, spaces and raw controls mean that somebody else made the line."""
    assert not is_canonical(body)
    assert is_canonical(b'{"a":"\\u2028","b":[1,2.5,null],"c":"\xc3\xa9"}')
