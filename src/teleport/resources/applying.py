"""What `tctl apply` does, worked out from documents and from what is stored: a plan, and no call.

Rules kept here: what a program or a daemon decides is not compared (revisions, origins, the lock after failed logins,
who made a user); what was made by an earlier apply carries the name of its set in a label, and only such things are
ever taken away again; presets and settings never are; nothing in a plan holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from teleport.resources.cluster import SINGLETONS
from teleport.resources.codec import Resource, to_document, without_secrets
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.metadata import ORIGIN_LABEL
from teleport.resources.presets import PRESET_NAMES
from teleport.resources.role import IMPLICIT_ROLE_NAME
from teleport.resources.trusted_cluster import TrustedCluster, TrustedClusterStatus
from teleport.resources.user import CreatedBy, User, UserStatus

SET_LABEL: Final = "teleport.dev/apply-set"
ORDER: Final = (
    Kind.ROLE,
    Kind.CLUSTER_AUTH_PREFERENCE,
    Kind.CLUSTER_NETWORKING_CONFIG,
    Kind.SESSION_RECORDING_CONFIG,
    Kind.USER,
    Kind.TRUSTED_CLUSTER,
    Kind.LOCK,
)
"""What is applied, in this order: users and other clusters refer to roles. It is taken away from the end."""
PRUNED: Final = tuple(kind for kind in reversed(ORDER) if kind not in SINGLETONS)
NOT_APPLIED: Final[Mapping[Kind, str]] = {
    Kind.TOKEN: "a join token is a secret that ends by itself: tctl tokens add makes one",
    Kind.CERT_AUTHORITY: "its private keys have no place in a file that is applied: tctl backup",
    Kind.CLUSTER_AUDIT_CONFIG: "the configuration file of the auth server says it",
    Kind.REMOTE_CLUSTER: "it appears when that cluster proves its token: tctl update changes its labels",
    Kind.NODE: "hosts announce themselves; tctl nodes add registers one with a plain sshd",
}


class Change(StrEnum):
    """What becomes of a resource."""

    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    NONE = "unchanged"


@dataclass(frozen=True, slots=True)
class Field:
    """One difference. None: it is not there."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One resource of a plan. `resource` is what is stored, or what is removed."""

    change: Change
    resource: Resource
    fields: tuple[Field, ...] = ()
    revision: int = 0  # of what it takes the place of

    @property
    def kind(self) -> Kind:
        return Kind(self.resource.kind)

    @property
    def name(self) -> str:
        return self.resource.metadata.name


def refusals(resource: Resource, set_name: str, stored: Resource | None) -> Iterator[str]:
    """Why `resource` cannot be applied."""
    kind = Kind(resource.kind)
    if kind not in ORDER:
        yield NOT_APPLIED.get(kind, "services announce themselves")
    if isinstance(resource, User) and resource.spec.local_auth is not None:
        yield "a password hash or second factor has no place in a file that is applied: leave spec.local_auth away"
    if kind is Kind.ROLE and resource.metadata.name == IMPLICIT_ROLE_NAME:
        yield "it is part of the program"
    owner = set_of(stored) if stored is not None else ""
    if owner not in ("", set_name):
        yield f"it was made by tctl apply --set={owner}; one set at most has it"


def is_over(resource: Resource, now: datetime) -> bool:
    """Whether a lock has ended: it would be gone as soon as it was stored."""
    return isinstance(resource, Lock) and resource.metadata.expires is not None and resource.metadata.expires <= now


def set_of(resource: Resource) -> str:
    """The set that made it; empty when a person, a program or a daemon did."""
    return resource.metadata.labels.get(SET_LABEL, "")


def missing_roles(resource: Resource, known: frozenset[str]) -> list[str]:
    """Roles that it refers to and that are neither stored nor in the files."""
    match resource:
        case User():
            named: Sequence[str] = resource.roles
        case TrustedCluster():
            named = [role for one in resource.role_map for role in one.local if "$" not in role]
        case _:
            named = ()
    return [role for role in dict.fromkeys(named) if role not in known]


