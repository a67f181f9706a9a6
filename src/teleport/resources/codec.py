"""The stored and the wire form of resources: one JSON document of the shape people know, with a `schema` number.

    {"schema": 1, "kind": "user", "version": "v2", "metadata": {"name": "alice"}, "spec": {"roles": ["access"]}}

Rules kept here: fields at their default are left out; durations are written as Go does (`30h0m0s`), times as RFC 3339;
unknown fields, kinds and newer schemas are refused, so that nothing is ever dropped or widened in silence; whatever
is read is checked by the resource's own `findings()`. Secrets are written only where the caller says so: without
`with_secrets` a resource that holds any is refused, never silently stripped and never silently shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast, get_args

import msgspec

from teleport.clock import rfc3339
from teleport.errors import BadRequest
from teleport.resources.authority import Authority
from teleport.resources.cluster import (
    AuditConfig,
    AuthPreference,
    ClusterName,
    NetworkingConfig,
    SessionRecordingConfig,
)
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock
from teleport.resources.metadata import FieldWarning
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.role import Role
from teleport.resources.secret import SecretText
from teleport.resources.server import Glance, Server
from teleport.resources.token import Token
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster
from teleport.resources.user import User
from teleport.resources.values import Duration

SCHEMA = 1
MAX_DOCUMENT = 1_000_000  # bytes, `resources.md` 1

Resource = (
    User
    | Role
    | Token
    | Server
    | Authority
    | Lock
    | MfaLease
    | TrustedCluster
    | RemoteCluster
    | AuthPreference
    | NetworkingConfig
    | SessionRecordingConfig
    | AuditConfig
    | ClusterName
)
TYPES: Mapping[Kind, type[Resource]] = {
    Kind.USER: User,
    Kind.ROLE: Role,
    Kind.TOKEN: Token,
    Kind.NODE: Server,
    Kind.PROXY: Server,
    Kind.AUTH_SERVER: Server,
    Kind.KUBE_SERVICE: Server,
    Kind.CERT_AUTHORITY: Authority,
    Kind.LOCK: Lock,
    Kind.MFA_LEASE: MfaLease,
    Kind.TRUSTED_CLUSTER: TrustedCluster,
    Kind.REMOTE_CLUSTER: RemoteCluster,
    Kind.CLUSTER_AUTH_PREFERENCE: AuthPreference,
    Kind.CLUSTER_NETWORKING_CONFIG: NetworkingConfig,
    Kind.SESSION_RECORDING_CONFIG: SessionRecordingConfig,
    Kind.CLUSTER_AUDIT_CONFIG: AuditConfig,
    Kind.CLUSTER_NAME: ClusterName,
}
NAMES: frozenset[str] = frozenset(str(kind) for kind in TYPES)
_R = TypeVar("_R")


class _SecretsInside(Exception):
    """A secret was met where none may be written."""


def to_document(resource: Resource, *, with_secrets: bool = False) -> dict[str, Any]:
    """The document of `resource`: maps, lists, text, numbers. Raises `BadRequest` if it holds secrets unasked."""

    try:
        document = cast("dict[str, Any]", _encode(resource, with_secrets=with_secrets))
    except _SecretsInside:
        raise BadRequest(
            f"{resource.kind} {resource.name!r} holds secrets, which were not asked for",
            hint="send resource.without_secrets(), or write it with_secrets",
        ) from None
    head: dict[str, Any] = {"kind": resource.kind, "version": resource.version}
    if isinstance(resource, Authority):
        head["sub_kind"] = resource.sub_kind.value
    elif isinstance(resource, Server) and resource.sub_kind:
        head["sub_kind"] = resource.sub_kind
    metadata = _encode(resource.metadata, with_secrets=with_secrets)  # written even where it is the default
    tail = {"status": document["status"]} if document.get("status") else {}
    return {**head, "metadata": metadata, "spec": document.get("spec", {}), **tail}


def _encode(value: object, *, with_secrets: bool) -> object:
    match value:
        case SecretText():
            if not with_secrets:
                raise _SecretsInside
            return value.reveal()
        case Duration():
            return str(value)
        case datetime():
            return rfc3339(value)
        case msgspec.Struct():
            fields = ((field, getattr(value, field.name)) for field in _fields(type(value)))
            return {
                field.name: _encode(inner, with_secrets=with_secrets)
                for field, inner in fields
                if field.required or inner != _default(field)
            }
        case Mapping():
            return {str(key): _encode(inner, with_secrets=with_secrets) for key, inner in value.items()}
        case list() | tuple():
            return [_encode(inner, with_secrets=with_secrets) for inner in value]
        case StrEnum():
            return value.value
        case None | bool() | int() | str():
            return value
    raise TypeError(f"cannot write a {type(value).__name__}")


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a struct; asking msgspec evaluates every annotation anew."""
    return msgspec.structs.fields(kind)


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def from_document(document: object) -> Resource:
    """The resource that `document` holds, checked; raises `BadRequest` naming the field."""
    if not isinstance(document, Mapping):
        raise BadRequest("a resource is a map with kind, version, metadata and spec")
    fields = dict(document)
    schema = fields.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise BadRequest(f"schema {schema!r} is newer than this version knows ({SCHEMA})", hint="upgrade this host")
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in NAMES:
        raise BadRequest(f"unknown kind of resource {str(kind)[:64]!r}")
    if "version" not in fields:
        raise BadRequest(f"{kind}: the version is missing")
    type_ = TYPES[Kind(kind)]
    try:
        resource = msgspec.convert(_read_durations(fields, _duration_tree(type_)), type_, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError) as error:
        raise BadRequest(f"{kind}: {error}") from None
    return checked(resource)


