"""Events about users, roles, locks and how people prove who they are (`reference/audit-events.md` 3)."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

from teleport.audit.events.base import ResourceEvent, StatusEvent, UserEvent


class MfaDevice(Struct, frozen=True, kw_only=True):
    """A second factor."""

    mfa_device_name: str = ""  # name given by the user
    mfa_device_uuid: str = ""  # UUID of the device
    mfa_device_type: str = ""  # totp or webauthn


class UserLogin(StatusEvent, frozen=True, kw_only=True, tag="user.login"):
    """Somebody logged in, or tried to."""

    method: str = "local"  # local, passwordless (a passkey alone), oidc, saml, github, client.cert
    addr: str = ""  # where the attempt came from
    user_agent: str = ""  # program that asked
    mfa_device: MfaDevice | UnsetType = UNSET  # second factor used; absent when none was


class UserLocked(UserEvent, frozen=True, kw_only=True, tag="user.locked"):
    """A user is locked out after too many failed logins."""

    until: str = ""  # when the lockout ends, RFC 3339
    attempts: int = 0  # failures counted
    place: str = ""  # the address that it holds for; empty: wherever the user has not logged in within a month


class UserUnlocked(ResourceEvent, frozen=True, kw_only=True, tag="user.unlocked"):
    """The lockout of a user after failed logins was ended, and the failures forgotten."""

    was_locked: bool = False  # whether the user was locked out at that moment


class UserCreate(ResourceEvent, frozen=True, kw_only=True, tag="user.create"):
    """A user was created."""

    roles: list[str] = field(default_factory=list)  # roles given
    connector: str = "local"  # where the user comes from


class UserUpdate(ResourceEvent, frozen=True, kw_only=True, tag="user.update"):
    """A user was changed."""

    roles: list[str] = field(default_factory=list)  # roles after the change
    connector: str = "local"  # where the user comes from


class UserDelete(ResourceEvent, frozen=True, kw_only=True, tag="user.delete"):
    """A user was deleted."""


class UserPasswordChange(UserEvent, frozen=True, kw_only=True, tag="user.password_change"):
    """A user set the own password."""


class MfaAdd(UserEvent, frozen=True, kw_only=True, tag="mfa.add"):
    """A user registered a second factor."""

    mfa_device: MfaDevice | UnsetType = UNSET  # the new device


class MfaDelete(UserEvent, frozen=True, kw_only=True, tag="mfa.delete"):
    """A user removed a second factor."""

    mfa_device: MfaDevice | UnsetType = UNSET  # the device that was removed


class ResetPasswordTokenCreate(ResourceEvent, frozen=True, kw_only=True, tag="reset_password_token.create"):
    """An invitation or a reset was made. The token itself is never in the log."""


class RoleCreated(ResourceEvent, frozen=True, kw_only=True, tag="role.created"):
    """A role was created or changed."""


class RoleDeleted(ResourceEvent, frozen=True, kw_only=True, tag="role.deleted"):
    """A role was deleted."""


class LockCreated(ResourceEvent, frozen=True, kw_only=True, tag="lock.created"):
    """Somebody or something is locked."""

    target: dict[str, str] = field(
        default_factory=dict
    )  # what is locked: user, role, login, node, mfa_device, serial, session


class LockDeleted(ResourceEvent, frozen=True, kw_only=True, tag="lock.deleted"):
    """A lock was lifted."""

    target: dict[str, str] = field(default_factory=dict)  # what was locked
