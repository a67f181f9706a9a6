"""The pool of a host that was told to keep few tunnels: which, how they are replaced, and how it comes and goes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.tunnel.pool import plan
from teleport.tunnel.pool_events import (
    Action,
    Begun,
    Dial,
    Event,
    Failed,
    Finish,
    Lost,
    Proxy,
    Reached,
    Renewed,
    Told,
    Wake,
    Woke,
)
from teleport.tunnel.pool_state import State

NAMES = ("aaaa", "bbbb", "cccc")
ALL = tuple(Proxy(name, (f"{name[0]}:3024",)) for name in NAMES)


def played(state: State, *events: Event) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for event in events:
        state, actions = plan(state, event)
    return state, actions


def one_tunnel(draw: float = 0.0) -> State:
    """A tunnel to A, old, and no more are asked for."""
    state, _ = played(
        State(), Begun(0, 0.5), Reached(1, 0.5, 1, "aaaa", 7), Told(1, draw, 1, ALL, False, 1), Woke(100, 0.5)
    )
    return state


def dialled(actions: list[Action]) -> list[str]:
    return [action.addresses[0] for action in actions if isinstance(action, Dial)]


def test_told_to_keep_one_tunnel_it_dials_nobody_else() -> None:
    state, actions = played(State(), Begun(0, 0.5), Reached(1, 0.5, 1, "aaaa", 7), Told(1, 0, 1, ALL, False, 1))
    assert actions == []
    assert state.announced == ("aaaa",)
    assert not state.attempts


def test_more_are_chosen_by_chance() -> None:
    chosen = set()
    for draw in (0.0, 0.6):
        _, actions = played(State(), Begun(0, 0.5), Reached(1, 0.5, 1, "aaaa", 7), Told(1, draw, 1, ALL, False, 2))
        (address,) = dialled(actions)
        chosen.add(address)
    assert chosen == {"b:3024", "c:3024"}


def test_a_tunnel_that_is_lost_is_replaced_at_once_by_one_to_another_proxy() -> None:
    """The lost one's proxy has a pause; whoever it is, one attempt is enough."""
    for draw, address in ((0.0, "b:3024"), (0.99, "c:3024")):
        _, actions = plan(one_tunnel(), Lost(200, draw, 1))
        assert dialled(actions) == [address]


def test_a_proxy_that_cannot_be_reached_gives_way_to_the_next() -> None:
    state, _ = plan(one_tunnel(), Lost(200, 0.0, 1))
    state, actions = plan(state, Failed(200.1, 0.0, 2))
    assert dialled(actions) == ["c:3024"]
    state, actions = plan(state, Failed(200.2, 0.9, 3))
    assert dialled(actions) == ["a:3024"], "whose pause, after a tunnel that lived, was over at once"


def test_when_all_are_paused_it_wakes_for_the_first_of_them() -> None:
    state, _ = plan(one_tunnel(), Lost(200, 0.5, 1))
    now = 200.0
    for _ in range(8):
        number = next(iter(state.attempts), None)
        if number is None:
            break
        now += 0.01
        state, actions = plan(state, Failed(now, 0.5, number))
    (wake,) = [action for action in actions if isinstance(action, Wake)]
    assert wake.at == min(state.pauses[name].until for name in NAMES)
    _, actions = plan(state, Woke(wake.at, 0.5))
    assert len(dialled(actions)) == 1


def test_a_proxy_that_leaves_is_left_once_another_is_reached() -> None:
    state, actions = plan(one_tunnel(), Told(200, 0.5, 1, ALL, True, 1))
    (address,) = dialled(actions)
    assert not any(isinstance(action, Finish) for action in actions), "not before there is another"
    _, actions = plan(state, Reached(200.1, 0.5, 2, "cccc" if address == "c:3024" else "bbbb", 4))
    assert Finish(1) in actions


