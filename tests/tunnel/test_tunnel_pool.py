"""The pool of a host's tunnels: transcripts (events in, actions out), and what holds whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.tunnel.pool import APART, BURST, LONGEST, MOST_SPREAD, UNPROVED, plan
from teleport.tunnel.pool_events import (
    MOST,
    Action,
    Announce,
    Begun,
    Close,
    Dial,
    Distrusted,
    Event,
    Failed,
    Finish,
    Halted,
    Lost,
    Proxy,
    Reached,
    Renewed,
    Told,
    Wake,
    Woke,
)
from teleport.tunnel.pool_state import REMEMBERED, SEEDS, State

A, B = Proxy("aaaa", ("a:3024",)), Proxy("bbbb", ("b:3024",))


def played(state: State, *events: Event) -> tuple[State, list[Action]]:
    """The state after `events`, and what followed from the last one."""
    actions: list[Action] = []
    for event in events:
        state, actions = plan(state, event)
    return state, actions


def connected() -> State:
    """One tunnel to A and one to B, both old."""
    state, _ = played(
        State(),
        Begun(0, 0.5),
        Reached(1, 0.5, 1, "aaaa", 7),
        Told(1, 0.5, 1, (A, B), False),
        Reached(2, 0.5, 2, "bbbb", 4),
        Woke(100, 0.5),
    )
    return state


def test_it_asks_the_configured_address_first_then_every_proxy_it_is_told_of() -> None:
    state, actions = played(State(), Begun(0, 0.5))
    assert actions == [Dial(1, ())]
    state, actions = plan(state, Reached(1, 0.5, 1, "aaaa", 7))
    assert actions == [Announce(("aaaa",))]
    state, actions = plan(state, Told(1, 0.5, 1, (A, B), False))
    assert actions == [Dial(2, ("b:3024",))]
    state, actions = plan(state, Reached(2, 0.5, 2, "bbbb", 4))
    assert actions == [Announce(("aaaa", "bbbb"))]
    assert plan(state, Woke(9, 0.5))[1] == []


def test_a_crowd_whose_proxy_stays_away_asks_the_configured_addresses_as_rarely_as_the_proxy() -> None:
    state, _ = played(
        State(), Begun(0, 0.5), Reached(1, 0.5, 1, "aaaa", 7), Told(1, 0.5, 1, (A,), False, spread=80.0), Woke(100, 0.5)
    )
    state, actions = plan(state, Lost(100, 0.0, 1, answered=True))
    (dial,) = [action for action in actions if isinstance(action, Dial)]
    assert dial.addresses == ("a:3024",)
    state, actions = plan(state, Failed(101, 0.9, dial.tunnel, answered=True))
    (dial,) = [action for action in actions if isinstance(action, Dial)]
    assert dial.addresses == (), "the seeds"
    state, actions = plan(state, Failed(101, 0.5, dial.tunnel, answered=True))
    assert state.pauses[SEEDS].until == 101 + 80 * 0.5
    assert state.pauses["aaaa"].until == 100 + 80 * 0.9
    _, actions = played(state, Woke(141, 0.5))
    assert [type(action) for action in actions if isinstance(action, Dial)] == [Dial]


def test_pauses_double_up_to_eight_seconds_and_count_from_the_beginning_of_an_attempt() -> None:
    state, now, pauses = State(), 0.0, []
    state, actions = plan(state, Begun(now, 1.0))
    for _ in range(7):
        (dial,) = [action for action in actions if isinstance(action, Dial)]
        state, actions = plan(state, Failed(now + 0.25, 1.0, dial.tunnel))
        (wake,) = actions
        assert isinstance(wake, Wake)
        pauses.append(wake.at - now)
        assert not any(isinstance(action, Dial) for action in plan(state, Woke(wake.at - 0.01, 1.0))[1])
        now = wake.at
        state, actions = plan(state, Woke(now, 1.0))
    assert pauses == [0.5, 1, 2, 4, 8, 8, 8]


def test_a_lost_tunnel_is_made_anew_within_a_second_and_a_short_lived_one_after_a_pause() -> None:
    state, actions = plan(connected(), Lost(100, 0.4, 2))
    assert actions == [Announce(("aaaa",)), Wake(100.4)]
    state, actions = plan(state, Woke(100.4, 0.4))
    assert actions == [Dial(3, ("b:3024",))]
    state, _ = plan(state, Reached(101, 0, 3, "bbbb", 5))
    state, actions = plan(state, Lost(102, 0, 3))
    assert actions == [Announce(("aaaa",)), Wake(102.25)]


def test_hosts_of_a_proxy_that_ended_come_back_over_the_time_that_it_told() -> None:
    """And not those that the network cut off: nobody else comes with them."""
    state, _ = plan(connected(), Told(100, 0, 2, (A, B), False, 0, 40.0))
    _, actions = plan(state, Lost(100, 0.5, 2))
    assert actions == [Announce(("aaaa",)), Wake(100.5)]
    state, actions = plan(state, Lost(100, 0.5, 2, answered=True))
    assert actions[0] == Announce(("aaaa",))
    assert state.pauses["bbbb"].until == 120.0
    state, actions = plan(state, Woke(120, 0.5))
    assert actions == [Dial(3, ("b:3024",))]
    refused, _ = plan(state, Failed(120.1, 0.75, 3, answered=True))
    assert refused.pauses["bbbb"].until == 150.0, "also when it is away for longer"
    silent, _ = plan(state, Failed(125, 0.75, 3))
    assert silent.pauses["bbbb"].until < 121
    _, actions = plan(state, Lost(121, 0.5, 1, answered=True))
    assert Wake(121.5) in actions, "what one proxy says is about that one"


def test_a_proxy_that_leaves_is_left_over_the_time_that_it_told_and_no_time_is_longer_than_the_bound() -> None:
    state, actions = plan(connected(), Told(100, 0.5, 2, (A, B), True, 0, 40.0))
    assert actions == [Finish(2), Wake(108.0)], "it looks again meanwhile"
    state, actions = plan(state, Woke(120, 0.5))
    assert Dial(3, ("b:3024",)) in actions
    state, _ = played(connected(), Told(100, 0, 2, (A, B), False, 0, 1e9), Lost(100, 1.0, 2, answered=True))
    assert state.pauses["bbbb"].until == 100 + MOST_SPREAD


def test_a_second_tunnel_to_the_same_process_is_closed_and_whom_it_was_meant_for_is_tried_again() -> None:
    """As behind a balancer, which leads to any of them."""
    state, _ = played(
        State(), Begun(0, 0), Reached(1, 0, 1, "aaaa", 7), Told(1, 0, 1, (A, Proxy("bbbb", ("lb:3024",))), False)
    )
    state, actions = plan(state, Reached(1.1, 0, 2, "aaaa", 7))
    assert actions == [Close(2), Wake(1.25)]
    state, actions = plan(state, Lost(2, 0, 2))
    assert actions == [Dial(3, ("lb:3024",))]
    state, actions = plan(state, Reached(2.1, 0, 3, "cccc", 1))
    assert actions == [Announce(("aaaa", "cccc")), Wake(2.5)], "one to another proxy than was meant is kept"


def test_a_proxy_that_leaves_is_left_for_its_next_process_once_that_is_reached() -> None:
    state, actions = plan(connected(), Told(100, 0.5, 1, (A, B), True))
    assert actions == [Finish(1), Dial(3, ("a:3024",))], "another proxy leads here already"
    state, actions = plan(state, Reached(101, 0.5, 3, "aaaa", 8))
    assert actions == []
    state, actions = plan(state, Lost(200, 0.5, 1))
    assert actions == [], "that one was over"


def test_the_only_proxy_is_not_left_before_another_is_reached() -> None:
    state, _ = played(State(), Begun(0, 0.5), Reached(1, 0.5, 1, "aaaa", 7), Told(1, 0.5, 1, (A,), False))
    state, actions = plan(state, Told(50, 0.5, 1, (A,), True))
    assert actions == [Dial(2, ("a:3024",))]
    state, actions = plan(state, Failed(50, 0.0, 2))
    assert not any(isinstance(action, Finish) for action in actions)
    state, actions = plan(state, Woke(51, 0.5))
    assert Dial(4, ("a:3024",)) in actions or Dial(3, ("a:3024",)) in actions
    number = max(state.attempts)
    state, actions = plan(state, Reached(52, 0.5, number, "aaaa", 8))
    assert Finish(1) in actions


def test_the_configured_addresses_are_asked_again_when_no_known_proxy_answers() -> None:
    state, actions = played(connected(), Lost(100, 0.5, 1), Lost(100, 0.5, 2), Woke(101, 0))
    assert {action.addresses for action in actions if isinstance(action, Dial)} == {("a:3024",), ("b:3024",)}
    first, second = sorted(state.attempts)
    state, actions = played(state, Failed(101.1, 0, first), Failed(101.1, 0, second))
    assert Dial(second + 1, ()) in actions


def test_a_proxy_that_is_gone_for_good_is_forgotten_when_others_say_so() -> None:
    state, _ = played(connected(), Lost(100, 0, 2), Told(100, 0, 1, (A,), False))
    assert plan(state, Woke(500, 0))[1] == []


def test_a_process_that_is_superseded_keeps_its_tunnels_and_dials_no_more() -> None:
    state, actions = played(connected(), Halted(100, 0), Lost(101, 0, 1), Woke(200, 0))
    assert actions == []
    assert state.reached_by == ("bbbb",)
    assert Dial(3, ("a:3024",)) in plan(state, Begun(300, 0))[1]


def test_tunnels_of_former_certificates_are_replaced_before_they_end() -> None:
    state, actions = plan(connected(), Renewed(100, 0))
    assert actions == [Dial(3, ("a:3024",)), Dial(4, ("b:3024",))]
    state, actions = plan(state, Reached(101, 0, 3, "aaaa", 7))
    assert actions == [Finish(1), Finish(2)]
    state, actions = plan(state, Told(101, 0, 3, (A, B), False))
    assert actions == []


def test_what_is_said_about_a_tunnel_that_is_gone_changes_nothing() -> None:
    state = connected()
    for event in (Lost(100, 0, 9), Failed(100, 0, 9), Told(100, 0, 9, (), True)):
        assert plan(state, event) == (state, [])
    assert plan(state, Reached(100, 0, 9, "aaaa", 7)) == (state, [Close(9)])


def test_what_one_proxy_says_takes_nothing_away_from_another() -> None:
    """A hostile proxy, or one behind the times, says that there is nobody but itself, when A is away for a moment."""
    state, actions = played(connected(), Told(100, 0, 2, (B,), False), Lost(101, 0.5, 1))
    assert Wake(101.5) in actions
    state, actions = plan(state, Woke(101.5, 0))
    assert actions == [Dial(3, ("a:3024",))], "by A's own word, which B cannot take back"
    state, _ = plan(state, Reached(102, 0, 3, "aaaa", 8))
    assert state.reached_by == ("aaaa", "bbbb")


def test_where_a_proxy_was_reached_and_its_own_word_come_before_what_others_say_of_it() -> None:
    lies = Proxy("aaaa", tuple(f"lie{number}:1" for number in range(9)))
    _, actions = played(
        State(),
        Begun(0, 0),
        Reached(1, 0, 1, "aaaa", 7, "seed:3024"),
        Told(1, 0, 1, (A, B), False),
        Reached(2, 0, 2, "bbbb", 4, "b:3024"),
        Told(2, 0, 2, (lies, B), False),
        Lost(100, 0, 1),
    )
    (dial,) = [action for action in actions if isinstance(action, Dial)]
    assert dial.addresses == ("a:3024", "seed:3024", "lie0:1", "lie1:1")


def test_one_proxy_names_only_so_many_and_they_are_forgotten_with_it() -> None:
    """Addresses that others choose are knocked at: few, seldom, and no longer than whoever named them is heard."""
    many = tuple(Proxy(f"x{number:03}", ("x:1",)) for number in range(500))
    state, actions = played(connected(), Told(100, 0, 2, (A, B, *many), False))
    assert len(state.known) == MOST
    assert {"aaaa", "bbbb"} <= set(state.known)
    assert len([one for one in actions if isinstance(one, Dial)]) == UNPROVED
    assert not any(isinstance(one, Wake) for one in actions), "the end of an attempt wakes it"
    state, _ = plan(state, Lost(101, 0, 2))
    assert set(state.known) == {"aaaa", "bbbb"}


def test_whoever_names_ever_new_proxies_makes_no_host_look_through_a_network() -> None:
    """Each answers at once that there is nobody; and a proxy that was reached before is dialled all the same."""
    state, now, dialled = connected(), 100.0, 0
    for turn in range(1000):
        named = tuple(Proxy(f"x{turn}-{number}", (f"10.0.{turn}.{number}:1",)) for number in range(60))
        state, actions = plan(state, Told(now, 0, 2, (A, B, *named), False))
        for action in actions:
            if isinstance(action, Dial):
                dialled += 1
                state, _ = plan(state, Failed(now, 0, action.tunnel))
        now += 0.01
    assert 0 < dialled <= (10 + BURST) / APART + UNPROVED
    _, actions = plan(state, Lost(now, 0, 1))
    assert ("a:3024",) in [action.addresses for action in actions if isinstance(action, Dial)]


def test_proxies_that_are_many_and_true_are_all_reached() -> None:
    true = tuple(Proxy(f"x{number:02}", (f"x{number}:1",)) for number in range(40))
    state, actions = played(connected(), Told(100, 0, 1, (A, B, *true), False))
    reached, now = set[str](), 100.0
    while dials := [action for action in actions if isinstance(action, Dial)]:
        actions = []
        for dial in dials:
            target = state.attempts[dial.tunnel][0]
            reached.add(target)
            state, more = plan(state, Reached(now, 0, dial.tunnel, target, 1))
            actions += more
    assert len(reached) == len(true)
    assert len(state.reached_by) == len(true) + 2


def test_a_few_failures_cost_nothing_and_many_have_the_others_wait_for_their_turn() -> None:
    free = int(BURST / APART)
    many = tuple(Proxy(f"x{number:02}", (f"x{number}:1",)) for number in range(40))
    state, actions = played(connected(), Told(100, 1, 1, (A, B, *many), False))
    waiting, failed = [one for one in actions if isinstance(one, Dial)], 0
    while waiting:
        failed += 1
        state, actions = plan(state, Failed(100, 1, waiting.pop().tunnel))
        waiting += [one for one in actions if isinstance(one, Dial)]
    assert free < failed <= free + UNPROVED
    (wake,) = [one for one in actions if isinstance(one, Wake)]
    state, actions = plan(state, Woke(wake.at, 1))
    assert any(isinstance(one, Dial) for one in actions)


def test_a_proxy_that_nobody_names_is_tried_seldom_and_then_forgotten() -> None:
    state, _ = played(connected(), Told(100, 1, 1, (A,), False), Lost(101, 1, 2))
    began: list[float] = []
    for second in range(102, 500):
        state, actions = plan(state, Woke(second, 1))
        for action in actions:
            if isinstance(action, Dial):
                began.append(second)
                state, _ = plan(state, Failed(second, 1, action.tunnel))
    assert 5 < len(began) < 15
    assert began[-1] < 101 + REMEMBERED
    assert set(state.known) == {"aaaa"}


def test_a_proxy_that_may_not_be_here_is_left_at_once_and_what_it_said_is_forgotten() -> None:
    evil = Proxy("evil", ("e:1",))
    state, _ = played(connected(), Told(100, 0, 2, (A, B, evil), False))
    assert "evil" in state.known
    state, actions = plan(state, Distrusted(101, 0, 2, at_once=True))
    assert Close(2) in actions
    assert "evil" not in state.known
    assert plan(state, Distrusted(101, 0, 77, at_once=True))[1] == []


def test_a_tunnel_by_a_certificate_that_ended_is_replaced_before_it_ends() -> None:
    state, actions = plan(connected(), Distrusted(100, 0, 1, at_once=False))
    assert actions == [Finish(1), Dial(3, ("a:3024",))], "another proxy leads here already"
    state, actions = plan(state, Told(101, 0, 1, (A, B), False))
    assert state.held[1].leaving, "what it says does not make it count again"
    assert plan(state, Reached(102, 0, 3, "aaaa", 7))[1] == []


PROXIES = st.lists(st.sampled_from([A, B, Proxy("cccc", ("lb:1",)), Proxy("dddd", ("lb:1", "d:2"))]), unique=True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happens_no_process_has_two_tunnels_and_nobody_is_given_up(data: st.DataObject) -> None:
    """Random peers and networks, against a model of what is really open."""
    state, now = State(), 0.0
    dialling: set[int] = set()
    standing: dict[int, tuple[str, int]] = {}
    wake: float | None = None

    def happen(event: Event) -> None:
        nonlocal state, wake
        state, actions = plan(state, event)
        wake = None if isinstance(event, Woke) else wake
        for action in actions:
            match action:
                case Dial(tunnel, addresses):
                    assert tunnel not in dialling
                    assert tunnel not in standing
                    assert len(addresses) <= 2
                    dialling.add(tunnel)
                case Close(tunnel):
                    dialling.discard(tunnel)
                    standing.pop(tunnel, None)
                case Finish(tunnel):
                    assert any(not one.leaving for one in state.held.values()), "left before another was reached"
                case Announce(host_ids):
                    assert host_ids == tuple(sorted({host for host, _ in standing.values()}))
                case Wake(at):
                    assert now < at <= now + LONGEST, "nor is it woken without end"
                    wake = at

    happen(Begun(now, 0.5))
    for _ in range(data.draw(st.integers(0, 30))):
        draw = data.draw(st.floats(0, 1))
        now += data.draw(st.sampled_from([0.0, 0.1, 1.0, 20.0]))
        kind = data.draw(st.sampled_from(["reach", "fail", "lose", "tell", "wake"]))
        if kind == "reach" and dialling:
            tunnel = data.draw(st.sampled_from(sorted(dialling)))
            host, epoch = data.draw(st.sampled_from(["aaaa", "bbbb", "cccc"])), data.draw(st.integers(1, 2))
            dialling.discard(tunnel)
            if (host, epoch) not in [(one.host_id, one.epoch) for one in state.held.values() if not one.leaving]:
                standing[tunnel] = (host, epoch)
            happen(Reached(now, draw, tunnel, host, epoch))
        elif kind == "fail" and dialling:
            tunnel = data.draw(st.sampled_from(sorted(dialling)))
            dialling.discard(tunnel)
            happen(Failed(now, draw, tunnel))
        elif kind == "lose" and standing:
            tunnel = data.draw(st.sampled_from(sorted(standing)))
            del standing[tunnel]
            happen(Lost(now, draw, tunnel))
        elif kind == "tell" and standing:
            tunnel = data.draw(st.sampled_from(sorted(standing)))
            leaving = state.held[tunnel].leaving or data.draw(st.booleans())
            happen(Told(now, draw, tunnel, tuple(data.draw(PROXIES)), leaving))
        else:
            happen(Woke(now, draw))
        assert set(state.held) == set(standing)
        assert set(state.attempts) == dialling
        staying = [(one.host_id, one.epoch) for one in state.held.values() if not one.leaving]
        assert len(set(staying)) == len(staying)
        targets = [target for target, _ in state.attempts.values()]
        assert len(set(targets)) == len(targets), "one attempt for each target"
        if not standing:
            assert dialling or wake is not None, "given up"
        assert SEEDS in targets or state.known or SEEDS in state.pauses
