"""The settings of the cluster as auth keeps them: who decides each (`resources.md` 8), over the API and at each start.

A setting that is not stored has its defaults, so that these are those of the running version. What is stored is the
configuration file's or somebody's at tctl, as its label `teleport.dev/origin` says; auth writes that label, documents
do not. `decide_*` are the table of who may change what; the rest carries it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.events import (
    AuditConfigUpdate,
    AuthPreferenceUpdate,
    NetworkingUpdate,
    RecordingUpdate,
    SettingsUpdate,
)
from teleport.auth.authorizer import Authorizer, facts_of
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState, document
from teleport.backend.interface import Absent, Condition, DeleteOp, Exists, Item, PutOp, Write
from teleport.errors import AlreadyExists, BadRequest, CompareFailed, NotFound, TeleportError
from teleport.resources.cluster import (
    SINGLETONS,
    AuditConfig,
    AuthPreference,
    NetworkingConfig,
    Origin,
    SessionRecordingConfig,
    Singleton,
    default_of,
    origin_of,
    setting_name,
    with_origin,
)
from teleport.resources.codec import from_json, to_json
from teleport.resources.kinds import Kind, Verb
from teleport.resources.values import Duration
from teleport.store import records

EVENTS: Final[dict[Kind, type[SettingsUpdate]]] = {
    Kind.CLUSTER_AUTH_PREFERENCE: AuthPreferenceUpdate,
    Kind.CLUSTER_NETWORKING_CONFIG: NetworkingUpdate,
    Kind.SESSION_RECORDING_CONFIG: RecordingUpdate,
    Kind.CLUSTER_AUDIT_CONFIG: AuditConfigUpdate,
}
AT_START: Final = "teleport start"
_TRIES: Final = 20
_SHOWN: Final = 200  # characters of a value in an event


def decide_write(kind: Kind, stored: Origin, *, force: bool, confirm: bool) -> None:
    """Whether somebody may write a setting that `stored` decided; raises `BadRequest` or `AlreadyExists`."""
    name = setting_name(kind)
    if stored is Origin.CONFIG_FILE and not confirm:
        raise BadRequest(
            f"the {kind} {name!r} is decided by the configuration file of the auth server",
            hint="change auth_service there and restart it; without these keys in the file, tctl decides",
        )
    if stored is not Origin.DEFAULTS and not force:
        raise AlreadyExists(f"{kind} {name!r} exists already", hint="tctl create -f replaces it")


def decide_reset(kind: Kind, stored: Origin) -> None:
    """Whether somebody may bring back the defaults; raises `BadRequest`."""
    if stored is Origin.CONFIG_FILE:
        raise BadRequest(
            f"the {kind} {setting_name(kind)!r} is decided by the configuration file of the auth server",
            hint="remove its keys there and restart it",
        )


def decide_start(stored: Singleton | None, in_file: Singleton | None) -> Singleton | None:
    """What is stored from a start of auth on; None for the defaults. What the file says is the file's; what it does
    not say any more is nobody's."""
    if in_file is not None:
        return with_origin(in_file, Origin.CONFIG_FILE)
    if stored is not None and origin_of(stored) is Origin.CONFIG_FILE:
        return None
    return stored


def changed_fields(before: Singleton, after: Singleton) -> list[str]:
    """Each field of the spec that differs, with both values, for the audit log."""
    return [
        f"{name}: {_shown(getattr(before.spec, name))} -> {_shown(getattr(after.spec, name))}"
        for name in before.spec.__struct_fields__
        if getattr(before.spec, name) != getattr(after.spec, name)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, msgspec.Struct):
        text = ", ".join(f"{name}={_shown(getattr(value, name))}" for name in value.__struct_fields__)
    elif isinstance(value, tuple):
        text = ",".join(map(_shown, value))
    elif isinstance(value, Duration):
        text = str(value) if value else "never"
    else:
        text = str(value)
    return (text if len(text) <= _SHOWN else text[:_SHOWN] + "...") or "none"


