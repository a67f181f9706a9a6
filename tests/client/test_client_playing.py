"""The player's decisions as transcripts: events in, actions out. Nothing here has a clock or a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.client.playing import (
    SPEEDS,
    Action,
    Event,
    Find,
    Found,
    Keys,
    Next,
    Passed,
    Playing,
    Say,
    Seek,
    Show,
    Stop,
    clock,
    parse_clock,
    plan,
)

S = 1_000_000


def transcript(state: Playing, *events: Event) -> tuple[Playing, list[Action]]:
    """Everything that comes of the events."""
    actions: list[Action] = []
    for event in events:
        state, more = plan(state, event)
        actions += more
    return state, actions


def typed(text: str, state: Playing | None = None) -> tuple[Playing, list[Action]]:
    return transcript(state or Playing(due=10 * S), Keys(text))


def test_frames_are_shown_when_they_are_due_and_speed_counts() -> None:
    state, actions = transcript(Playing(speed=2.0), Next(10 * S))
    assert (state.wait(), actions) == (5.0, [])
    state, actions = transcript(state, Passed(2.0))
    assert (state.wait(), state.position, actions) == (3.0, 4 * S, [])
    state, actions = transcript(state, Passed(3.5))
    assert (state.position, actions) == (11 * S, [Show()]), "what is left over counts for the next frame"
    state, actions = transcript(state, Next(11 * S))
    assert state.wait() == 0.0
    assert transcript(state, Next(None))[1] == [Stop()], "after the last frame"


def test_nothing_passes_while_paused_or_typing() -> None:
    for keys in (" ", "/", "g"):
        state, _ = typed(keys)
        assert state.wait() is None
        after, actions = transcript(state, Passed(100.0))
        assert (after.position, actions) == (0, [])
    state, _ = typed("  ")
    assert state.wait() == 10.0


def test_speed_stays_in_the_table() -> None:
    assert typed("+" * 20)[0].speed == SPEEDS[-1]
    assert typed("-" * 20)[0].speed == SPEEDS[0]
    assert typed("x\x1b[A\x1b[1;5B")[0].speed == 1.0
    assert typed("+")[1] == [Say("0:00  1.5 times as fast")]


def test_long_pauses_are_cut_when_idle_time_is_skipped() -> None:
    state, _ = transcript(Playing(skip_idle=True), Next(3600 * S))
    assert state.wait() == 1.0
    state, _ = transcript(Playing(), Next(3600 * S), Passed(5.0), Keys("i"))
    assert state.wait() == 1.0
    state, _ = transcript(state, Keys("i"), Passed(2.0), Next(7200 * S))
    assert state.wait() == pytest.approx(3599.0)


@pytest.mark.parametrize(
    ("keys", "to"),
    [
        ("\x1b[C", 125), ("\x1bOC", 125), ("\x1b[D", 115), ("]", 180), ("[", 60), ("\x1b[5~", 60), ("0", 0),
        ("\x1b[H", 0), ("g1:30\r", 90), ("g90\n", 90), ("g1:02:03\r", 3723), ("g5x\x7f\r", 5), ("[[[", 60),
    ],
)  # fmt: skip
def test_keys_go_to_other_times(keys: str, to: int) -> None:
    state = Playing(position=120.0 * S, due=121 * S)
    found = [action for action in transcript(state, Keys(keys))[1] if isinstance(action, Seek)]
    assert found[0] == Seek(to * S)


def test_a_key_that_comes_in_pieces_is_one() -> None:
    state, actions = transcript(Playing(position=120.0 * S, due=121 * S), Keys("\x1b["), Keys("C"))
    assert Seek(125 * S) in actions
    assert state.held == ""


def test_going_back_before_the_start_and_beyond_the_end() -> None:
    assert Seek(0) in typed("\x1b[D", Playing(position=1.0 * S, due=2 * S))[1]
    state, actions = transcript(Playing(due=10 * S), Keys("G"), Next(None, 10 * S))
    assert state.paused, "the end can be looked at"
    assert not state.stopped
    assert actions[-1] == Say("0:10  the end; space or q quits")
    state, actions = transcript(state, Keys("\x1b[D"), Next(9 * S, 5 * S))
    assert actions[-1] == Seek(5 * S)
    assert (state.position, state.paused) == (5 * S, True)


def test_a_search_goes_to_what_was_found_and_holds_there() -> None:
    state, actions = typed("/err\x7fror\r", Playing(position=2.0 * S, due=3 * S))
    assert actions[-2:] == [Say("searching error"), Find("error", 2 * S, back=False)]
    state, actions = transcript(state, Found(7 * S, "an error here"))
    assert actions == [Seek(7 * S), Say("0:07  an error here")]
    state, _ = transcript(state, Next(8 * S, 7 * S))
    assert state.paused
    assert transcript(state, Keys("n"))[1][-1] == Find("error", 7 * S, back=False)
    assert transcript(state, Keys("N"))[1][-1] == Find("error", 7 * S, back=True)
    after, actions = transcript(state, Keys("n"), Found(None))
    assert actions[-1] == Say("not found: error")
    assert after.position == 7 * S
    assert typed("n")[1] == [Say("nothing to search for; type / and a text")]


@pytest.mark.parametrize("keys", ["/abc\x1b", "/\x7f", "gxyz\r", "/a\x1bq"])
def test_an_answer_can_be_given_up(keys: str) -> None:
    state, actions = typed(keys)
    assert not state.asking
    assert not any(isinstance(action, Find | Seek) for action in actions)


def test_q_is_a_letter_while_typing_and_ctrl_c_is_not() -> None:
    assert typed("/q")[0].typed == "q"
    assert not typed("/q")[0].stopped
    assert typed("/\x03")[1][-1] == Stop()
    assert typed("q")[1] == [Stop()]
    assert typed("q ")[1] == [Stop()], "nothing follows"


def test_one_frame_at_a_time() -> None:
    state, actions = typed(".")
    assert actions == [Say("0:10"), Show()]
    assert state.paused
    state, actions = transcript(state, Next(None), Keys("."))
    assert not state.stopped, "the last frame can be looked at"
    assert transcript(state, Keys(" "))[1] == [Stop()]


def test_a_message_goes_when_playing_goes_on() -> None:
    state, _ = typed("+")
    assert transcript(state, Passed(20.0))[1] == [Say(""), Show()]


def test_clocks_read_back() -> None:
    for seconds in (0, 59, 60, 3599, 3600, 86399):
        assert parse_clock(clock(seconds * S)) == seconds * S
    assert [parse_clock(text) for text in ("", "x", "1:2:3:4", "-1", "1e9", "1:")] == [None] * 6
    assert parse_clock("0.5") == S // 2


EVENTS = st.one_of(
    st.builds(Keys, st.text(st.sampled_from("q /ngNi+-.0G[]\r\x1b\x7f1:?[CDh\u202e"), max_size=6)),
    st.builds(Passed, st.floats(0, 1000)),
    st.builds(Next, st.one_of(st.none(), st.integers(0, 10**9)), st.one_of(st.none(), st.integers(0, 10**9))),
    st.builds(Found, st.one_of(st.none(), st.integers(0, 10**9)), st.just("line")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_the_state_makes_sense(events: list[Event]) -> None:
    """No time before the start, no endless waiting for a negative time, nothing after the end, and only clean status
    lines."""
    state = Playing()
    for event in events:
        before = state
        state, actions = plan(state, event)
        assert state.position >= 0
        assert (state.wait() or 0) >= 0
        assert SPEEDS[0] <= state.speed <= SPEEDS[-1]
        if before.stopped:
            assert not actions
        for action in actions:
            if isinstance(action, Say):
                assert action.text.isprintable()
            if isinstance(action, Seek | Find):
                assert (action.at if isinstance(action, Seek) else action.after) >= 0
