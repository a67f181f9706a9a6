"""What the auth service is told, as values: the daemon makes them of the configuration file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from teleport.audit.retention import Retention
from teleport.copies.settings import CopySettings
from teleport.resources.cluster import Singleton
from teleport.resources.codec import Resource
from teleport.resources.token import Token

if TYPE_CHECKING:
    from teleport.recording.s3.settings import S3Settings


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """What the auth service is told by the configuration file."""

    cluster_name: str  # empty: the stored one, else `node_name`
    host_id: str
    node_name: str
    audit_directory: Path
    recordings_directory: Path
    recordings_s3: S3Settings | None = None  # where they are brought from that folder
    static_tokens: tuple[Token, ...] = ()
    settings: tuple[Singleton, ...] = ()  # the cluster's settings that the file decides
    retention: Retention = field(default_factory=Retention)  # of audit events
    recordings_retention: Retention = field(default_factory=Retention)
    copies: tuple[CopySettings, ...] = ()  # of audit events, to other places
    searched: CopySettings | None = None  # the one of these that searches go to; None: the log of this server
    bootstrap: Callable[[], Sequence[Resource]] | None = None  # reads what a new cluster is made with
    shared_storage: bool = False  # other auth servers may use the storage, too, and the folders above with it
