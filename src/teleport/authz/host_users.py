"""Whether the account of a session may be made on its host, and with which groups: a part of the permit. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from teleport.resources.kinds import WILDCARD
from teleport.resources.role import Role


def groups_to_make(granting: Iterable[Role], all_roles: Iterable[Role]) -> tuple[str, ...] | None:
    """The groups of an account that is made; None when none may be.

    A role makes accounts only of the logins and on the hosts that it gives itself (`granting`), and only those roles
    give groups; what any role of the user denies is left out.
    """
    makers = [role for role in granting if role.options.create_host_user]
    if not makers:
        return None
    denied = {group for role in all_roles for group in role.deny.host_groups}
    wanted = {group for role in makers for group in role.allow.host_groups}
    return () if WILDCARD in denied else tuple(sorted(wanted - denied))
