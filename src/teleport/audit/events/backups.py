"""Events about backups and what follows from restoring one. Ours, from T9154 on."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from teleport.audit.events.base import Event, UserEvent


class BackupCreate(UserEvent, frozen=True, kw_only=True, tag="backup.create"):
    """A backup was asked for: everything that it takes to be this cluster left auth."""

    audit: bool = False  # with the audit log
    recordings: bool = False  # with the recordings


class BackupRestore(UserEvent, frozen=True, kw_only=True, tag="backup.restore"):
    """The cluster was restored from a backup: what happened after that was made is lost."""

    backup_created: datetime | UnsetType = UNSET  # when it was made
    backup_host: str = ""  # UUID of the auth server that made it, which is expelled
    revision: int = 0  # of that server's storage then
    audit: bool = False  # with the audit log
    recordings: bool = False  # with the recordings


class AuditGap(Event, frozen=True, kw_only=True, tag="audit.gap"):
    """Events of a host are lost, because the log was restored from a backup and they came after it."""

    host_id: str = ""  # emitter of the chain
    chain_epoch: int = 0  # and its epoch
    first: int = 0  # first event that is lost; 0: those of a former epoch, before this chain began
    last: int = 0  # last event that is lost
    follows: str = ""  # hash of the event before the one with which the chain goes on, hex