def checked(resource: _R) -> _R:
    """`resource`, if nothing is wrong with it; raises `BadRequest` with everything that is."""
    findings = list(cast(Resource, resource).findings())
    if findings:
        named = cast(Resource, resource)
        raise BadRequest(f"{named.kind} {named.metadata.name[:128]!r}: " + "; ".join(str(one) for one in findings))
    return resource


def to_json(resource: Resource, *, with_secrets: bool = False) -> bytes:
    """The stored form. Raises `BadRequest` if it holds secrets unasked, or is larger than the limit."""
    data = msgspec.json.encode({"schema": SCHEMA, **to_document(resource, with_secrets=with_secrets)})
    if len(data) > MAX_DOCUMENT:
        raise BadRequest(f"{resource.kind} {resource.name!r} is {len(data)} bytes; the limit is {MAX_DOCUMENT}")
    return data


def from_json(data: bytes) -> Resource:
    """Reads the stored form; raises `BadRequest`."""
    if len(data) > MAX_DOCUMENT:
        raise BadRequest(f"a resource of {len(data)} bytes; the limit is {MAX_DOCUMENT}")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a resource: {error}") from None
    return from_document(document)


def at_a_glance(data: bytes) -> Glance:
    """Of the stored form of a server; raises `BadRequest`."""
    try:
        return msgspec.json.decode(data, type=Glance)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a server: {error}") from None


def heard_again(data: bytes, now: datetime, expires: datetime, lost_after: int) -> bytes | None:
    """The stored form of a server that is heard of again, of which all else is as `data` says. None where it has to be
    read whole. Of ten thousand servers, reading and writing each whole was a third of what an announcement cost."""
    document = msgspec.json.decode(data)
    metadata, spec = document.get("metadata", {}), document.get("spec", {})
    if document.get("schema") != SCHEMA or "expires" not in metadata or not {"heard", "lost_after"} <= spec.keys():
        return None
    metadata["expires"], spec["heard"], spec["lost_after"] = rfc3339(expires), rfc3339(now), lost_after
    made = msgspec.json.encode(document)
    return made if len(made) <= MAX_DOCUMENT else None


def without_secrets(resource: _R) -> _R:
    """`resource` as those may see it who may not see its secrets."""
    if isinstance(resource, Authority):
        return cast(_R, resource.without_secrets())
    if isinstance(resource, User):
        return cast(_R, msgspec.structs.replace(resource, spec=msgspec.structs.replace(resource.spec, local_auth=None)))
    if isinstance(resource, TrustedCluster):
        spec = msgspec.structs.replace(resource.spec, token=None)
        return cast(_R, msgspec.structs.replace(resource, spec=spec))
    return resource


def resource_warnings(resource: Resource) -> tuple[FieldWarning, ...]:
    """Fields of `resource` that are kept but have no effect yet."""
    return cast("tuple[FieldWarning, ...]", getattr(resource, "warnings", ()))


def _decode(type_: type[Any], value: object) -> object:
    """Our own types in foreign data; msgspec turns `ValueError` into its error with the path."""
    if type_ is not SecretText:
        raise NotImplementedError(type_)
    if not isinstance(value, str):
        raise ValueError("expected text")
    return SecretText(value)


class _Tree(dict[str, "_Tree | None"]):
    """Where durations are inside a type: None is a duration, `*` stands for every key or item."""


@cache
def _duration_tree(type_: object) -> _Tree | None:
    """msgspec reads a dataclass from a map only; ours are text in documents, so they are found before it looks."""
    if type_ is Duration:
        return None
    tree = _Tree()
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        for field in msgspec.structs.fields(type_):
            inner = _duration_tree(field.type)
            if inner is None or inner:
                tree[field.name] = inner
        return tree
    for argument in get_args(type_):
        inner = _duration_tree(argument)
        if inner is None or inner:
            tree["*"] = inner
    return tree


def _read_durations(value: object, tree: _Tree | None) -> object:
    """`value` with the text of its durations as msgspec wants them; raises `ValueError`."""
    if tree is None:
        if not isinstance(value, str):
            raise ValueError(f"a duration is text such as 30h, not {value!r:.60}")
        return {"nanoseconds": Duration.parse(value, never=True).nanoseconds}
    if not tree:
        return value
    if isinstance(value, Mapping):
        return {
            key: _read_durations(inner, tree[key] if key in tree else tree["*"])
            if key in tree or "*" in tree
            else inner
            for key, inner in value.items()
        }
    if isinstance(value, list) and "*" in tree:
        return [_read_durations(inner, tree["*"]) for inner in value]
    return value