class Settings:
    """The handlers of their routes, and the merge at a start."""

    def __init__(self, state: ClusterState, authorizer: Authorizer | None = None) -> None:
        """`authorizer` for the handlers."""
        self._state = state
        self._authorizer = authorizer

    async def _stored(self, kind: Kind) -> tuple[Singleton | None, Item | None]:
        item = await self._state.backend.get(records.CLUSTER + setting_name(kind))
        if item is None:
            return None, None
        found = from_json(item.value)
        if not isinstance(found, AuthPreference | NetworkingConfig | SessionRecordingConfig | AuditConfig):
            raise TeleportError(f"the storage holds no {kind} at {item.key}")
        return found, item

    async def _write(self, kind: Kind, item: Item | None, wanted: Singleton | None, caller: Caller | None) -> None:
        """Raises `CompareFailed` when it was changed since `item` was read."""
        key = records.CLUSTER + setting_name(kind)
        write: Write = DeleteOp(key, missing_ok=True) if wanted is None else PutOp(key, to_json(wanted))
        before = from_json(item.value) if item is not None else default_of(kind)
        after = wanted or default_of(kind)
        told = self._state.event(
            EVENTS[kind],
            caller,
            name=setting_name(kind),
            updated_by=caller.name if caller is not None else AT_START,
            origin=origin_of(after).value,
            changed=changed_fields(before, after),  # type: ignore[arg-type]  # of the same kind
        )
        condition: Condition = Absent(key) if item is None else Exists(key, item.revision)
        await self._state.commit([write], conditions=[condition], events=[told])

    async def merge(self, from_file: Sequence[Singleton]) -> None:
        """Brings together what is stored and what the configuration file says; at each start."""
        said = {Kind(one.kind): one for one in from_file}
        for kind in SINGLETONS:
            for attempt in range(_TRIES):
                stored, item = await self._stored(kind)
                wanted = decide_start(stored, said.get(kind))
                if wanted == stored:
                    break
                try:
                    await self._write(kind, item, wanted, None)
                    break
                except CompareFailed:  # another auth server starts, too
                    if attempt == _TRIES - 1:
                        raise

    # the routes

    async def _require(self, caller: Caller, verb: Verb, kind: Kind, resource: Singleton) -> None:
        assert self._authorizer is not None
        await self._authorizer.require(caller, verb, kind, facts_of(resource))

    async def page(self, kind: Kind, caller: Caller, request: m.ListRequest) -> m.Page:
        """The one resource of `kind`."""
        stored, _ = await self._stored(kind)
        resource = stored or default_of(kind)
        await self._require(caller, Verb.LIST, kind, resource)
        await self._require(caller, Verb.READ_NO_SECRETS, kind, resource)
        return m.Page(items=[document(resource)])

    async def get(self, kind: Kind, caller: Caller, request: m.GetRequest) -> m.One:
        stored, item = await self._stored(kind)
        resource = stored or default_of(kind)
        await self._require(caller, Verb.READ_NO_SECRETS, kind, resource)
        _check_name(kind, request.name)
        return m.One(item=document(resource), revision=item.revision if item is not None else 0)

    async def store(self, kind: Kind, caller: Caller, request: m.StoreRequest) -> m.Done:
        """Changes a setting while the cluster runs."""
        resource = from_json(bytes(request.item))
        if not isinstance(resource, SINGLETONS[kind]):
            raise BadRequest(f"this stores a {kind}, the document is a {resource.kind}")
        stored, item = await self._stored(kind)
        await self._require(caller, Verb.CREATE, kind, resource)
        await self._require(caller, Verb.UPDATE, kind, stored or default_of(kind))
        if request.revision and (item is None or item.revision != request.revision):
            raise _overtaken(kind)
        origin = origin_of(stored) if stored is not None else Origin.DEFAULTS
        decide_write(kind, origin, force=request.force, confirm=request.confirm)
        if request.check:
            return m.Done()
        try:
            await self._write(kind, item, with_origin(resource, Origin.DYNAMIC), caller)
        except CompareFailed:
            raise _overtaken(kind) from None
        return m.Done()

    async def reset(self, kind: Kind, caller: Caller, request: m.ExpelRequest) -> m.Done:
        """Brings back the defaults."""
        stored, item = await self._stored(kind)
        await self._require(caller, Verb.DELETE, kind, stored or default_of(kind))
        _check_name(kind, request.name)
        decide_reset(kind, origin_of(stored) if stored is not None else Origin.DEFAULTS)
        if stored is None:
            return m.Done()
        try:
            await self._write(kind, item, None, caller)
        except CompareFailed:
            raise _overtaken(kind) from None
        return m.Done()

    def handlers(self) -> dict[str, Callable[[Caller, Any], Awaitable[m.Message]]]:
        """The handler of each of their routes."""
        table: dict[str, Callable[[Caller, Any], Awaitable[m.Message]]] = {}
        for kind in SINGLETONS:
            table[routes.LIST[kind].name] = _bind(self.page, kind)
            table[routes.GET[kind].name] = _bind(self.get, kind)
            if kind in routes.STORE:
                table[routes.STORE[kind].name] = _bind(self.store, kind)
                table[routes.REMOVE[kind].name] = _bind(self.reset, kind)
        return table


def _bind(method: Callable[..., Awaitable[m.Message]], kind: Kind) -> Callable[[Caller, Any], Awaitable[m.Message]]:
    async def handler(caller: Caller, request: Any) -> m.Message:
        return await method(kind, caller, request)

    return handler


def _check_name(kind: Kind, name: str) -> None:
    if name != setting_name(kind):
        raise NotFound(f"there is no {kind} {name!r}", hint=f"there is one such resource: tctl get {kind}")


def _overtaken(kind: Kind) -> CompareFailed:
    return CompareFailed(
        f"the {kind} was changed by somebody else at this moment", hint=f"look at it and try again: tctl get {kind}"
    )
