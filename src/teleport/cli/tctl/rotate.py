"""`tctl auth rotate`: new keys for an authority, phase by phase (`docs/operations.md`, "Rotating authorities")."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.progress import progress
from teleport.cli.tctl.options import DURATION, Command, Flags, comma_list, flags_of, format_option
from teleport.errors import BadRequest, ConnectionProblem, TeleportError

if TYPE_CHECKING:
    from datetime import datetime

    from teleport.api.messages import AuthorityStatus, LeftBehind, WaitedFor

PHASES: Final = ("init", "update_clients", "update_servers", "standby", "rollback")
FOLLOWING: Final = {"init": "update_clients", "update_clients": "update_servers", "update_servers": "standby"}
WAITED_FOR: Final = frozenset({"update_clients", "update_servers", "standby"})
LOOK_EVERY: Final = 0.5  # seconds


@click.command("rotate", cls=Command)
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(("user", "host", "jwt", "openssh")),
    help="Only this authority; else user, host and jwt.",
)
@click.option("--manual", is_flag=True, help="Begin a rotation whose further phases you ask for, one by one.")
@click.option("--phase", type=click.Choice(PHASES), help="Go into this phase.")
@click.option(
    "--grace-period",
    type=DURATION,
    default="48h",
    show_default=True,
    help="How long a rotation that runs by itself takes; 0 replaces the keys at once: all hosts join anew.",
)
@click.option("--rollback", is_flag=True, help="Go back to the old keys, from any phase, to the end.")
@click.option("--plan", is_flag=True, help="Change nothing: list the certificates that would be left behind, and why.")
@click.option("--force", is_flag=True, help="Go on although live hosts have not followed: they are cut off.")
@click.option(
    "--wait", type=DURATION, default="1m", show_default=True, help="How long to wait for hosts that have to follow."
)
@format_option("text", "json")
@click.pass_context
def rotate(
    ctx: click.Context,
    types: tuple[str, ...],
    manual: bool,
    phase: str | None,
    grace_period: float,
    rollback: bool,
    plan: bool,
    force: bool,
    wait: float,
    form: str,
) -> None:
    """Replace the keys of authorities while everybody works. Without --manual and --phase auth takes all the phases by
    itself, spread over the grace period."""
    flags = flags_of(ctx)
    if rollback and (manual or phase not in (None, "rollback")):
        raise BadRequest("--rollback goes without --manual and --phase", hint="tctl auth rotate --rollback")
    chosen = comma_list(types)
    if plan:
        if rollback or manual or phase is not None or force:
            raise BadRequest("--plan changes nothing, so it goes without a step", hint="tctl auth rotate --plan")
        _plan(flags, m.RotationPlanRequest(types=chosen, grace_period=grace_period), form)
        return
    if rollback:
        done = _roll_back(flags, chosen, force=force, wait=wait)
    else:
        mode = "manual" if manual or phase is not None else "auto"
        request = m.RotateRequest(
            types=chosen, phase=phase or "init", mode=mode, grace_period=grace_period, force=force
        )
        if request.phase in WAITED_FOR and not force:
            _wait(flags, chosen, wait)
        done = _step(flags, request)
    if form == "json":
        import msgspec

        render.out(render.as_json([msgspec.to_builtins(one) for one in done]))
        return
    for one in done:
        render.out(f"{_sentence(one)}\n")


def _step(flags: Flags, request: m.RotateRequest) -> Sequence[AuthorityStatus]:
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags) as auth:
        return auth.client.call(routes.ROTATE, request).authorities


def _standing(flags: Flags, types: Sequence[str]) -> tuple[list[AuthorityStatus], list[WaitedFor]]:
    """The authorities that are meant, and who has not reached their phase. Every look is a connection of its own, with
    the certificates as they are then: a rotation renews those of tctl, too."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags) as auth:
        found = auth.client.call(routes.ROTATION_PROGRESS, m.Empty())
    authorities = [one for one in found.authorities if not types or one.kind in types]
    kinds = {one.kind for one in authorities}
    return authorities, [one for one in found.waiting if one.authority in kinds]


