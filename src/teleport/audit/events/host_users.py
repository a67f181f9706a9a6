"""Events of accounts that are made on a host for sessions."""

from __future__ import annotations

from msgspec import field

from teleport.audit.events.base import ServerEvent


class HostUserCreate(ServerEvent, frozen=True, kw_only=True, tag="host_user.create"):
    """An account, `login`, was made on a host for a session."""

    uid_number: int = 0  # its uid
    groups: list[str] = field(default_factory=list)  # its further groups
    error: str = ""  # why it could not be made

    def failed(self) -> bool:
        return bool(self.error)


class HostUserUpdate(ServerEvent, frozen=True, kw_only=True, tag="host_user.update"):
    """The groups of such an account were changed to what the roles say."""

    uid_number: int = 0  # its uid
    groups: list[str] = field(default_factory=list)  # its further groups from now on


class HostUserDelete(ServerEvent, frozen=True, kw_only=True, tag="host_user.delete"):
    """Such an account was removed: nothing of it runs any more."""

    uid_number: int = 0  # its uid, which stays its own
