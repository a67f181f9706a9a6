"""`tctl lock`: stops somebody or something at once, open sessions included."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Command, flags_of, format_option
from teleport.cli.tctl.outcome import outcome
from teleport.errors import BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.resources.lock import LockTarget

_ANY = "--user, --role, --login, --node, --mfa-device, --serial, --session"


@click.command("lock", cls=Command)
@click.option("--user", default="", metavar="NAME", help="Stop this user.")
@click.option("--role", default="", metavar="NAME", help="Stop everybody whose certificate or user has this role.")
@click.option("--login", default="", metavar="LOGIN", help="Stop sessions as this Unix account, on every host.")
@click.option("--node", default="", metavar="HOST", help="Stop this host, by UUID or name: no session on it.")
@click.option("--mfa-device", default="", metavar="UUID", help="Stop what was proved with this second factor.")
@click.option("--serial", default="", metavar="NUMBER", help="Stop this one certificate; see tctl certs revoke.")
@click.option("--session", default="", metavar="ID", help="End this session; see tctl sessions ls.")
@click.option("--message", default="", metavar="TEXT", help="Why; for administrators and the audit log.")
@click.option("--ttl", type=DURATION, metavar="DURATION", help="How long the lock holds; without it, until removed.")
@click.option("--expires", default="", metavar="TIME", help="When it ends, instead of --ttl: 2024-05-31T12:00:00Z.")
@click.option("--force", is_flag=True, help="Also when nobody is left who may edit roles.")
@format_option("text", "json")
@click.pass_context
def lock(
    ctx: click.Context,
    user: str,
    role: str,
    login: str,
    node: str,
    mfa_device: str,
    serial: str,
    session: str,
    message: str,
    ttl: float | None,
    expires: str,
    force: bool,
    form: str,
) -> None:
    """Stop a user, role, login, host, second factor, certificate or session at once: new sessions, certificates and
    calls are refused, open sessions end. `tctl get locks` lists locks, `tctl rm lock/NAME` lifts one."""
    from teleport.cli.tctl.certs import serial_of
    from teleport.cli.tctl.connect import open_auth
    from teleport.resources.codec import checked, to_json
    from teleport.resources.lock import Lock, LockSpec, LockTarget
    from teleport.resources.metadata import Metadata

    given = {"user": user, "role": role, "login": login, "node": node, "mfa_device": mfa_device, "session": session}
    given["serial"] = serial_of(serial) if serial else ""
    named = {kind: name for kind, name in given.items() if name}
    if len(named) != 1:
        what = "too much" if named else "nothing"
        raise BadRequest(f"{what} to lock was named", hint=f"give one of {_ANY}")
    end = _end(ttl, expires)
    target = LockTarget(**named)
    made = checked(
        Lock(metadata=Metadata(name=str(uuid.uuid4())), spec=LockSpec(target=target, message=message, expires=end))
    )
    until = f" until {render.when(end)} UTC" if end else ""
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        auth.client.call(routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(made)), confirm=force))
        tell("lock", made.name, "created", f"lock {made.name} stops {render.printable(str(target))}{until}")
        unknown = _unknown(auth, target)  # afterwards: nothing is in the way of a lock
    if unknown:
        render.note(f"warning: {unknown}: the lock stops nobody now. A mistake? tctl rm lock/{made.name}")


def make_lock(kind: str, name: str, message: str, ttl: float) -> tuple[str, m.Document]:
    """The name and the document of a lock on one thing, which holds for so many seconds."""
    from teleport.resources.codec import checked, to_json
    from teleport.resources.lock import Lock, LockSpec, LockTarget
    from teleport.resources.metadata import Metadata

    spec = LockSpec(target=LockTarget(**{kind: name}), message=message, expires=_end(ttl, ""))
    made = checked(Lock(metadata=Metadata(name=str(uuid.uuid4())), spec=spec))
    return made.name, m.Document(to_json(made))


def _end(ttl: float | None, expires: str) -> datetime | None:
    """When the lock ends; None for never. Raises `BadRequest`."""
    from teleport.cli.tctl.timerange import parse_moment

    now = datetime.now(UTC)
    if ttl is not None and expires:
        raise BadRequest("--ttl and --expires both say when the lock ends", hint="give one of them")
    if ttl is not None:
        if ttl < 1:
            raise BadRequest("--ttl: a lock has to hold for a second at least", hint="such as --ttl=8h")
        try:
            return (now + timedelta(seconds=ttl)).replace(microsecond=0)
        except OverflowError:
            raise BadRequest(
                "--ttl: that is longer than times reach", hint="without --ttl a lock holds until it is removed"
            ) from None
    if not expires:
        return None
    end = parse_moment(expires, now, end=True)
    if end <= now:
        raise BadRequest(f"--expires: {expires} is over already", hint="a time to come, or --ttl=8h")
    return end


def _unknown(auth: Auth, target: LockTarget) -> str:
    """What is wrong with the target's name; empty when something has it, or nobody can tell."""
    if target.kind not in ("user", "role", "node"):
        return ""
    name = getattr(target, target.kind)
    try:
        auth.client.call(routes.GET[target.kind], m.GetRequest(name=name))
    except NotFound:
        return f"there is no {target.kind} {render.printable(name)!r}"
    except TeleportError:
        return ""  # several hosts have that name, and all are meant; or the caller may lock and not look
    return ""
