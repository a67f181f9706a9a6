"""What PostgreSQL answers when it does not do what was asked: whether to try again, and what a person reads. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from teleport.errors import AccessDenied, ConnectionProblem, LimitExceeded, TeleportError


class Kind(StrEnum):
    """What to do about an answer."""

    AGAIN = "again"  # the server is away, busy, or gave the transaction up; it may or may not have happened
    STANDBY = "standby"  # it takes no writes: another one may, or this one later
    TLS = "tls"  # the other end or we were not believed
    NO_LOGIN = "no login"  # user, password or certificate are not accepted
    NO_DATABASE = "no database"
    NOT_ALLOWED = "not allowed"
    ABSENT = "absent"  # the tables are not there
    FULL = "full"
    REFUSED = "refused"  # anything else


_BY_STATE: Final = {
    "25006": Kind.STANDBY,  # read-only transaction
    "28000": Kind.NO_LOGIN,
    "28P01": Kind.NO_LOGIN,
    "3D000": Kind.NO_DATABASE,
    "3F000": Kind.ABSENT,
    "40001": Kind.AGAIN,  # serialization failure
    "40P01": Kind.AGAIN,  # deadlock
    "42501": Kind.NOT_ALLOWED,
    "42P01": Kind.ABSENT,
    "53100": Kind.FULL,
    "53300": Kind.AGAIN,  # too many connections
    "55P03": Kind.AGAIN,  # not locked in time
    "57014": Kind.AGAIN,  # took too long
    "57P01": Kind.AGAIN,  # it is shut down, or an administrator ended the connection
    "57P02": Kind.AGAIN,
    "57P03": Kind.AGAIN,  # it is starting
    "57P04": Kind.NO_DATABASE,  # the database was dropped
    "57P05": Kind.AGAIN,  # the connection was idle for too long
    "25P03": Kind.AGAIN,  # the transaction was idle for too long
}


def kind_of(state: str) -> Kind:
    """What an error of the server means, by its SQLSTATE."""
    if state.startswith(("08", "53")) and state not in _BY_STATE:
        return Kind.AGAIN
    return _BY_STATE.get(state, Kind.REFUSED)


def explain(doing: str, where: str, kind: Kind, details: str, *, user: str, schema: str) -> TeleportError:
    """The error for what cannot be mended by trying again, or was tried long enough."""
    what = f"cannot {doing} the storage in PostgreSQL ({where})"
    match kind:
        case Kind.TLS:
            return ConnectionProblem(
                f"{what}: the server's certificate or ours was not accepted: {details}",
                hint="check sslrootcert, sslcert and sslkey of conn_string, that the server speaks TLS (psql -c 'SHOW "
                "ssl') and that its certificate names the host as conn_string does",
            )
        case Kind.NO_LOGIN:
            return AccessDenied(
                f"{what}: it does not let in the user {user}: {details}",
                hint="check the user of conn_string, password_file and sslcert of teleport.storage, and the server's "
                "pg_hba.conf: psql -c 'SELECT * FROM pg_hba_file_rules'",
            )
        case Kind.NO_DATABASE:
            return TeleportError(
                f"{what}: there is no such database: {details}",
                hint=f"make it: CREATE DATABASE ... OWNER {user} ENCODING 'UTF8' TEMPLATE template0",
            )
        case Kind.NOT_ALLOWED:
            return AccessDenied(
                f"{what}: the user {user} may not do that: {details}",
                hint=f"let it own the tables: CREATE SCHEMA {schema} AUTHORIZATION {user}",
            )
        case Kind.ABSENT:
            return TeleportError(
                f"{what}: its tables are not there any more: {details}",
                hint="start all auth servers of the cluster anew, or restore the database: pg_restore",
            )
        case Kind.FULL:
            return LimitExceeded(
                f"{what}: its disk is full, nothing can be written: {details}",
                hint="make room on the server's disk; nothing that was said to be written is lost",
            )
        case Kind.STANDBY:
            return ConnectionProblem(
                f"{what}: no server takes writes, the one that answered is a standby or read-only: {details}",
                hint="promote a standby (SELECT pg_promote()) or name the primary in conn_string: psql -c 'SELECT "
                "pg_is_in_recovery()'",
            )
        case Kind.AGAIN:
            return ConnectionProblem(
                f"{what}: {details}",
                hint="check that the server is up and reached from here: pg_isready -h HOST -p PORT",
            )
        case _:
            return TeleportError(
                f"{what}: {details}", hint="see what the server logs about it: journalctl -u postgresql"
            )
