"""What every audit event has, and the groups of fields that many share.

An event is a frozen value; its class names it (`noun.verb`), its code comes from `codes.CODES`. Fields are only
ever added, with defaults, and never change their type (readers outside hold on to both); a field that may be absent
is left out of the line rather than given another type. Each field's meaning is the comment on its line, and
`docs/audit-events.md` is made from these comments.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import force_setattr

from teleport.audit.codes import CODES


class Actor(Struct, frozen=True, kw_only=True):
    """Who sits at a local `tctl`: it acts as the auth server, so the Unix side says which person. This is what that
    program says of itself, not proved: whoever can read the administrator's key can say anything here."""

    unix_user: str = ""  # name of the effective Unix user
    login_uid: int = -1  # the kernel's login uid, which survives su and sudo; -1 when unset
    terminal: str = ""  # the terminal's device, empty when there is none


class Event(Struct, frozen=True, kw_only=True, tag_field="event"):
    """An audit event. The fields of the chain are filled in when an emitter writes it (`chain`)."""

    code: str = ""  # stable code of this event and outcome
    time: datetime  # when it happened, RFC 3339, UTC
    uid: str  # UUID of this event
    ei: int = 0  # index inside its session's stream, 0 for single events
    cluster_name: str = ""  # cluster that it happened in
    emitter: str = ""  # host UUID of the daemon that wrote it
    epoch: int = 0  # run of that daemon on its host
    seq: int = 0  # place in the chain of emitter and epoch, from 1
    prev: str = ""  # hash of the event before it in the chain, hex; for seq 1 the former epoch's last, when known
    checkpoint: str = ""  # last checkpoint that the emitter knew, number:hash
    hash: str | UnsetType = UNSET  # SHA-256 of this line without this field and what follows it, hex
    received: datetime | UnsetType = UNSET  # after `hash`: when auth took it in, by auth's clock, RFC 3339, UTC
    receipt: str | UnsetType = UNSET  # after `received`: a check of that time, 16 hex digits

    def __post_init__(self) -> None:
        if not self.code:
            row = CODES.get(event_name(self))
            if row is not None:
                force_setattr(self, "code", row.failed if self.failed() else row.ok)

    def failed(self) -> bool:
        """Whether this event has the code of failure."""
        return False


def event_name(event: Event | type[Event]) -> str:
    """The `noun.verb` name of an event or its class."""
    return str(event.__struct_config__.tag)


class UserEvent(Event, frozen=True, kw_only=True):
    """Something that a user did or had done."""

    user: str = ""  # cluster user
    login: str = ""  # Unix login asked for
    impersonator: str = ""  # who acts in the user's name
    actor: Actor | UnsetType = UNSET  # person at a local tctl; only then present


class StatusEvent(UserEvent, frozen=True, kw_only=True):
    """Something that a user did and that succeeded or not."""

    success: bool = True  # whether it succeeded
    error: str = ""  # why not
    message: str = ""  # further words for people

    def failed(self) -> bool:
        return not self.success


class ResourceEvent(UserEvent, frozen=True, kw_only=True):
    """A resource was changed, by `user`."""

    name: str = ""  # name of the resource
    expires: datetime | UnsetType = UNSET  # when it lapses; absent when it does not
    updated_by: str = ""  # who changed it
    ttl: str = ""  # lifetime as asked for, such as 1h0m0s
    addr: str | UnsetType = UNSET  # where it was asked for from; absent from older events


class ServerEvent(UserEvent, frozen=True, kw_only=True):
    """Something on a server, over a connection, perhaps in a session."""

    sid: str = ""  # session id
    server_id: str = ""  # host UUID of the server
    server_hostname: str = ""  # its host name
    server_addr: str = ""  # its address
    server_labels: dict[str, str] = field(default_factory=dict)  # its labels
    namespace: str = ""  # its namespace
    addr_local: str = field(default="", name="addr.local")  # our end of the connection
    addr_remote: str = field(default="", name="addr.remote")  # the client's end
    proto: str = ""  # ssh or kube


E_ = TypeVar("E_", bound=Event)


def new_event(cls: type[E_], now: datetime, uid: str, **fields: Any) -> E_:
    """An event of `cls` at the aware time `now`, with the UUID `uid`. `TypeError` for unknown fields."""
    return cls(time=now, uid=uid, **fields)
