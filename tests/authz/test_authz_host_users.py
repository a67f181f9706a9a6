"""Which accounts may be made, and with which groups."""

from __future__ import annotations

from teleport.authz.host_users import groups_to_make
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec


def role(name: str, *groups: str, makes: bool = True, deny: tuple[str, ...] = ()) -> Role:
    spec = RoleSpec(
        options=Options(create_host_user=makes), allow=Conditions(host_groups=groups), deny=Conditions(host_groups=deny)
    )
    return Role(metadata=Metadata(name=name), spec=spec)


def test_only_a_role_that_grants_the_login_makes_its_account() -> None:
    maker, other = role("maker", "dev"), role("other", "admin")
    assert groups_to_make([maker], [maker, other]) == ("dev",)
    assert groups_to_make([], [maker]) is None
    assert groups_to_make([role("plain", "dev", makes=False)], [maker]) is None


def test_groups_are_those_of_all_that_make_and_of_no_other() -> None:
    granting = [role("a", "dev", "ops"), role("b", "ops", "www"), role("c", "wheel", makes=False)]
    assert groups_to_make(granting, granting) == ("dev", "ops", "www")


def test_what_any_role_denies_is_left_out() -> None:
    maker = role("maker", "dev", "wheel")
    assert groups_to_make([maker], [maker, role("d", deny=("wheel",))]) == ("dev",)
    assert groups_to_make([maker], [maker, role("d", deny=("*",))]) == ()
