"""Whether a certificate still counts, given what happened since it was issued. Pure.

Auth asks for every call, nodes and proxies for what they are shown: the rule is written once, here. Expelling a host
and removing a user must end what their certificates give, however long these would still be valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace as replace_fields

from teleport.identity import HostIdentity, SystemRole, UserIdentity
from teleport.pki.sshcert import HOST_LIFETIME
from teleport.resources.user import User
from teleport.store.records import HostRecord

CLOCK_SLACK: Final = timedelta(seconds=5)


def host_counts(identity: HostIdentity, record: HostRecord | None) -> bool:
    """Whether the host, of which `record` is what the cluster knows, still is what its certificate says.

    It does not when the host is not known, was expelled, has not this role any more, or the certificate is from
    before the host joined anew. Administrators' are made by the auth server for its own host alone: a clock
    that went back does not take them away.
    """
    if record is None or record.expelled or str(identity.role) not in record.roles:
        return False
    issued = identity.expires - HOST_LIFETIME
    since = [record.valid_from]
    if identity.role is not SystemRole.ADMIN:
        since.append(record.role_valid_from.get(str(identity.role)))
    return all(begin is None or issued >= begin - CLOCK_SLACK for begin in since)


def with_role(record: HostRecord, role: SystemRole, now: datetime) -> HostRecord:
    """The record of a host that has just been given certificates for `role`.

    If it did not have the role, what it may still hold from earlier does not come back to life.
    """
    if record.expelled:
        record = replace_fields(
            record,
            expelled=False,
            roles=[],
            valid_from=now - CLOCK_SLACK,
            role_valid_from={},
            role_request={},
            role_labels={},
            labels={},
        )
    if str(role) in record.roles:
        return record
    begins = {**record.role_valid_from, str(role): now - CLOCK_SLACK}
    return replace_fields(record, roles=sorted([*record.roles, str(role)]), role_valid_from=begins)


def forced_labels(record: HostRecord | None, role: SystemRole) -> Mapping[str, str]:
    """The labels that a host has in `role` whatever it says of itself: those of the token that let it in."""
    if record is None:
        return {}
    return record.role_labels.get(str(role), record.labels)


def without_role(record: HostRecord, role: SystemRole) -> HostRecord:
    """The record of a host that is expelled in one role; out of its last one, it is no member any more."""
    roles = [one for one in record.roles if one != str(role)]
    requests = {one: asked for one, asked in record.role_request.items() if one != str(role)}
    return replace_fields(record, roles=roles, expelled=not roles, role_request=requests)


def stands_from(user: User) -> datetime | None:
    """From when on a user's certificates count: the first whole second after it was made, so that a certificate of
    somebody who had the name until that very second is told from those of the new user. None: nobody knows when."""
    made = user.spec.created_by.time
    if made is None or not made.microsecond:
        return made
    return made.replace(microsecond=0) + timedelta(seconds=1)


def user_present(identity: UserIdentity, user: User | None, now: datetime) -> UserIdentity | None:
    """What is left of the identity, `user` being whom the cluster knows by its name; None when nothing is.

    Nothing is left when the user is gone or has expired, and when it was made after the certificate was issued:
    another person may have got the name. Certificates count in seconds, and no user has one from before `stands_from`.

    Roles allow only what the certificate and the user both have; all that the user has now may deny.
    """
    if user is None or user.expired(now):
        return None
    since = stands_from(user)
    if since is not None and (identity.issued is None or identity.issued < since):
        return None
    return replace(
        identity,
        roles=tuple(role for role in identity.roles if role in user.roles),
        denying=tuple(role for role in user.roles if role not in identity.roles),
    )