def _wait(flags: Flags, types: Sequence[str], seconds: float) -> None:
    """Until every live host has followed, but not longer than `seconds`: then auth says who is missing."""
    end = time.monotonic() + seconds
    with progress("waiting for hosts to follow", after=0.5):
        while _standing(flags, types)[1] and time.monotonic() < end:
            time.sleep(LOOK_EVERY)


def _roll_back(flags: Flags, types: Sequence[str], *, force: bool, wait: float) -> Sequence[AuthorityStatus]:
    """Back to the old keys: the phase rollback, then standby once every live host is back. Can be repeated."""
    running = [one for one in _standing(flags, types)[0] if one.phase != "standby"]
    if not running:
        raise BadRequest("no rotation is in progress, so there is nothing to roll back", hint="tctl status")
    ahead = [one.kind for one in running if one.phase != "rollback"]
    if ahead:
        _step(flags, m.RotateRequest(types=ahead, phase="rollback"))
    kinds = [one.kind for one in running]
    if not force:
        _wait(flags, kinds, wait)
    try:
        return _step(flags, m.RotateRequest(types=kinds, phase="standby", force=force))
    except ConnectionProblem as error:
        raise ConnectionProblem(error.message, hint="repeat it: tctl auth rotate --rollback") from None
    except TeleportError as error:
        error.message = f"the old keys sign again, but the new ones are still trusted: {error.message}"
        error.hint = "repeat it when they are back, or end it without them: tctl auth rotate --rollback --force"
        raise


def _plan(flags: Flags, request: m.RotationPlanRequest, form: str) -> None:
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags) as auth:
        found = auth.client.call(routes.ROTATION_PLAN, request)
    if form == "json":
        import msgspec

        render.out(render.as_json(msgspec.to_builtins(found)))
        return
    for one in found.authorities:
        render.out(_ending(one, found.ends.get(one.kind)))
    if not found.left_behind:
        render.out("No certificate that is known would be left behind.\n")
        return
    rows = [_row(one) for one in found.left_behind]
    render.out(
        "\n" + render.table(["Rotation", "Certificate of", "Name", "Role", "Serial", "Expires (UTC)", "Why"], rows)
    )
    if found.more:
        render.out(f"and {found.more} more\n")
    remedies = dict.fromkeys(f"{one.type} {one.subject}: {one.remedy}" for one in found.left_behind)
    render.note("What brings them along:\n" + "\n".join(f"  {render.printable(line)}" for line in remedies))


def _row(one: LeftBehind) -> list[str]:
    expires = render.when(one.expires) if one.expires is not None else ""
    return [one.authority, f"{one.type} {one.subject}", one.name, one.role, one.serial, expires, one.why]


def _ending(one: AuthorityStatus, when: datetime | None) -> str:
    """Which keys end, and when."""
    whose = f"keys of the {one.kind} authority"
    if one.phase == "standby":
        return f"The present {whose} would end, if a rotation began now, at {render.when(when)} UTC.\n"
    which = "new" if one.phase == "rollback" else "old"
    if one.mode == "auto":
        return f"The {which} {whose} end at {render.when(when)} UTC.\n"
    return f"The {which} {whose} end when somebody asks for the phase standby.\n"


def _sentence(one: AuthorityStatus) -> str:
    what = f"the {one.kind} authority"
    if one.phase == "standby":
        return f"{what}: standby, {one.rotation}. One set of keys is trusted."
    if one.mode == "auto":
        times = ", ".join(f"{phase} at {render.when(when)} UTC" for phase, when in one.schedule.items())
        return f"{what}: {one.phase}, going on by itself: {times}. Watch it: tctl status"
    following = FOLLOWING.get(one.phase, "standby")
    return f"{what}: {one.phase}. Next: tctl auth rotate --type={one.kind} --manual --phase={following}"
