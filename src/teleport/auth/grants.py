"""What the certificates of a user may say: logins, options and a lifetime, as the roles give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from teleport.auth.authorities.certify import UserGrant
from teleport.auth.state import ClusterState
from teleport.authz.renewal import RenewalPermit
from teleport.authz.roles import NO_LOGIN_PRINCIPAL_PREFIX, RoleSet
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import UserIdentity
from teleport.resources.names import canonical_address
from teleport.resources.user import User
from teleport.store.standing import stands_from, user_present

DEFAULT_TTL: Final = timedelta(hours=12)
MIN_TTL: Final = timedelta(minutes=1)
MAX_ASKED: Final = 400 * 86400.0  # seconds; what people type may be any number


class Grants:
    """Decides what a login, an administrator and a renewal give."""

    def __init__(self, state: ClusterState, new_uuid: Callable[[], str]) -> None:
        self._state = state
        self._new_uuid = new_uuid

    async def of_login(self, user: User, ttl: float, *, route_to_cluster: str, client_address: str) -> UserGrant:
        """What a login from `client_address` gives: the roles' logins and options for a lifetime of `ttl` seconds (0:
        the usual one), bound to that address where a role says so. Raises `AccessDenied` when it is not known then."""
        roles = RoleSet.build(user.roles, await self._state.roles(user.roles), user.traits)
        asked = max(MIN_TTL, timedelta(seconds=min(ttl, MAX_ASKED))) if ttl > 0 else DEFAULT_TTL
        granted = self._granted(user, roles, roles.session_ttl(asked), route_to_cluster)
        if not roles.options.pin_source_ip:
            return granted
        source_ip = canonical_address(client_address)
        if not source_ip:
            raise AccessDenied(
                "your roles bind certificates to the address of the login, and the proxy does not see yours",
                hint="ask an administrator how the proxy is reached",
            )
        return replace(granted, source_ip=source_ip)

    async def by_administrator(self, user: User, ttl: float, *, route_to_cluster: str, source_ip: str) -> UserGrant:
        """As `of_login`, but for as long as the administrator says, and from where (`tctl auth sign`).

        Raises `BadRequest` when roles bind to an address and none was named: there is no login to take it from.
        """
        roles = RoleSet.build(user.roles, await self._state.roles(user.roles), user.traits)
        asked = max(MIN_TTL, timedelta(seconds=ttl)) if ttl > 0 else DEFAULT_TTL
        within = roles.session_ttl(asked)
        granted = self._granted(user, roles, within, route_to_cluster)
        pin = canonical_address(source_ip)
        if source_ip and not pin:
            raise BadRequest(f"{source_ip[:64]!r} is no IP address", hint="--source-ip=192.0.2.7")
        if roles.options.pin_source_ip and not pin:
            raise BadRequest(
                f"the roles of {user.name!r} bind certificates to one address",
                hint="--source-ip=ADDRESS names the one that this certificate shall hold from",
            )
        return replace(granted, ttl=asked, source_ip=pin)

    async def renewed(
        self, user: User, identity: UserIdentity, permit: RenewalPermit, now: datetime, *, client_ip: str
    ) -> UserGrant:
        """What a renewed certificate says: as `of_login`, within the bounds of the permit. `user` was read anew: it may
        be another one of the same name by now, to whom what `identity` holds gives nothing, and a role that was taken
        since the permit was given is not named again."""
        if user_present(identity, user, now) is None:
            raise AccessDenied("the user of this certificate does not exist any more", hint="tsh login")
        kept = tuple(role for role in permit.roles if role in user.roles)
        if not kept:
            raise AccessDenied("you have none of the roles of this certificate any more", hint="tsh login")
        roles = RoleSet.build(kept, await self._state.roles(kept), user.traits)
        if roles.options.pin_source_ip and not permit.source_ip:  # nothing is proved anew, so nothing is bound anew
            raise AccessDenied("your roles bind certificates to the address of the login now", hint="tsh login")
        granted = self._granted(user, roles, roles.session_ttl(permit.expires - now), permit.route_to_cluster)
        return replace(
            granted,
            roles=kept,
            source_ip=permit.source_ip,
            mfa_device=permit.mfa_device,
            active_requests=permit.active_requests,
            impersonator=permit.impersonator,
            client_ip=client_ip,
        )

    def _granted(self, user: User, roles: RoleSet, lifetime: timedelta, route_to_cluster: str) -> UserGrant:
        options = roles.options
        placeholder = NO_LOGIN_PRINCIPAL_PREFIX + self._new_uuid()
        logins = roles.logins(lifetime, placeholder)
        return UserGrant(
            user=user.name,
            roles=tuple(user.roles),
            logins=tuple(login for login in logins if login != placeholder),
            traits=dict(user.traits),
            ttl=lifetime,
            route_to_cluster=route_to_cluster or self._state.cluster,
            port_forwarding=options.port_forwarding,
            agent_forwarding=options.forward_agent,
            x11_forwarding=options.permit_x11_forwarding,
            since=stands_from(user),
        )
