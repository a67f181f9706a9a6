"""The settings of the cluster: who may change which, what a start makes of them, and what is on record."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.cluster.settings import AT_START, Settings, changed_fields, decide_reset, decide_start, decide_write
from teleport.auth.state import ClusterState
from teleport.backend.memory import MemoryBackend
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, TeleportError
from teleport.resources.cluster import (
    SINGLETONS,
    AuthPreference,
    AuthPreferenceSpec,
    NetworkingConfig,
    NetworkingSpec,
    Origin,
    SecondFactor,
    SessionRecordingConfig,
    default_of,
    origin_of,
    setting_name,
    with_origin,
)
from teleport.resources.codec import from_json, to_json
from teleport.resources.kinds import Kind
from teleport.resources.values import Duration
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

KIND = Kind.CLUSTER_NETWORKING_CONFIG
IDLE = NetworkingConfig(spec=NetworkingSpec(client_idle_timeout=Duration.of(minutes=10)))


@pytest.mark.parametrize(
    ("stored", "force", "confirm", "refused"),
    [
        (Origin.DEFAULTS, False, False, None),
        (Origin.DEFAULTS, True, False, None),
        (Origin.DYNAMIC, False, False, AlreadyExists),
        (Origin.DYNAMIC, True, False, None),
        (Origin.CONFIG_FILE, False, False, BadRequest),
        (Origin.CONFIG_FILE, True, False, BadRequest),
        (Origin.CONFIG_FILE, False, True, AlreadyExists),
        (Origin.CONFIG_FILE, True, True, None),
    ],
)
def test_who_may_write_what(stored: Origin, force: bool, confirm: bool, refused: type[TeleportError] | None) -> None:
    """The table of `resources.md` 8."""
    if refused is None:
        decide_write(KIND, stored, force=force, confirm=confirm)
    else:
        with pytest.raises(refused):
            decide_write(KIND, stored, force=force, confirm=confirm)


def test_only_what_somebody_wrote_is_reset() -> None:
    decide_reset(KIND, Origin.DYNAMIC)
    decide_reset(KIND, Origin.DEFAULTS)
    with pytest.raises(BadRequest, match="configuration file"):
        decide_reset(KIND, Origin.CONFIG_FILE)


def test_what_a_start_makes_of_what_is_stored() -> None:
    """The file wins; what it does not say any more goes back to the defaults; what people wrote is kept."""
    dynamic, filed = with_origin(IDLE, Origin.DYNAMIC), with_origin(IDLE, Origin.CONFIG_FILE)
    other = NetworkingConfig(spec=NetworkingSpec(keep_alive_count_max=9))
    assert decide_start(None, None) is None
    assert decide_start(dynamic, None) == dynamic
    assert decide_start(filed, None) is None
    for stored in (None, dynamic, filed):
        assert decide_start(stored, other) == with_origin(other, Origin.CONFIG_FILE)


def test_changes_are_named_with_both_values_and_bounded() -> None:
    before = AuthPreference()
    after = AuthPreference(
        spec=AuthPreferenceSpec(second_factor=SecondFactor.OFF, allow_local_auth=False, message_of_the_day="x" * 900)
    )
    assert changed_fields(before, before) == []
    found = changed_fields(before, after)
    assert found[:2] == ["second_factor: otp -> off", "allow_local_auth: yes -> no"]
    assert found[2] == f"message_of_the_day: none -> {'x' * 200}..."
    assert changed_fields(NetworkingConfig(), IDLE) == ["client_idle_timeout: never -> 10m0s"]


async def test_a_start_stores_and_tells_only_what_changed() -> None:
    told: list[int] = []
    clock = FakeClock()
    backend = MemoryBackend(clock)
    await backend.open()
    state = ClusterState(backend, clock, CLUSTER, on_events=lambda: told.append(1))
    settings = Settings(state)
    await settings.merge([])
    assert (await backend.range("cluster/"), told) == ([], [])
    await settings.merge([IDLE])
    assert len(told) == 1
    await settings.merge([IDLE])
    assert len(told) == 1, "nothing changed, so nothing is told"
    assert origin_of(await state.networking()) is Origin.CONFIG_FILE
    await settings.merge([])
    assert len(told) == 2
    assert await state.networking() == NetworkingConfig()
    await backend.close()


async def store(auth: RunningAuth, item: NetworkingConfig, **flags: bool) -> None:
    request = m.StoreRequest(item=m.Document(to_json(item)), **flags)
    await auth.call(await auth.admin(), routes.STORE[KIND], request)


async def shown(auth: RunningAuth) -> NetworkingConfig:
    page = await auth.call(await auth.admin(), routes.LIST[KIND], m.ListRequest())
    (found,) = (from_json(bytes(item)) for item in page.items)
    assert isinstance(found, NetworkingConfig)
    one = await auth.call(await auth.admin(), routes.GET[KIND], m.GetRequest(name=setting_name(KIND)))
    assert from_json(bytes(one.item)) == found
    return found


async def test_settings_are_changed_and_reset_over_the_api(tmp_path: Path) -> None:
    """Whoever writes says nothing of the origin that counts; every change is on record with both values."""
    async with running_auth(tmp_path) as auth:
        assert await shown(auth) == default_of(KIND)
        await store(auth, with_origin(IDLE, Origin.CONFIG_FILE))
        assert await shown(auth) == with_origin(IDLE, Origin.DYNAMIC)
        with pytest.raises(AlreadyExists, match="exists already"):
            await store(auth, IDLE)
        await store(auth, NetworkingConfig(), force=True)
        await Settings(auth.service.state).merge([IDLE])
        for flags in ({"force": True}, {}):
            with pytest.raises(BadRequest, match="decided by the configuration file"):
                await store(auth, NetworkingConfig(), **flags)
        reset = m.ExpelRequest(name=setting_name(KIND))
        with pytest.raises(BadRequest, match="decided by the configuration file"):
            await auth.call(await auth.admin(), routes.REMOVE[KIND], reset)
        await store(auth, NetworkingConfig(), force=True, confirm=True)
        assert origin_of(await shown(auth)) is Origin.DYNAMIC
        await auth.call(await auth.admin(), routes.REMOVE[KIND], reset)
        assert await shown(auth) == default_of(KIND)
        await auth.call(await auth.admin(), routes.REMOVE[KIND], reset)
        with pytest.raises(NotFound):
            await auth.call(await auth.admin(), routes.REMOVE[KIND], m.ExpelRequest(name="other"))
        events = await auth.events("cluster_networking_config.update", wait_for=5)
        assert sorted((event["origin"], event["changed"]) for event in events) == [
            ("config-file", ["client_idle_timeout: never -> 10m0s"]),
            ("defaults", []),
            ("dynamic", ["client_idle_timeout: 10m0s -> never"]),
            ("dynamic", ["client_idle_timeout: 10m0s -> never"]),
            ("dynamic", ["client_idle_timeout: never -> 10m0s"]),
        ]
        by_people = [event for event in events if event["origin"] != "config-file"]
        assert all(event["user"] == event["updated_by"] != AT_START for event in by_people)


async def test_a_document_of_another_kind_and_a_bad_value_are_refused(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        request = m.StoreRequest(item=m.Document(to_json(SessionRecordingConfig())))
        with pytest.raises(BadRequest, match="the document is a session_recording_config"):
            await auth.call(await auth.admin(), routes.STORE[KIND], request)
        zero = NetworkingConfig(spec=NetworkingSpec(keep_alive_interval=Duration(0)))
        with pytest.raises(BadRequest, match="keep_alive_interval"):
            await store(auth, zero)


async def test_who_may_not_is_refused_and_learns_nothing(tmp_path: Path) -> None:
    """Everybody may know how to log in; the other settings are for those whose roles read them."""
    async with running_auth(tmp_path) as auth:
        user = await auth.user("plain", ["access"])
        preference = Kind.CLUSTER_AUTH_PREFERENCE
        await auth.call(user, routes.LIST[preference], m.ListRequest())
        for kind in SINGLETONS:
            for name in (setting_name(kind), "other"):
                if kind is not preference:
                    with pytest.raises(AccessDenied):
                        await auth.call(user, routes.GET[kind], m.GetRequest(name=name))
                if kind in routes.STORE:
                    with pytest.raises(AccessDenied):
                        await auth.call(user, routes.REMOVE[kind], m.ExpelRequest(name=name))
            if kind in routes.STORE:
                request = m.StoreRequest(item=m.Document(to_json(SINGLETONS[kind]())), force=True)
                with pytest.raises(AccessDenied):
                    await auth.call(user, routes.STORE[kind], request)
