"""The state machine of rotation: every step from every phase, and what holds on every way through them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from teleport.auth.authorities.keys import StoredKeys
from teleport.pki.rotation import (
    KEPT_GENERATIONS,
    NEXT,
    Move,
    RotationRefusal,
    advance,
    by_hand,
    has_reached,
    next_by_itself,
)
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import (
    Authority,
    AuthorityType,
    KeySet,
    Rotation,
    RotationMode,
    RotationPhase,
    RotationSchedule,
    RotationState,
)
from teleport.resources.codec import from_json, to_json
from teleport.resources.server import ReachedPhase
from teleport.resources.values import Duration

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
CLUSTER = "example.com"
GRACE = timedelta(hours=48)
AUTO, MANUAL = RotationMode.AUTO, RotationMode.MANUAL
STANDBY, INIT, ROLLBACK = RotationPhase.STANDBY, RotationPhase.INIT, RotationPhase.ROLLBACK
CLIENTS, SERVERS = RotationPhase.UPDATE_CLIENTS, RotationPhase.UPDATE_SERVERS

# `certificates.md` 7, written down a second time
ALLOWED = {
    (STANDBY, INIT), (INIT, CLIENTS), (INIT, ROLLBACK), (CLIENTS, SERVERS), (CLIENTS, ROLLBACK), (SERVERS, STANDBY),
    (SERVERS, ROLLBACK), (ROLLBACK, STANDBY),
}  # fmt: skip
WAYS = {
    STANDBY: (),
    INIT: (INIT,),
    CLIENTS: (INIT, CLIENTS),
    SERVERS: (INIT, CLIENTS, SERVERS),
    ROLLBACK: (INIT, CLIENTS, ROLLBACK),
}

GENERATIONS = {kind: tuple(StoredKeys().make(kind, CLUSTER, NOW) for _ in range(6)) for kind in AuthorityKind}
OLD, NEW = (GENERATIONS[AuthorityKind.HOST][number].spec.active_keys for number in (0, 1))


def first(kind: AuthorityKind = AuthorityKind.HOST) -> Authority:
    return GENERATIONS[kind][0]


def after(
    *ways: RotationPhase, start: Authority | None = None, mode: RotationMode = MANUAL, grace: timedelta = GRACE
) -> Authority:
    """The authority after these steps, an hour apart."""
    authority = start or first()
    for hours, target in enumerate(ways):
        moved = advance(authority, move(target, authority.type, mode=mode, grace=grace), NOW + timedelta(hours=hours))
        assert isinstance(moved, Authority), moved
        authority = moved
    return authority


def move(
    target: RotationPhase,
    kind: AuthorityType = AuthorityType.HOST,
    generation: int = 1,
    *,
    mode: RotationMode = MANUAL,
    grace: timedelta = GRACE,
) -> Move:
    keys = GENERATIONS[AuthorityKind(kind.value)][generation].spec.active_keys if target is INIT else None
    return Move(target, mode, grace, keys, f"rotation-{generation}")


@pytest.mark.parametrize("kind", AuthorityKind)
@pytest.mark.parametrize(
    ("phase", "target"), list(itertools.product(RotationPhase, RotationPhase)), ids=lambda phase: str(phase)
)
def test_every_step_from_every_phase_is_as_the_table_says(
    kind: AuthorityKind, phase: RotationPhase, target: RotationPhase
) -> None:
    """All 25 pairs for each kind of authority; a refused step names the phase and changes nothing."""
    authority = after(*WAYS[phase], start=first(kind))
    moved = advance(authority, move(target, authority.type), NOW)
    if (phase, target) in ALLOWED:
        assert isinstance(moved, Authority)
        assert moved.spec.rotation.phase is target
        assert moved.spec.rotation.state is (RotationState.STANDBY if target is STANDBY else RotationState.IN_PROGRESS)
        assert from_json(to_json(moved, with_secrets=True)) == moved
    else:
        assert isinstance(moved, RotationRefusal)
        assert (moved.current, moved.target) == (phase, target)
        assert str(phase) in moved.message
        assert f"--phase={NEXT[phase][0]}" in moved.hint


@pytest.mark.parametrize(
    ("ways", "active", "additional"),
    [
        ((), OLD, None),
        ((INIT,), OLD, NEW),
        ((INIT, CLIENTS), NEW, OLD),
        ((INIT, CLIENTS, SERVERS), NEW, OLD),
        ((INIT, CLIENTS, SERVERS, STANDBY), NEW, None),
        ((INIT, ROLLBACK), OLD, NEW),
        ((INIT, CLIENTS, ROLLBACK), OLD, NEW),
        ((INIT, CLIENTS, SERVERS, ROLLBACK), OLD, NEW),
        ((INIT, ROLLBACK, STANDBY), OLD, None),
        ((INIT, CLIENTS, ROLLBACK, STANDBY), OLD, None),
        ((INIT, CLIENTS, SERVERS, ROLLBACK, STANDBY), OLD, None),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_each_phase_signs_with_and_trusts_what_the_table_says(
    ways: tuple[RotationPhase, ...], active: KeySet, additional: KeySet | None
) -> None:
    spec = after(*ways).spec
    assert (spec.active_keys, spec.additional_trusted_keys) == (active, additional or KeySet())


def test_a_finished_rotation_says_when_and_remembers_the_old_keys_without_their_secrets() -> None:
    spec = after(INIT, CLIENTS, SERVERS, STANDBY).spec
    assert spec.rotation.last_rotated == NOW + timedelta(hours=3)
    assert spec.rotation.current_id == "rotation-1"
    (retired,) = spec.retired_keys
    assert retired.tls == tuple(pair.cert for pair in OLD.tls)
    assert retired.ssh == tuple(pair.public_key for pair in OLD.ssh)
    assert retired.rotation_id == "rotation-1"


def test_a_rollback_is_no_rotation_and_goes_on_by_hand() -> None:
    authority = after(INIT, CLIENTS, ROLLBACK, mode=AUTO)
    assert authority.spec.rotation.mode is MANUAL
    assert authority.spec.rotation.schedule == RotationSchedule()
    ended = after(STANDBY, start=authority)
    assert ended.spec.rotation.last_rotated is None
    assert ended.spec.retired_keys[-1].tls == tuple(pair.cert for pair in NEW.tls)


def test_without_grace_the_new_keys_replace_the_old_ones_at_once() -> None:
    for mode in RotationMode:
        spec = after(INIT, mode=mode, grace=timedelta(0)).spec
        assert (spec.active_keys, spec.additional_trusted_keys) == (NEW, KeySet())
        assert spec.rotation == Rotation(current_id="rotation-1", started=NOW, last_rotated=NOW)
        assert spec.retired_keys[0].tls == tuple(pair.cert for pair in OLD.tls)


def test_only_so_many_generations_are_remembered() -> None:
    """Forty rotations at once, of two sets of keys in turn: the record does not grow without end."""
    authority = first()
    for number in range(KEPT_GENERATIONS + 3):
        keys = (NEW, OLD)[number % 2]
        moved = advance(authority, Move(INIT, MANUAL, timedelta(0), keys, f"r{number}"), NOW)
        assert isinstance(moved, Authority)
        authority = moved
    remembered = [one.rotation_id for one in authority.spec.retired_keys]
    assert remembered == [f"r{number}" for number in range(3, KEPT_GENERATIONS + 3)]


def test_an_authority_that_trusts_further_keys_is_not_rotated_over_them() -> None:
    strange = replace(first(), spec=replace(first().spec, additional_trusted_keys=NEW))
    refused = advance(strange, move(INIT), NOW)
    assert isinstance(refused, RotationRefusal)
    assert "further keys" in refused.message


def test_a_rotation_does_not_begin_without_fresh_keys() -> None:
    for keys, rotation_id in ((None, "id"), (KeySet(), "id"), (NEW, "")):
        with pytest.raises(ValueError, match="fresh keys and an id"):
            advance(first(), Move(INIT, MANUAL, GRACE, keys, rotation_id), NOW)


def test_a_schedule_gives_each_phase_the_same_time() -> None:
    authority = after(INIT, mode=AUTO, grace=timedelta(minutes=1))
    schedule = authority.spec.rotation.schedule
    assert schedule == RotationSchedule(
        update_clients=NOW + timedelta(seconds=20),
        update_servers=NOW + timedelta(seconds=40),
        standby=NOW + timedelta(seconds=60),
    )
    assert authority.spec.rotation.grace_period == Duration.of(minutes=1)
    assert next_by_itself(authority.spec.rotation) == (CLIENTS, NOW + timedelta(seconds=20))


def test_a_late_step_puts_off_those_after_it() -> None:
    """Auth was down when update_clients was due: update_servers does not follow at once for that."""
    authority = after(INIT, mode=AUTO, grace=timedelta(minutes=3))
    late = advance(authority, move(CLIENTS, mode=AUTO), NOW + timedelta(minutes=11))
    assert isinstance(late, Authority)
    assert next_by_itself(late.spec.rotation) == (SERVERS, NOW + timedelta(minutes=12))
    last = advance(late, move(SERVERS, mode=AUTO), NOW + timedelta(minutes=12))
    assert isinstance(last, Authority)
    assert next_by_itself(last.spec.rotation) == (STANDBY, NOW + timedelta(minutes=13))
    done = advance(last, move(STANDBY, mode=AUTO), NOW + timedelta(minutes=13))
    assert isinstance(done, Authority)
    assert next_by_itself(done.spec.rotation) is None


@pytest.mark.parametrize("target", [CLIENTS, ROLLBACK])
def test_a_step_by_hand_takes_over_a_rotation_that_runs_by_itself(target: RotationPhase) -> None:
    authority = after(INIT, mode=AUTO)
    taken = advance(authority, move(target), NOW)
    assert isinstance(taken, Authority)
    assert taken.spec.rotation.mode is MANUAL
    assert next_by_itself(taken.spec.rotation) is None


def test_a_manual_rotation_does_not_begin_to_run_by_itself() -> None:
    moved = advance(after(INIT), move(CLIENTS, mode=AUTO), NOW)
    assert isinstance(moved, Authority)
    assert moved.spec.rotation.mode is MANUAL


def test_what_failed_waits_for_a_person_in_the_phase_it_is_in() -> None:
    authority = after(INIT, CLIENTS, mode=AUTO)
    dropped = by_hand(authority)
    assert dropped.spec.rotation.phase is CLIENTS
    assert dropped.spec.rotation.mode is MANUAL
    assert next_by_itself(dropped.spec.rotation) is None
    assert dropped.spec.active_keys == authority.spec.active_keys


def test_only_the_same_phase_of_the_same_rotation_is_reached() -> None:
    rotation = after(INIT, CLIENTS).spec.rotation
    assert has_reached(ReachedPhase(phase=CLIENTS, current_id="rotation-1"), rotation)
    assert not has_reached(ReachedPhase(phase=CLIENTS, current_id="rotation-0"), rotation)
    assert not has_reached(ReachedPhase(phase=INIT, current_id="rotation-1"), rotation)
    assert not has_reached(None, rotation)
    assert has_reached(ReachedPhase(), first().spec.rotation)


Signed = frozenset[str]


def _names(keys: KeySet) -> Signed:
    ssh, jwt = (pair.public_key for pair in keys.ssh), (pair.public_key for pair in keys.jwt)
    return frozenset((*ssh, *jwt, *(pair.cert for pair in keys.tls)))


def _walk(kind: AuthorityKind, targets: list[tuple[RotationPhase, RotationMode, bool]]) -> Iterator[Authority]:
    """The authorities after each of the steps that are allowed."""
    authority, generation = first(kind), 0
    yield authority
    for number, (target, mode, at_once) in enumerate(targets):
        fresh = generation + 1
        if target is INIT and fresh >= len(GENERATIONS[kind]):
            return
        grace = timedelta(0) if at_once else GRACE
        moved = advance(
            authority, move(target, authority.type, fresh, mode=mode, grace=grace), NOW + number * timedelta(hours=1)
        )
        if isinstance(moved, RotationRefusal):
            continue
        generation = fresh if target is INIT else generation
        authority = moved
        yield authority


STEPS = st.lists(st.tuples(st.sampled_from(RotationPhase), st.sampled_from(RotationMode), st.booleans()), max_size=60)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(AuthorityKind), targets=STEPS)
def test_on_every_way_keys_that_signed_are_trusted_until_standby(
    kind: AuthorityKind, targets: list[tuple[RotationPhase, RotationMode, bool]]
) -> None:
    """Never without an active key; what signed is trusted until standby; in standby exactly one set is trusted, and
    what was trusted before and is not any more is retired, without a private half."""
    signed: set[str] = set()  # since the last standby
    before: Authority | None = None
    for authority in _walk(kind, targets):
        spec = authority.spec
        active, additional = _names(spec.active_keys), _names(spec.additional_trusted_keys)
        assert active
        assert not active & additional
        if spec.rotation.phase is STANDBY:
            assert not additional
            if before is not None:
                gone = (_names(before.spec.active_keys) | _names(before.spec.additional_trusted_keys)) - active
                retired = spec.retired_keys[-1]
                assert set(retired.tls) == {name for name in gone if "CERTIFICATE" in name}
            assert len(spec.retired_keys) <= KEPT_GENERATIONS
            assert "PRIVATE" not in repr(spec.retired_keys)
            signed = set(active)
        else:
            signed |= active
            assert signed <= active | additional
            assert all(pair.key is not None for pair in (*spec.active_keys.tls, *spec.additional_trusted_keys.tls))
        before = authority
