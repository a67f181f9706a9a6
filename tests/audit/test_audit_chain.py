"""The chain alone: values in, values out."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from teleport.audit.chain import ChainKey, ChainState, CheckpointRef, Linked, link, mark_received, mark_supplement
from teleport.audit.events import REGISTRY, UserDelete
from teleport.clock import rfc3339
from teleport.errors import BadRequest

NOW = datetime(2021, 5, 1, 10, 0, tzinfo=UTC)
KEY = ChainKey("host-1", 7)

# Written by version 1 of the format. It must be read and proved for ever.
VECTOR = (
    b'{"event":"user.delete","code":"T1004I","time":"2021-05-01T10:00:00Z","uid":"u1","ei":0,"cluster_name":"c1",'
    b'"emitter":"host-1","epoch":7,"seq":1,"prev":"","checkpoint":"","user":"ann","login":"","impersonator":"",'
    b'"name":"bob","updated_by":"","ttl":"","hash":"@"}'
)


def test_a_line_of_the_first_version_is_still_proved() -> None:
    """Formats only grow."""
    digest = "56c0b0cb2519493a1fcb2bcbaa1c5c2013935697a2d341a988f00235ebf1b6f0"
    line = VECTOR.replace(b"@", digest.encode())
    linked = Linked.parse(line)
    assert (linked.key, linked.seq, linked.event, linked.intact) == (KEY, 1, "user.delete", True)
    event = UserDelete(time=NOW, uid="u1", cluster_name="c1", user="ann", name="bob")
    assert ChainState(KEY).append(event)[0] == line


def test_each_event_carries_the_hash_of_the_one_before() -> None:
    """And the state after it is what the next one needs."""
    state, prev = ChainState(KEY), ""
    for number in range(1, 5):
        line, state = state.append(UserDelete(time=NOW, uid=f"u{number}", name="bob"), checkpoint="")
        linked = Linked.parse(line)
        assert (linked.seq, linked.prev, linked.intact) == (number, prev, True)
        event = REGISTRY.decode(line)
        assert event.hash == linked.computed == state.hash == link(prev, event)
        prev = state.hash


def test_any_flipped_bit_of_a_line_is_noticed() -> None:
    """Bit by bit: either the line no longer has the form of one, or its hash does not fit."""
    line, _ = ChainState(KEY).append(UserDelete(time=NOW, uid="u1", name="bob"))
    for at in range(len(line) * 8):
        broken = bytearray(line)
        broken[at // 8] ^= 1 << at % 8
        try:
            assert not Linked.parse(bytes(broken)).intact, broken
        except BadRequest:
            continue


def test_a_time_of_receipt_has_a_check_and_belongs_to_its_event() -> None:
    line, state = ChainState(KEY).append(UserDelete(time=NOW, uid="u1", name="bob"))
    other, _ = state.append(UserDelete(time=NOW, uid="u2", name="ann"))
    marked = mark_received(line, NOW)
    assert Linked.parse(marked).intact
    assert Linked.parse(marked).received == rfc3339(NOW)
    assert Linked.parse(mark_supplement(marked)).supplement
    assert Linked.parse(marked).body == Linked.parse(line).body
    remark = marked[len(line) - 1 :]
    assert not Linked.parse(other[:-1] + remark).intact
    later = marked.replace(b'"received":"%d' % NOW.year, b'"received":"%d' % (NOW.year + 1))
    assert later != marked
    assert not Linked.parse(later).intact
    with pytest.raises(BadRequest):
        Linked.parse(mark_received(line, NOW).replace(b',"receipt"', b',"x":1,"receipt"'))
    with pytest.raises(BadRequest):
        Linked.parse(mark_supplement(line)[:-1] + remark)


def test_only_auths_remarks_stand_after_the_hash() -> None:
    """They are not part of the chain, so their form is fixed."""
    line, _ = ChainState(KEY).append(UserDelete(time=NOW, uid="u1", name="bob"))
    marked = Linked.parse(mark_supplement(line))
    assert marked.intact
    assert marked.supplement
    for tail in (b',"supplement":false}', b',"supplement":true }', b',"supplement":true,"x":1}', b',"x":1}'):
        with pytest.raises(BadRequest):
            Linked.parse(line[:-1] + tail)


def test_an_event_that_claims_a_place_in_the_chain_does_not_get_it() -> None:
    """The emitter fills the chain's fields, whatever the event says."""
    forged = UserDelete(time=NOW, uid="u1", emitter="other", epoch=1, seq=9, prev="x", hash="y")
    linked = Linked.parse(ChainState(KEY).append(forged)[0])
    assert (linked.key, linked.seq, linked.prev) == (KEY, 1, "")


@pytest.mark.parametrize("text", ["", "1", "x:" + "a" * 64, "1:abc", ":" + "a" * 64])
def test_what_is_no_reference_to_a_checkpoint_is_none(text: str) -> None:
    """Foreign text in that field must not break anything."""
    assert CheckpointRef.parse(text) is None


def test_a_reference_to_a_checkpoint_reads_back() -> None:
    """number:hash."""
    ref = CheckpointRef(12, "a" * 64)
    assert CheckpointRef.parse(str(ref)) == ref


def test_events_are_frozen() -> None:
    """A value that was emitted does not change."""
    event = UserDelete(time=NOW, uid="u1", name="bob")
    with pytest.raises(AttributeError):
        event.name = "eve"  # type: ignore[misc]
    assert msgspec.structs.replace(event, name="eve").name == "eve"
