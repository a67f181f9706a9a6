"""Messages about backups."""

from __future__ import annotations

from teleport.api.messages.base import Request


class BackupRequest(Request, frozen=True, kw_only=True):
    """What a backup leaves out; a query has no other way to say no than to say nothing."""

    without_audit: bool = False
    without_recordings: bool = False
