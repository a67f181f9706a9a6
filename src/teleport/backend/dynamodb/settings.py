"""How a table of DynamoDB is reached: what the configuration says, as values. Loads neither library nor file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Scaling:
    """The bounds of one kind of capacity, and how much of it is to be in use, in percent."""

    least: int
    most: int
    target: float


@dataclass(frozen=True, slots=True)
class DynamoSettings:
    """Without `access_key`, credentials are those that AWS's own tools would use. `reads` and `writes` go together."""

    table: str
    region: str = ""  # empty: as AWS's own tools find it
    endpoint: str = ""  # empty: Amazon's, of the region
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    continuous_backups: bool = False
    reads: Scaling | None = None
    writes: Scaling | None = None

    @property
    def where(self) -> str:
        """For messages."""
        return ", ".join(
            part for part in (f"table {self.table}", self.region and f"region {self.region}", self.endpoint) if part
        )


def mistake(settings: DynamoSettings) -> str:
    """Why a table may not be used in this way, else nothing."""
    if _TABLE.fullmatch(settings.table) is None:
        return "table_name is not 3 to 255 letters, digits, dots, dashes and underscores"
    if settings.region and _REGION.fullmatch(settings.region) is None:
        return "region is not the name of a region, such as eu-central-1"
    if bool(settings.access_key) != bool(settings.secret_key):
        return "access_key and secret_key go together"
    for scaling in (settings.reads, settings.writes):
        if scaling is not None and scaling.least > scaling.most:
            return "a least capacity is above the most"
        if scaling is not None and not 20 <= scaling.target <= 90:
            return "a target value is not 20 to 90 percent, which is what AWS takes"
    return _mistake_of_endpoint(settings.endpoint) if settings.endpoint else ""


def _mistake_of_endpoint(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return "endpoint is not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == 0:
        return "endpoint is not a URL of https://, without user and password"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "endpoint has more than a host and a port"
    if parts.scheme == "http" and not _local(parts.hostname):
        return (
            "endpoint is http:// on another machine: all could read the keys of the cluster's authorities, and "
            "passwords"
        )
    return ""


def _local(host: str) -> bool:
    """Whether what is sent stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
