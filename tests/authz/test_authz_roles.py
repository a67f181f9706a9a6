"""Several roles put together: the table of `resources.md` 3.1, logins by lifetime, and what grants nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from teleport.authz.channels import RoleGrant
from teleport.authz.roles import CombinedOptions, RoleSet
from teleport.errors import AccessDenied
from teleport.resources.metadata import Metadata
from teleport.resources.presets import preset_roles
from teleport.resources.role import CertFormat, Conditions, Options, RequestAccess, Role, RoleLocking, RoleSpec
from teleport.resources.values import Duration

PLACEHOLDER = "-teleport-nologin-12345678-1234-1234-1234-123456789012"
HOUR = timedelta(hours=1)


def role_set(*roles: Role, traits: dict[str, tuple[str, ...]] | None = None) -> RoleSet:
    return RoleSet.build([role.name for role in roles], {role.name: role for role in roles}, traits or {})


def with_options(*options: Options) -> CombinedOptions:
    return role_set(
        *(Role(metadata=Metadata(name=f"r{n}"), spec=RoleSpec(options=one)) for n, one in enumerate(options))
    ).options


COMBINED = {
    "max_session_ttl": (
        [Options(max_session_ttl=Duration.of(hours=8)), Options(max_session_ttl=Duration.of(hours=2))],
        timedelta(hours=2),
    ),
    "forward_agent": ([Options(), Options(forward_agent=True)], True),
    "port_forwarding": ([Options(port_forwarding=False), Options()], True),
    "client_idle_timeout": (
        [
            Options(),
            Options(client_idle_timeout=Duration.of(minutes=9)),
            Options(client_idle_timeout=Duration.of(minutes=5)),
        ],
        timedelta(minutes=5),
    ),
    "disconnect_expired_cert": ([Options(), Options(disconnect_expired_cert=True)], True),
    "enhanced_recording": ([Options(enhanced_recording=("disk",)), Options()], ("command", "disk", "network")),
    "permit_x11_forwarding": ([Options(permit_x11_forwarding=True), Options()], True),
    "cert_format": ([Options(), Options(cert_format=CertFormat.OLDSSH)], CertFormat.OLDSSH),
    "max_connections": ([Options(), Options(max_connections=7), Options(max_connections=3)], 3),
    "max_sessions": ([Options(max_sessions=2), Options()], 2),
    "request_access": (
        [Options(request_access=RequestAccess.REASON), Options(request_access=RequestAccess.ALWAYS)],
        RequestAccess.REASON,
    ),
    "request_prompt": ([Options(), Options(request_prompt="a"), Options(request_prompt="b")], "a"),
    "require_session_mfa": ([Options(), Options(require_session_mfa=True)], True),
    "pin_source_ip": ([Options(), Options(pin_source_ip=True)], True),
    "mfa_lease_ttl": (
        [Options(), Options(mfa_lease_ttl=Duration.of(hours=2)), Options(mfa_lease_ttl=Duration.of(hours=1))],
        timedelta(hours=1),
    ),
    "lock": ([Options(lock=RoleLocking.STRICT), Options(lock=RoleLocking.BEST_EFFORT)], RoleLocking.STRICT),
}


@pytest.mark.parametrize(("name", "options", "expected"), [(n, *row) for n, row in COMBINED.items()], ids=COMBINED)
def test_options_combine_as_the_table_says(name: str, options: list[Options], expected: object) -> None:
    assert getattr(with_options(*options), name) == expected
    assert getattr(with_options(*reversed(options)), name) == expected or name == "request_prompt"


def test_every_option_has_a_row() -> None:
    """What is not combined counts for what its own role grants (`authz.channels.RoleGrant`)."""
    own = {"local_forwarding", "remote_forwarding", "exec", "commands", "file_transfer"}
    assert own <= set(RoleGrant.__slots__)
    own_too = {"create_host_user"}  # `authz.host_users`
    assert set(COMBINED) == set(Options.__struct_fields__) - own - own_too == set(CombinedOptions.__slots__)


def test_port_forwarding_needs_a_role_that_does_not_refuse_it() -> None:
    """The implicit role alone forwards nothing."""
    assert not with_options(Options(port_forwarding=False)).port_forwarding
    assert not with_options().port_forwarding


def test_without_roles_there_is_no_session() -> None:
    """No data never means yes: the implicit role's unlimited time is nobody's."""
    empty = RoleSet.build(["gone"], {}, {})
    assert empty.unknown == ("gone",)
    assert empty.session_ttl(HOUR) == timedelta(0)
    assert empty.logins(HOUR, PLACEHOLDER) == (PLACEHOLDER,)


def login_role(name: str, *logins: str, hours: int = 30, denied: tuple[str, ...] = ()) -> Role:
    return Role(
        metadata=Metadata(name=name),
        spec=RoleSpec(
            options=Options(max_session_ttl=Duration.of(hours=hours)),
            allow=Conditions(logins=logins),
            deny=Conditions(logins=denied),
        ),
    )


def test_only_roles_that_cover_the_lifetime_give_logins() -> None:
    roles = role_set(login_role("short", "root", hours=1), login_role("long", "alice", hours=10))
    assert roles.logins(HOUR, PLACEHOLDER) == ("root", "alice")
    assert roles.logins(2 * HOUR, PLACEHOLDER) == ("alice",)
    with pytest.raises(AccessDenied):
        roles.logins(11 * HOUR, PLACEHOLDER)
    assert roles.session_ttl(11 * HOUR) == HOUR


def test_denied_logins_do_not_get_into_certificates() -> None:
    roles = role_set(login_role("a", "root", "alice"), login_role("b", denied=("root",)))
    assert roles.logins(HOUR, PLACEHOLDER) == ("alice",)
    assert role_set(login_role("a", "root"), login_role("b", denied=("*",))).logins(HOUR, PLACEHOLDER) == (PLACEHOLDER,)


def test_impossible_logins_become_the_placeholder() -> None:
    """An empty list of principals would let a certificate in as anyone (T03)."""
    auditor = next(role for role in preset_roles("12345678-1234-1234-1234-123456789012") if role.name == "auditor")
    assert role_set(auditor).logins(HOUR, PLACEHOLDER) == (PLACEHOLDER,)
    assert role_set(login_role("odd", "*", "-x", "a/b")).logins(HOUR, PLACEHOLDER) == (PLACEHOLDER,)
    with pytest.raises(ValueError, match="placeholder"):
        role_set().logins(HOUR, "root")


def test_traits_fill_the_roles_of_a_set() -> None:
    roles = role_set(login_role("a", "{{internal.logins}}"), traits={"logins": ("bob", "*", "-x")})
    assert roles.logins(HOUR, PLACEHOLDER) == ("bob",)