def step_for(wanted: Resource, stored: Resource | None, revision: int, set_name: str) -> Step:
    """What is to be done so that `wanted` is what is stored. A setting that nobody stored has revision 0."""
    if stored is None:
        made = _decided(wanted, None)
        created = tuple(_differences({}, _shown(made)))
        return Step(Change.CREATE, _labelled(made, set_name), created)
    made = _labelled(_decided(wanted, stored), set_of(stored))
    fields = tuple(_differences(_shown(_decided(stored, stored)), _shown(made)))
    if not fields:
        return Step(Change.NONE, stored, revision=revision)
    return Step(Change.UPDATE, made, fields, revision)


def pruned(stored: Sequence[Resource], kept: frozenset[tuple[Kind, str]], set_name: str) -> list[Step]:
    """What the set made earlier and does not have any more; users before the roles that they hold."""
    gone = [one for one in stored if set_of(one) == set_name and (Kind(one.kind), one.metadata.name) not in kept]
    removable = [one for one in gone if not (one.kind == "role" and one.metadata.name in PRESET_NAMES)]
    steps = [Step(Change.REMOVE, one, tuple(_differences(_shown(one), {}))) for one in removable]
    return sorted(steps, key=lambda step: (PRUNED.index(step.kind), step.name))


def still_held(steps: Sequence[Step], users: Sequence[User]) -> list[str]:
    """Of the roles that would be removed, those that somebody of `users` has once the rest of the plan is done."""
    after = {user.name: user for user in users}
    for step in steps:
        if step.change is Change.REMOVE:
            after.pop(step.name if step.kind is Kind.USER else "", None)
        elif isinstance(step.resource, User):
            after[step.name] = step.resource
    removed = [step.name for step in steps if step.change is Change.REMOVE and step.kind is Kind.ROLE]
    return [role for role in removed if any(role in user.roles for user in after.values())]


def in_order(resources: Sequence[Resource]) -> list[Resource]:
    """As they are stored."""
    return sorted(resources, key=lambda one: (ORDER.index(Kind(one.kind)), one.metadata.name))


def _decided(resource: Resource, stored: Resource | None) -> Resource:
    """`resource` as it would be stored in the place of `stored`, without what documents do not decide."""
    changes: dict[str, Any] = {}
    metadata = msgspec.structs.replace(
        resource.metadata,
        id=0,
        labels={key: text for key, text in resource.metadata.labels.items() if key not in (SET_LABEL, ORIGIN_LABEL)},
    )
    match resource:
        case User():
            changes["spec"] = msgspec.structs.replace(
                resource.spec, local_auth=None, created_by=CreatedBy(), status=UserStatus()
            )
        case TrustedCluster():
            changes["status"] = TrustedClusterStatus()
            if isinstance(stored, TrustedCluster):  # all but `enabled` stays as it was established
                changes["spec"] = msgspec.structs.replace(resource.spec, token=None)
                metadata = msgspec.structs.replace(stored.metadata, id=0)
    return msgspec.structs.replace(resource, metadata=metadata, **changes)


def _labelled(resource: Resource, set_name: str) -> Resource:
    """Marked as the set's; settings and presets are nobody's."""
    preset = resource.kind == "role" and resource.metadata.name in PRESET_NAMES
    if not set_name or Kind(resource.kind) in SINGLETONS or preset:
        return resource
    labels = {**resource.metadata.labels, SET_LABEL: set_name}
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(resource.metadata, labels=labels))


def _shown(resource: Resource) -> dict[str, Any]:
    """What is compared and printed."""
    document = to_document(without_secrets(resource))
    metadata = {key: value for key, value in document["metadata"].items() if key not in ("name", "id")}
    labels = {key: text for key, text in metadata.pop("labels", {}).items() if key not in (SET_LABEL, ORIGIN_LABEL)}
    if labels:
        metadata["labels"] = labels
    return {"version": document["version"], "metadata": metadata, "spec": document["spec"]}


def _differences(before: Any, after: Any, path: str = "") -> Iterator[Field]:
    """Leaf by leaf; a list is one value, in which order counts."""
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        one = before if isinstance(before, Mapping) else {}
        other = after if isinstance(after, Mapping) else {}
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
        if not one and not other and before != after:  # an empty map is not the same as none
            yield Field(path, before, after)
    elif before != after:
        yield Field(path, before, after)
