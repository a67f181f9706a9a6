"""When a session begins, stands still, goes on and ends for those who have to be in it (threat T48)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from teleport.authz.joining import Participant, Requirement, RunningSession
from teleport.identity import UserIdentity
from teleport.resources.joining import JoinMode, OnLeave, RequiredJoin
from teleport.sharing.moderation import Action, Moderation

SESSION = RunningSession("s", "here", "alice", "here", "root", ("prod",), interactive=True)


def there(name: str, mode: JoinMode = JoinMode.MODERATOR) -> Participant:
    end = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=1)
    return Participant(UserIdentity(name=name, cluster="here", roles=(), logins=(), expires=end), mode)


def needs(count: int, action: OnLeave) -> tuple[Requirement, ...]:
    return (Requirement("r", (RequiredJoin(kinds=("ssh",), count=count, on_leave=action),)),)


def test_what_needs_nobody_begins() -> None:
    assert Moderation().step((), SESSION, []) is Action.BEGIN


def test_pause() -> None:
    """Nothing before the set is met; it stands still when one of two leaves, and goes on when one comes."""
    required, machine = needs(2, OnLeave.PAUSE), Moderation()
    alice, one, two = there("alice", JoinMode.PEER), there("one"), there("two")
    steps = [
        ([alice], Action.HOLD, True),
        ([alice, one], Action.NOTHING, True),
        ([alice, one, two], Action.BEGIN, False),
        ([alice, one, two, there("three")], Action.NOTHING, False),
        ([alice, one], Action.HOLD, True),
        ([alice], Action.NOTHING, True),
        ([alice, there("three"), one], Action.GO_ON, False),
    ]
    for present, action, held in steps:
        assert machine.step(required, SESSION, present) is action
        assert machine.held is held
        assert bool(machine.missing) is held


def test_terminate() -> None:
    """The default: it ends, and until it has nothing passes."""
    required, machine = needs(1, OnLeave.TERMINATE), Moderation()
    assert machine.step(required, SESSION, [there("one")]) is Action.BEGIN
    assert machine.step(required, SESSION, []) is Action.END
    assert machine.held


def test_before_it_begins_nothing_ends_it() -> None:
    """Who comes and goes while it waits does no harm."""
    required, machine = needs(2, OnLeave.TERMINATE), Moderation()
    assert machine.step(required, SESSION, []) is Action.HOLD
    for present in ([there("one")], []):
        assert machine.step(required, SESSION, present) is Action.NOTHING
        assert machine.held


def test_rules_that_come_while_it_runs_count() -> None:
    """A role that asks for somebody holds what runs already."""
    machine = Moderation()
    assert machine.step((), SESSION, []) is Action.BEGIN
    assert machine.step(needs(1, OnLeave.PAUSE), SESSION, []) is Action.HOLD
    assert machine.step((), SESSION, []) is Action.GO_ON
    assert machine.step(needs(1, OnLeave.TERMINATE), SESSION, []) is Action.END
