"""The roles of one user, put together: what options they add up to, and which logins they give for a lifetime.

Roles are taken by name; a name without a role grants nothing and is remembered in `unknown`. The implicit role is
always part of the set. Combination follows the table of `resources.md` 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from teleport.authz.traits import Traits, apply_traits
from teleport.errors import AccessDenied
from teleport.resources.metadata import DEFAULT_NAMESPACE
from teleport.resources.names import is_no_login, is_unix_login
from teleport.resources.presets import UNLIMITED, implicit_role
from teleport.resources.role import DEFAULT_ENHANCED_RECORDING, CertFormat, RequestAccess, Role, RoleLocking
from teleport.resources.values import Duration

IMPLICIT_ROLE = implicit_role()
NO_LOGIN_PRINCIPAL_PREFIX = "-teleport-nologin-"


@dataclass(frozen=True, slots=True)
class CombinedOptions:
    """What the options of several roles come to. Zero durations and counts mean: no limit."""

    max_session_ttl: timedelta
    forward_agent: bool
    port_forwarding: bool
    client_idle_timeout: timedelta
    disconnect_expired_cert: bool
    enhanced_recording: tuple[str, ...]
    permit_x11_forwarding: bool
    cert_format: CertFormat
    max_connections: int
    max_sessions: int
    request_access: RequestAccess
    request_prompt: str
    require_session_mfa: bool
    mfa_lease_ttl: timedelta
    lock: RoleLocking
    pin_source_ip: bool


@dataclass(frozen=True, slots=True)
class RoleSet:
    """A user's roles with the traits applied, the implicit role last."""

    roles: tuple[Role, ...]
    unknown: tuple[str, ...] = ()

    @classmethod
    def build(cls, names: Sequence[str], known: Mapping[str, Role], traits: Traits) -> RoleSet:
        """The set for `names`, each once. Names are compared exactly."""
        wanted = tuple(dict.fromkeys(names))
        roles = tuple(
            apply_traits(known[name], traits) for name in wanted if name in known and known[name].name == name
        )
        return cls((*roles, IMPLICIT_ROLE), tuple(name for name in wanted if name not in known))

    @property
    def own(self) -> tuple[Role, ...]:
        """The roles without the implicit one."""
        return self.roles[:-1]

    @property
    def options(self) -> CombinedOptions:
        options = [role.options for role in self.roles]
        return CombinedOptions(
            # Without a role of one's own there is no session, however long the implicit role would let it be.
            max_session_ttl=min((role.options.max_session_ttl for role in self.own), default=Duration(0)).timedelta,
            forward_agent=any(option.forward_agent for option in options),
            port_forwarding=any(option.port_forwarding is not False for option in options),
            client_idle_timeout=_shortest(option.client_idle_timeout for option in options).timedelta,
            disconnect_expired_cert=any(option.disconnect_expired_cert for option in options),
            enhanced_recording=tuple(
                sorted(
                    {
                        kind
                        for role in self.own
                        for kind in (
                            DEFAULT_ENHANCED_RECORDING
                            if role.options.enhanced_recording is None
                            else role.options.enhanced_recording
                        )
                    }
                )
            ),
            permit_x11_forwarding=any(option.permit_x11_forwarding for option in options),
            cert_format=CertFormat.OLDSSH
            if any(option.cert_format is CertFormat.OLDSSH for option in options)
            else CertFormat.STANDARD,
            max_connections=_smallest(option.max_connections for option in options),
            max_sessions=_smallest(option.max_sessions for option in options),
            request_access=max((option.request_access for option in options), key=list(RequestAccess).index),
            request_prompt=next((option.request_prompt for option in options if option.request_prompt), ""),
            require_session_mfa=any(option.require_session_mfa for option in options),
            mfa_lease_ttl=_shortest(option.mfa_lease_ttl for option in options).timedelta,
            lock=max((option.lock for option in options), key=list(RoleLocking).index),
            pin_source_ip=any(option.pin_source_ip for option in options),
        )

    def session_ttl(self, asked: timedelta) -> timedelta:
        """`asked`, or what the roles allow if that is shorter."""
        return min(asked, self.options.max_session_ttl)

    def logins(self, ttl: timedelta, placeholder: str) -> tuple[str, ...]:
        """The principals of a certificate that lives for `ttl`.

        Only roles whose limit covers `ttl` contribute. Roles without any login give `placeholder` alone
        (`-teleport-nologin-<uuid>`, handed in), which no account can have; roles with logins of which none holds for
        this lifetime are refused with `AccessDenied`. What deny names is left out, for every host.
        """
        if not placeholder.startswith(NO_LOGIN_PRINCIPAL_PREFIX):
            raise ValueError("the placeholder has to begin with " + NO_LOGIN_PRINCIPAL_PREFIX)
        denied = {
            login
            for role in self.roles
            if not {"*", DEFAULT_NAMESPACE}.isdisjoint(role.deny.effective_namespaces)
            for login in role.deny.logins
        }
        found: dict[str, None] = {}
        any_login = False
        for role in self.roles:
            for login in role.allow.logins:
                # `*` is refused when a role is written; one that slipped through is no principal either.
                if is_no_login(login) or not is_unix_login(login) or login in denied or "*" in denied:
                    continue
                any_login = True
                if ttl <= _timedelta(role.options.max_session_ttl):
                    found[login] = None
        if any_login and not found:
            raise AccessDenied(
                f"none of your roles gives a login for {Duration.of(seconds=ttl.total_seconds())}",
                hint="ask for a shorter time with --ttl",
            )
        return tuple(found) or (placeholder,)


def _timedelta(duration: Duration) -> timedelta:
    return UNLIMITED.timedelta if duration >= UNLIMITED else duration.timedelta


def _shortest(durations: Iterable[Duration]) -> Duration:
    """The shortest above zero; zero if there is none."""
    return min((duration for duration in durations if duration), default=Duration(0))


def _smallest(numbers: Iterable[int]) -> int:
    return min((number for number in numbers if number > 0), default=0)
