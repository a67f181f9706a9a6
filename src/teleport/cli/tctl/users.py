"""`tctl users`: people of this cluster, their invitations and resets."""

from __future__ import annotations

import shlex

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Group, comma_list, flags_of, format_option
from teleport.cli.tctl.outcome import outcome
from teleport.errors import BadRequest, TeleportError


@click.group(cls=Group)
def users() -> None:
    """Invite, list, change and remove users."""


@users.command("add")
@click.argument("name")
@click.argument("local_logins", required=False, metavar="")
@click.option("--roles", multiple=True, metavar="ROLE,..", help="Roles of the user; presets: access, editor, auditor.")
@click.option("--logins", multiple=True, metavar="LOGIN,..", help="Unix accounts that the user may log in as.")
@click.option("--k8s-users", multiple=True, metavar="USER,..", help="Kubernetes users, kept as a trait.")
@click.option("--k8s-groups", multiple=True, metavar="GROUP,..", help="Kubernetes groups, kept as a trait.")
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="Lifetime of the invitation, at most 48h.")
@format_option("text", "json")
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    local_logins: str | None,
    roles: tuple[str, ...],
    logins: tuple[str, ...],
    k8s_users: tuple[str, ...],
    k8s_groups: tuple[str, ...],
    ttl: float,
    form: str,
) -> None:
    """Create the user NAME and print the link for choosing a password and a second factor."""
    from teleport.cli.tctl.connect import open_auth

    if local_logins is not None:
        raise BadRequest(
            f"{local_logins!r}: Unix accounts are given with --logins, and a user needs roles",
            hint=f"tctl users add {shlex.quote(name)} --roles=access --logins={shlex.quote(local_logins)}",
        )
    traits = {
        "logins": comma_list(logins),
        "kubernetes_users": comma_list(k8s_users),
        "kubernetes_groups": comma_list(k8s_groups),
    }
    request = m.AddUserRequest(
        name=name,
        roles=comma_list(roles),
        traits={trait: values for trait, values in traits.items() if values},
        ttl=ttl,
    )
    with open_auth(flags_of(ctx)) as auth:
        link = auth.client.call(routes.ADD_USER, request)
    _show_link(f"The user {name!r} has been created, without a password yet.", link, ttl, form)


@users.command("reset")
@click.argument("name")
@click.option("--ttl", type=DURATION, default="8h", show_default=True, help="Lifetime of the link, at most 24h.")
@format_option("text", "json")
@click.pass_context
def reset(ctx: click.Context, name: str, ttl: float, form: str) -> None:
    """End the password and second factor of the user NAME, and print the link for choosing new ones."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        link = auth.client.call(routes.RESET_USER, m.ResetUserRequest(name=name, ttl=ttl))
    _show_link(f"The password and the second factor of the user {name!r} have ended.", link, ttl, form)


@users.command("unlock")
@click.argument("name")
@format_option("text", "json")
@click.pass_context
def unlock(ctx: click.Context, name: str, form: str) -> None:
    """End the lockout of the user NAME after failed logins. Password and second factor stay as they are."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind
    from teleport.resources.lock import Lock

    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        done = auth.client.call(routes.UNLOCK_USER, m.UnlockUserRequest(name=name))
        was = "is no longer locked out" if done.was_locked else "was not locked out; its failed logins are forgotten"
        tell("user", name, "unlocked", f"user {name!r} {was}")
        locks = [lock for lock in all_of(auth, Kind.LOCK) if isinstance(lock, Lock) and lock.spec.target.user == name]
        for lock in locks:
            render.note(f"The lock {lock.name} still stops this user; to lift it: tctl rm lock/{lock.name}")


def _show_link(what: str, link: m.UserToken, ttl: float, form: str) -> None:
    if form == "json":
        render.out(render.as_json({"user": link.user, "url": link.url, "expires": link.expires}))
        return
    render.out(
        f"{what}\nHand this link to the person; it works once and is valid for {render.how_long(ttl)}:\n{link.url}\n"
    )
    address = link.url.removeprefix("https://").partition("/")[0]
    if address.startswith("<"):
        render.note(f"No proxy has announced itself yet: put the address of yours in place of {address}.")
    else:
        render.note(f"Make sure that {address} is reachable from where the person is.")


@users.command("ls")
@format_option("text", "json")
@click.pass_context
def list_users(ctx: click.Context, form: str) -> None:
    """List users and their roles."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of, documents
    from teleport.resources.kinds import Kind
    from teleport.resources.user import User

    with open_auth(flags_of(ctx)) as auth:
        found = list(all_of(auth, Kind.USER))
    if form == "json":
        render.out(render.as_json(documents(found)))
        return
    rows = [[user.name, ",".join(user.roles)] for user in found if isinstance(user, User)]
    render.out(render.table(["User", "Roles"], rows))


@users.command("rm")
@click.argument("names", metavar="NAME[,NAME]", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also when nobody is left who may edit roles.")
@format_option("text", "json")
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], force: bool, form: str) -> None:
    """Delete users. Their certificates are refused from then on."""
    from teleport.cli.tctl.connect import open_auth

    failed: list[TeleportError] = []
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for name in comma_list(names):
            try:
                auth.client.call(routes.REMOVE["user"], m.ExpelRequest(name=name, force=force))
                tell("user", name, "deleted", f"user {render.printable(name)!r} has been deleted")
            except TeleportError as error:
                failed.append(error)
        if failed:
            raise type(failed[0])("\n".join(error.message for error in failed), hint=failed[0].hint)


@users.command("update")
@click.argument("name")
@click.option("--set-roles", multiple=True, required=True, metavar="ROLE,..", help="The roles that the user has then.")
@click.option("--force", is_flag=True, help="Also when nobody is left who may edit roles.")
@format_option("text", "json")
@click.pass_context
def update(ctx: click.Context, name: str, set_roles: tuple[str, ...], force: bool, form: str) -> None:
    """Set the roles of the user NAME."""
    from teleport.cli.tctl.connect import open_auth

    roles = comma_list(set_roles)
    if not roles:
        raise BadRequest("--set-roles names no role", hint=f"tctl users update {shlex.quote(name)} --set-roles=access")
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        auth.client.call(routes.UPDATE_USER, m.UpdateUserRequest(name=name, roles=roles, force=force))
        tell("user", name, "updated", f"user {name!r} now has the roles {', '.join(roles)}")
