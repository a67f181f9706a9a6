"""Who a user of another cluster is here (`protocols.md` 5). Pure.

Mapped once, where the certificate is verified: what comes out is an identity of *this* cluster, which everything after
judges as any other. It keeps where it came from, and `still_mapped` says what is left of it when the map has changed.
Nothing is ever mapped to more than the role map names; what a certificate says about things of its own cluster (second
factors, who records) counts for nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from teleport.errors import AccessDenied
from teleport.identity import RemoteOrigin, UserIdentity, remote_user_name
from teleport.resources.authority import RoleMapping
from teleport.resources.names import check_name, is_unix_login
from teleport.resources.pattern import BadPattern
from teleport.resources.template import INTERNAL_TRAITS
from teleport.resources.trusted_cluster import mapping_pattern

MAX_ROLES: Final = 256  # that a certificate names, and that come of it


def mapped_roles(role_map: Sequence[RoleMapping], roles: Sequence[str]) -> tuple[str, ...]:
    """The roles here that these roles of the other cluster give, each once, in order.

    A plain name, a glob or `^..$` has to match all of a role's name; `$1` in `local` is what a group of it took. What
    comes out and could be no role's name is left out, and so is a mapping that cannot be read.
    """
    found: dict[str, None] = {}
    for role in roles[:MAX_ROLES]:
        for one in role_map:
            try:
                pattern = mapping_pattern(one.remote)
            except BadPattern:
                continue
            if pattern is None:
                names = one.local if one.remote == role else ()
            elif pattern.fullmatch(role):
                names = tuple(pattern.replace(role, local) or "" if "$" in local else local for local in one.local)
            else:
                names = ()
            found.update(dict.fromkeys(name for name in names if not check_name(name)))
    return tuple(found)[:MAX_ROLES]


def map_user(identity: UserIdentity, role_map: Sequence[RoleMapping], cluster: str) -> UserIdentity:
    """The identity in `cluster`, this one, of what a certificate of another cluster says. Raises `AccessDenied` when no
    role is mapped, and for certificates that mean nothing outside their own cluster."""
    if identity.cluster == cluster:
        raise ValueError("only users of other clusters are mapped")
    if identity.origin is not None:
        raise AccessDenied(f"The cluster {identity.cluster} does not say who somebody of another cluster is here.")
    if identity.recorded_by:
        raise AccessDenied(
            f"This certificate was made for a proxy of the cluster {identity.cluster}, which ends sessions and records"
            " them itself: it is good for hosts of that cluster only."
        )
    if identity.mfa_target:
        raise AccessDenied(
            f"This certificate was made for one session in the cluster {identity.cluster}: it is good there alone.",
            hint="tsh login",
        )
    origin = RemoteOrigin(identity.cluster, identity.name, identity.roles)
    mapped = still_mapped(replace(identity, origin=origin), role_map, cluster)
    if mapped is None:
        roles = ", ".join(identity.roles[:20])
        raise AccessDenied(
            f"None of your roles in the cluster {identity.cluster} ({roles}) is mapped to a role of {cluster}.",
            hint=f"ask an administrator of {cluster}: tctl get tc/{identity.cluster} shows its role_map",
        )
    return mapped


def still_mapped(identity: UserIdentity, role_map: Sequence[RoleMapping], cluster: str) -> UserIdentity | None:
    """What `role_map` makes of an identity with an origin now; None when nothing is left."""
    origin = identity.origin
    assert origin is not None, "who has no origin is a user of this cluster"
    roles = mapped_roles(role_map, origin.roles)
    if not roles:
        return None
    return replace(
        identity,
        name=remote_user_name(origin.name, origin.cluster),
        cluster=cluster,
        roles=roles,
        denying=(),
        traits=_traits(identity),
        mfa_device="",
        mfa_target="",
    )


def _traits(identity: UserIdentity) -> Mapping[str, tuple[str, ...]]:
    """Those of the certificate; the ones that say what one may be on hosts come from its own fields instead."""
    logins = tuple(login for login in identity.logins if is_unix_login(login))
    others = {name: values for name, values in identity.traits.items() if name not in INTERNAL_TRAITS}
    return MappingProxyType({**others, "logins": logins})
