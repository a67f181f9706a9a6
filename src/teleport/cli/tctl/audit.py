"""`tctl audit`: what happened, and the proof that nothing was changed or left out.

`ls --format=json` prints the lines as they are stored, so that `verify FILE` proves the export anywhere, later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.audit_tail import tail
from teleport.cli.tctl.options import Command, Group, comma_list, flags_of, format_option
from teleport.errors import BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.audit.chain import Verify
    from teleport.cli.tctl.connect import Auth
    from teleport.pki.keys import PublicKey

PAGE: Final = 500  # events of one call
DEFAULT_LIMIT: Final = 500  # of a table


@click.group(cls=Group)
def audit() -> None:
    """Search the audit log, and prove it complete."""


audit.add_command(tail)


@audit.command("ls")
@click.option("--from", "start", default="", metavar="TIME", help="Not before: -24h, 2024-05-31, 2024-05-31T12:00:00Z.")
@click.option("--to", "end", default="", metavar="TIME", help="Before; of a date, before the day's end.")
@click.option("--type", "types", multiple=True, metavar="NAME,..", help="Only these events, such as session.start.")
@click.option("--user", default="", help="Only events of this user.")
@click.option("--host", default="", help="Only events of this host, by name or UUID.")
@click.option("--login", default="", help="Only events of this Unix account.")
@click.option("--session", "sid", default="", metavar="SID", help="Only events of this session.")
@click.option("--limit", type=click.IntRange(1), help=f"The newest so many; {DEFAULT_LIMIT} for text, all for json.")
@format_option("text", "json")
@click.pass_context
def list_events(
    ctx: click.Context,
    start: str,
    end: str,
    types: tuple[str, ...],
    user: str,
    host: str,
    login: str,
    sid: str,
    limit: int | None,
    form: str,
) -> None:
    """List events in order of time. With --format=json: the stored lines, one event each; with a time range and no
    other restriction, such an export can be proved by: tctl audit verify FILE"""
    from teleport.cli.progress import progress
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.events import in_chain_order, table
    from teleport.cli.tctl.timerange import parse_range

    first, last = parse_range(start, end, datetime.now(UTC))
    request = m.SearchEventsRequest(
        start=first, end=last, types=comma_list(types), user=user, host=host, login=login, sid=sid
    )
    wanted = limit if limit is not None or form == "json" else DEFAULT_LIMIT
    with open_auth(flags_of(ctx)) as auth, progress("reading the audit log", "events") as so_far:
        found, more, waiting, notice = _newest(auth, request, wanted, so_far)
    found.reverse()
    if form == "json":
        # a terminal is not driven by what a host wrote; files and pipes get the stored bytes
        shown = render.printable if sys.stdout.isatty() else str
        for line in in_chain_order(found):
            render.out(f"{shown(line)}\n")
    else:
        render.out(table(found))
    if more:
        render.note(f"Only the newest {len(found)} are shown: --limit=N or --from and --to show others.")
    _tell_of(waiting)
    if notice:
        render.note(render.printable(notice))


def _newest(
    auth: Auth, request: m.SearchEventsRequest, wanted: int | None, so_far: Callable[[int], None]
) -> tuple[list[str], bool, m.EventsWaiting | None, str]:
    """The newest events, newest first, whether there are more, what is missing since it is not in the log yet, and
    what auth has to say of where they are from."""
    import msgspec

    found: list[str] = []
    key = ""
    waiting, notice = None, ""
    while True:
        size = PAGE if wanted is None else min(PAGE, wanted - len(found))
        page = auth.client.call(routes.SEARCH_EVENTS, msgspec.structs.replace(request, start_key=key, limit=size))
        found += page.lines
        waiting, notice = page.waiting or waiting, page.notice or notice
        so_far(len(found))
        if not page.next_key or page.next_key == key:
            return found, False, waiting, notice
        if wanted is not None and len(found) >= wanted:
            return found, True, waiting, notice
        key = page.next_key


def _tell_of(waiting: m.EventsWaiting | None) -> None:
    if waiting is None:
        return
    since = f"{waiting.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    what = f"At least {waiting.count} events wait" if waiting.count > 1 else "Events wait"
    why = f": {render.printable(waiting.cause)}" if waiting.cause else ""
    render.note(f"Not everything is in this answer. {what} to be taken into the log, since {since}{why}.")


@audit.command("verify", cls=Command)
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--key", "key_file", default="", metavar="PEM", help="Public key that checkpoints must be signed with.")
@format_option("text", "json")
@click.pass_context
def verify(ctx: click.Context, file: str | None, key_file: str, form: str) -> None:
    """Prove that the audit log is whole: no event altered, left out, repeated or moved. Without FILE auth proves its
    own store, recordings included; FILE is an export, or a folder with a store. Fails at the first broken place."""
    found = _verify_local(Path(file), key_file) if file else _verify_store(ctx, key_file)
    if form == "json":
        render.out(render.as_json(found))
    else:
        _show(found, file)
    if not found["ok"]:
        raise TeleportError(
            "the audit log is not whole: what was found is named above" if form == "text" else _broken(found),
            hint="keep a copy of the log as it is now, and find out who could write to it",
        )


def _broken(found: dict[str, object]) -> str:
    problems = found.get("problems")
    first = f": {problems[0]}" if isinstance(problems, list) and problems else ""
    return f"the audit log is not whole{first}"


def _verify_store(ctx: click.Context, key_file: str) -> dict[str, object]:
    import msgspec

    from teleport.cli.progress import progress
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth, progress("auth verifies its log and its recordings"):
        reply = auth.client.call(routes.VERIFY_EVENTS, m.Empty())
    _tell_of(reply.waiting)
    found: dict[str, object] = msgspec.to_builtins(reply)
    if key_file and _read_key(key_file).spki_pem().decode() != reply.checkpoint_key:
        problem = f"the checkpoints are signed with another key than the one in {key_file}"
        found.update(ok=False, problems=[problem, *reply.problems])
    return found


def _verify_local(path: Path, key_file: str) -> dict[str, object]:
    from teleport.audit.verify import verify_file, verify_store

    check = _verifier(key_file) if key_file else None
    try:
        report = verify_store(path, verify=check) if path.is_dir() else verify_file(path, verify=check)
    except OSError as error:
        raise TeleportError(
            f"cannot read {path}: {error.strerror}", hint="check the path and who may read it"
        ) from None
    if not report.events and report.ok:
        hint = "name the folder that holds events.log: DATA_DIR/log" if path.is_dir() else ""
        raise NotFound(f"{path} holds no events, so there is nothing to prove", hint=hint)
    return {
        "ok": report.ok,
        "events": report.events,
        "emitters": report.emitters,
        "checkpoints": report.checkpoints,
        "recordings": report.recordings,
        "pruned": report.pruned,
        "problems": [str(problem) for problem in report.problems],
        "signatures": report.signatures,
    }


def _read_key(key_file: str) -> PublicKey:
    from teleport.pki.keys import PublicKey

    try:
        data = Path(key_file).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {key_file}", hint="tctl audit verify --format=json prints the key") from None
    except OSError as error:
        raise TeleportError(
            f"cannot read {key_file}: {error.strerror}", hint="check the path and who may read it"
        ) from None
    try:
        return PublicKey.from_spki(data)
    except TeleportError as error:
        raise BadRequest(
            f"{key_file} holds no public key: {error.message}", hint="give the file that tctl audit export wrote"
        ) from None


def _verifier(key_file: str) -> Verify:
    """Believes checkpoints that this one key signed."""
    from teleport.audit.checkpoints import verifier

    return verifier([_read_key(key_file)])


def _show(found: dict[str, object], file: str | None) -> None:
    counts = [
        ("Events", "events"),
        ("Emitters", "emitters"),
        ("Checkpoints", "checkpoints"),
        ("Recordings", "recordings"),
    ]
    if found.get("pruned"):
        counts.append(("Pruned", "pruned"))
    render.out(render.pairs([(title, str(found[name])) for title, name in counts]))
    if found.get("signatures") is False and found["checkpoints"]:
        render.note("The signatures of checkpoints were not checked: --key=PEM does that.")
    problems = found["problems"]
    assert isinstance(problems, list)
    if not problems:
        render.out(f"{file or 'The audit log'} is whole.\n")
        return
    render.out(f"NOT whole. The first broken place:\n  {render.printable(problems[0])}\n")
    for problem in problems[1:]:
        render.out(f"then\n  {render.printable(problem)}\n")