def test_what_is_more_than_asked_for_is_finished_by_chance_and_stays_so() -> None:
    state, _ = played(
        State(),
        Begun(0, 0.5),
        Reached(1, 0.5, 1, "aaaa", 7),
        Told(1, 0.5, 1, ALL, False),
        Reached(2, 0.5, 2, "bbbb", 4),
        Reached(2, 0.5, 3, "cccc", 4),
    )
    assert state.most == 0
    finished = set()
    for draw in (0.0, 0.4, 0.9):
        after, actions = plan(state, Told(10, draw, 1, ALL, False, 1))
        gone = {action.tunnel for action in actions if isinstance(action, Finish)}
        assert len(gone) == 2
        finished |= gone
        for number in gone:
            after, actions = plan(after, Told(11, draw, number, ALL, False, 1))
            assert actions == [], "what its proxy says makes it no better"
        assert len([one for one in after.held.values() if not one.leaving]) == 1
    assert finished == {1, 2, 3}


def test_when_every_proxy_is_to_have_one_again_the_others_are_dialled() -> None:
    _, actions = plan(one_tunnel(), Told(200, 0.5, 1, ALL, False))
    assert dialled(actions) == ["b:3024", "c:3024"]


def test_one_proxy_alone_makes_nobody_leave_the_others() -> None:
    """Each can ask for a tunnel to every proxy; for fewer all that are heard have to."""
    state, _ = played(
        State(),
        Begun(0, 0.5),
        Reached(1, 0.5, 1, "aaaa", 7),
        Told(1, 0.5, 1, ALL, False),
        Reached(2, 0.5, 2, "bbbb", 4),
        Told(2, 0.5, 2, ALL, False),
        Reached(2, 0.5, 3, "cccc", 4),
        Told(2, 0.5, 3, ALL, False),
    )
    state, actions = plan(state, Told(10, 0.5, 1, ALL, False, 1))
    assert actions == []
    state, actions = plan(state, Told(11, 0.5, 2, ALL, False, 1))
    assert actions == []
    state, actions = plan(state, Told(12, 0.5, 3, ALL, False, 1))
    assert len([action for action in actions if isinstance(action, Finish)]) == 2


def test_new_certificates_replace_the_one_tunnel() -> None:
    state, actions = plan(one_tunnel(), Renewed(200, 0.0))
    assert len(dialled(actions)) == 1
    (number,) = state.attempts
    target, _ = state.attempts[number]
    _, actions = plan(state, Reached(201, 0.0, number, target, 7))
    assert Finish(1) in actions


@settings(deadline=None)
@given(st.data())
def test_it_never_has_more_than_it_was_told_and_never_rests_with_less(data: st.DataObject) -> None:
    """Whatever happens: no more attempts and tunnels that stay than asked for; with fewer it dials or will wake."""
    most = data.draw(st.integers(1, 3))
    state, now = one_tunnel(), 200.0
    state, actions = plan(state, Told(now, 0.5, 1, ALL, False, most))
    wakes = [action.at for action in actions if isinstance(action, Wake)]
    for _ in range(data.draw(st.integers(1, 25))):
        now += data.draw(st.floats(0.001, 5))
        draw = data.draw(st.floats(0, 1))
        held, attempts = list(state.held), list(state.attempts)
        choices: list[Event] = [Woke(now, draw)]
        choices += [Lost(now, draw, number, answered) for number in held for answered in (False, True)]
        choices += [
            Told(now, draw, number, ALL, leaving, most, 50.0 * most) for number in held for leaving in (False, True)
        ]
        choices += [Failed(now, draw, number, draw < 0.5) for number in attempts]
        choices += [
            Reached(now, draw, number, data.draw(st.sampled_from(NAMES)), data.draw(st.integers(1, 3)))
            for number in attempts
        ]
        state, actions = plan(state, data.draw(st.sampled_from(choices)))
        wakes = [action.at for action in actions if isinstance(action, Wake)] or wakes
        stays = {one.host_id for one in state.held.values() if not one.leaving}
        assert len(stays) <= most
        if any(isinstance(action, Dial) and action.addresses for action in actions):
            assert len(stays | {target for target, _ in state.attempts.values() if target}) <= most
        if len(stays) < most and not state.attempts:
            assert wakes, "it will look again"
