"""How a PostgreSQL server is reached: what a connection string says, as values. Loads neither asyncpg nor any file.

A connection string is a URL of one database on one or more servers, of which the one that takes writes is used:

    postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=FILE

What is not known is refused, not ignored: a misspelt `sslmode` must not mean less than what was meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_PORT: Final = 5432
DEFAULT_SCHEMA: Final = "teleport_access"
FORM: Final = "postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=/FILE"
_SCHEMES: Final = ("postgresql", "postgres")
_KNOWN: Final = frozenset({"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs"})
_HOST: Final = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:@/?#\s]+))(:(?P<port>[0-9]{1,5}))?")
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class SslMode(StrEnum):
    """What is asked of the server. The weaker modes of others' clients are not there: they look safe and are not."""

    VERIFY_FULL = "verify-full"  # TLS; the certificate is of a known authority and names the host
    VERIFY_CA = "verify-ca"  # TLS; the certificate is of the named authority, whatever it names
    DISABLE = "disable"


@dataclass(frozen=True, slots=True)
class Server:
    """`host` is a name, an address, or the directory of a socket."""

    host: str
    port: int = DEFAULT_PORT

    @property
    def local(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.host.startswith("/") or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PostgresqlSettings:
    """`schema`: of the database, where all tables are. A password in a file is read at each connection."""

    servers: tuple[Server, ...]
    database: str
    user: str
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    sslmode: SslMode = SslMode.VERIFY_FULL
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    schema: str = DEFAULT_SCHEMA
    insecure: bool = False  # without TLS, although others may listen

    @property
    def where(self) -> str:
        """Servers and database, for messages."""
        return f"{', '.join(map(str, self.servers))}, database {self.database}"


def parse(text: str) -> PostgresqlSettings:
    """The settings of a connection string. Raises `ValueError`, whose text never holds any part of `text`."""
    try:
        parts = urlsplit(text)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in _SCHEMES or not text.startswith(f"{parts.scheme}://") or parts.fragment:
        raise ValueError("not a URL of postgresql://")
    found = dict(options)
    if len(found) != len(options) or not found.keys() <= _KNOWN or not all(found.values()):
        raise ValueError("an option that is not known, is empty or is there twice")
    if found.get("target_session_attrs", "read-write") not in ("read-write", "primary"):
        raise ValueError("target_session_attrs is read-write")
    user, password, hosts = _authority(parts.netloc)
    if bool(hosts) == ("host" in found) or ("port" in found and "host" not in found):
        raise ValueError("no host, or two")
    if "host" in found:
        hosts = found["host"]
        servers = tuple(_server(host, _port(found.get("port", str(DEFAULT_PORT)))) for host in hosts.split(","))
    else:
        servers = tuple(_server(host, DEFAULT_PORT) for host in hosts.split(","))
    database = unquote(parts.path.removeprefix("/"), errors="strict")
    if not user or not database or "/" in database or "\0" in user + password + database:
        raise ValueError("no user or no database")
    files = {name: _file(found.get(name)) for name in ("sslrootcert", "sslcert", "sslkey")}
    return PostgresqlSettings(
        servers,
        database,
        user,
        password,
        sslmode=SslMode(found.get("sslmode", _default_mode(servers))),
        ca_file=files["sslrootcert"],
        cert_file=files["sslcert"],
        key_file=files["sslkey"],
    )


def mistake(settings: PostgresqlSettings) -> str:
    """Why a server may not be spoken to in this way, else nothing."""
    if _SCHEMA.fullmatch(settings.schema) is None or settings.schema.startswith("pg_"):
        return "schema is not a plain name of lower-case letters, digits and underscores"
    if settings.sslmode is SslMode.DISABLE and not settings.insecure:
        for server in settings.servers:
            if not server.local:
                return (
                    f"{server} would be spoken to without TLS: all could read the keys of the cluster's authorities, "
                    "and passwords"
                )
    if settings.sslmode is SslMode.DISABLE and (settings.ca_file or settings.cert_file):
        return "certificates are named, and sslmode=disable uses none"
    if settings.sslmode is not SslMode.DISABLE and settings.insecure:
        return f"insecure goes with sslmode=disable only: with {settings.sslmode} every server is checked"
    if settings.sslmode is SslMode.VERIFY_CA and settings.ca_file is None:
        return "sslmode=verify-ca without sslrootcert would believe whoever has any certificate at all"
    if settings.sslmode is not SslMode.DISABLE and any(one.host.startswith("/") for one in settings.servers):
        return "TLS is not spoken over a socket in a directory"
    if (settings.cert_file is None) != (settings.key_file is None):
        return "sslcert and sslkey go together"
    if settings.password and settings.password_file is not None:
        return "the password is both in conn_string and in password_file"
    return ""


def _default_mode(servers: tuple[Server, ...]) -> SslMode:
    """All is checked, except on sockets in directories, where there is no TLS."""
    return SslMode.DISABLE if all(one.host.startswith("/") for one in servers) else SslMode.VERIFY_FULL


def _authority(netloc: str) -> tuple[str, str, str]:
    """User, password and hosts."""
    who, at, hosts = netloc.rpartition("@")
    if not at:
        who, hosts = "", netloc
    user, _, password = who.partition(":")
    return unquote(user, errors="strict"), unquote(password, errors="strict"), hosts


def _server(text: str, port: int) -> Server:
    if text.startswith("/"):
        return Server(text, port)
    found = _HOST.fullmatch(unquote(text, errors="strict"))
    if found is None:
        decoded = unquote(text, errors="strict")
        if decoded.startswith("/"):
            return Server(decoded, port)
        raise ValueError("not a host")
    return Server(found["six"] or found["name"], _port(found["port"]) if found["port"] else port)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("not a port")
    return int(text)


def _file(text: str | None) -> Path | None:
    if text is None:
        return None
    if not text.startswith("/"):
        raise ValueError("a file that is not named by its whole path")
    return Path(text)
