"""`tctl apply`: the cluster as files say. What is to be done is worked out in `teleport.resources.applying`.

Nothing is written before every file was read, everything in it was checked here, and auth has said of each write that
it would not refuse it.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Command, flags_of, format_option
from teleport.cli.tctl.resources import MAX_INPUT, title
from teleport.errors import AlreadyExists, BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.resources.applying import Step
    from teleport.resources.codec import Resource

WOULD_CHANGE: Final = 7
"""The exit code of a dry run that finds something to do; no error has it."""
SUFFIXES: Final = (".yaml", ".yml", ".json")
_SHOWN: Final = 200  # characters of a value in text
_DONE: Final = {"create": "created", "update": "changed", "remove": "removed"}


@click.command("apply", cls=Command)
@click.option(
    "-f",
    "--file",
    "sources",
    metavar="DIR|FILE|-",
    multiple=True,
    required=True,
    help="Documents: a file, a directory with those below it (.yaml, .yml, .json), or - for stdin. May be repeated.",
)
@click.option(
    "--set", "set_name", metavar="NAME", default="default", show_default=True, help="Whose resources they are."
)
@click.option("--prune", is_flag=True, help="Remove what earlier runs with this --set made and the files do not have.")
@click.option("--dry-run", is_flag=True, help="Print the difference and change nothing.")
@format_option("text", "json")
@click.pass_context
def apply(ctx: click.Context, sources: tuple[str, ...], set_name: str, prune: bool, dry_run: bool, form: str) -> None:
    """Make roles, users, trusted clusters, locks and settings what the documents say, and print what differs.

    Nothing is written when a document has a mistake, or when auth would refuse one of them. Exit code 0 when all is as
    the documents say, or was made so; 7 when --dry-run found something to change.
    """
    from teleport.cli.tctl.connect import open_auth
    from teleport.resources import applying
    from teleport.resources.names import check_name

    if problem := check_name(set_name):
        raise BadRequest(f"--set: {set_name[:80]!r} {problem}", hint="a name such as --set=platform")
    wanted = _documents(sources)
    with open_auth(flags_of(ctx)) as auth:
        steps = _plan(auth, wanted, set_name, prune=prune)
        _agreed(auth, steps)
        todo = [step for step in steps if step.change is not applying.Change.NONE]
        if form == "text":
            _carry_out(auth, todo, dry_run=dry_run)
            render.out(f"{_summary(len(todo), len(steps) - len(todo), dry_run=dry_run)}\n")
        else:
            if not dry_run:
                _carry_out(auth, todo, dry_run=False, quiet=True)
            shown = {"set": set_name, "dry_run": dry_run, "resources": [_as_json(step) for step in steps]}
            render.out(render.as_json(shown))
    if dry_run and todo:
        ctx.exit(WOULD_CHANGE)


# reading


def _documents(sources: Sequence[str]) -> list[Resource]:
    """Everything that the sources hold, each once. Raises `BadRequest` with every mistake in all of them."""
    from teleport.resources.parse import parse_resources
    from teleport.resources.yaml_document import Problems
    from teleport.resources.yaml_problems import InvalidDocument

    problems, found = Problems(), dict[tuple[str, str, str], str]()
    resources: list[Resource] = []
    twice: list[str] = []
    for source, data in _read(sources):
        try:
            read = parse_resources(data, source, problems)
        except InvalidDocument:
            continue  # said with those of the other files
        for one in read:
            key = (one.kind, str(getattr(one, "sub_kind", "")), one.metadata.name)
            if key in found and found[key] != source:
                twice.append(f"{title(one)} stands in {found[key]} and in {source}")
            found[key] = source
        resources += read
    problems.raise_if_any()
    if twice:
        raise BadRequest("\n".join(twice), hint="say each resource in one place")
    for notice in problems.notices:
        where = f"{notice.source}:{notice.line}" + (f": {notice.path}" if notice.path else "")
        render.note(f"warning: {where}: {render.printable(notice.text)}")
    return resources


def _read(sources: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    left, seen = MAX_INPUT, set[str]()
    for source in sources:
        for path in _files(source):
            name = "stdin" if path is None else str(path)
            if name in seen:
                continue
            seen.add(name)
            try:
                if path is None:
                    data = sys.stdin.buffer.read(left + 1)
                else:
                    with path.open("rb") as stream:
                        data = stream.read(left + 1)
            except OSError as error:
                raise TeleportError(
                    f"cannot read {name}: {error.strerror}", hint="tctl apply -f DIR, FILE, or - for stdin"
                ) from None
            left -= len(data)
            if left < 0:
                raise BadRequest(f"more than {MAX_INPUT} bytes of documents", hint="apply them as several sets: --set")
            yield name, data


def _files(source: str) -> list[Path | None]:
    """The files of a source, in an order that is always the same; None is stdin."""
    if source == "-":
        return [None]
    path = Path(source)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
        found: list[Path | None] = []
        for folder, folders, names in os.walk(path, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
            found += [file for file in files if file.suffix in SUFFIXES]
    except OSError as error:
        raise TeleportError(
            f"cannot read {error.filename or source}: {error.strerror}", hint="tctl apply -f DIR, FILE, or - for stdin"
        ) from None
    if not found:
        raise BadRequest(
            f"{source} has no documents: no {', '.join(SUFFIXES)} below it", hint="tctl rm KIND/NAME removes resources"
        )
    return found


def _raise(error: OSError) -> None:
    raise error


# planning


def _plan(auth: Auth, wanted: Sequence[Resource], set_name: str, *, prune: bool) -> list[Step]:
    """What is to be done. Raises `BadRequest` with everything that cannot be."""
    from teleport.cli.tctl.listing import all_of
    from teleport.resources import applying
    from teleport.resources.kinds import Kind
    from teleport.resources.user import User

    now = datetime.now(UTC)
    wrong: list[str] = []
    steps: list[Step] = []
    for one in wanted:
        wrong += [f"{title(one)}: {reason}" for reason in applying.refusals(one, set_name, None)]
    _refuse(wrong)
    for one in applying.in_order(wanted):
        if applying.is_over(one, now):
            render.note(f"{title(one)} is over, and left out")
            continue
        stored, revision = _stored(auth, one)
        wrong += [f"{title(one)}: {reason}" for reason in applying.refusals(one, set_name, stored)]
        steps.append(applying.step_for(one, stored, revision, set_name))
    removed: list[Step] = []
    if prune:
        kept = frozenset((step.kind, step.name) for step in steps)
        stored_ones = [one for kind in applying.PRUNED for one in all_of(auth, kind)]
        removed = applying.pruned(stored_ones, kept, set_name)
        users = [one for one in stored_ones if isinstance(one, User)]
        held = applying.still_held([*steps, *removed], users)
        wrong += [f"role {render.printable(role)!r} would be removed, and users have it" for role in held]
    gone = {step.name for step in removed if step.kind is Kind.ROLE}
    referring = [step.resource for step in steps if step.kind in (Kind.USER, Kind.TRUSTED_CLUSTER)]
    if referring:
        known = {role.metadata.name for role in all_of(auth, Kind.ROLE)} | {
            step.name for step in steps if step.kind is Kind.ROLE
        }
        for one in referring:
            missing = applying.missing_roles(one, frozenset(known - gone))
            names = ", ".join(repr(render.printable(role)) for role in missing)
            wrong += [f"{title(one)}: there is no role {names}"] if missing else []
    _refuse(wrong)
    return [*steps, *removed]


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise BadRequest("\n".join(wrong), hint="nothing was changed; correct the documents and try again")


def _stored(auth: Auth, resource: Resource) -> tuple[Resource | None, int]:
    from teleport.resources.codec import from_json

    try:
        found = auth.client.call(routes.GET[resource.kind], m.GetRequest(name=resource.metadata.name))
    except NotFound:
        return None, 0
    return from_json(bytes(found.item)), found.revision


def _agreed(auth: Auth, steps: Sequence[Step]) -> None:
    """Raises what auth would refuse a write, or a removal, with."""
    from teleport.resources.applying import Change

    removed: list[str] = []
    for step in steps:
        try:
            if step.change in (Change.CREATE, Change.UPDATE):
                auth.client.call(routes.STORE[step.kind], _request(step, check=True))
            elif step.change is Change.REMOVE:
                auth.client.call(routes.CHECK_REMOVAL, _removal(step, steps, removed))
                removed += [step.name] if step.kind == "user" else []
        except TeleportError as error:
            raise _named(step, error, "nothing was changed") from None


def _removal(step: Step, steps: Sequence[Step], removed: Sequence[str]) -> m.CheckRemovalRequest:
    """Asks whether it could be removed once all else was done that comes before it."""
    from teleport.resources.applying import Change
    from teleport.resources.codec import to_json

    changed = (one for one in steps if one.change in (Change.CREATE, Change.UPDATE))
    along = [to_json(one.resource) for one in changed if one.kind in ("user", "role", "lock")]
    document = m.Document(b"[" + b",".join(along) + b"]")
    return m.CheckRemovalRequest(kind=step.kind, name=step.name, along=document, removed=list(removed))


# carrying out


def _request(step: Step, *, check: bool) -> m.StoreRequest:
    from teleport.resources.applying import Change
    from teleport.resources.codec import to_json

    return m.StoreRequest(
        item=m.Document(to_json(step.resource, with_secrets=True)),
        force=step.change is Change.UPDATE,
        revision=step.revision,
        check=check,
    )


def _carry_out(auth: Auth, steps: Sequence[Step], *, dry_run: bool, quiet: bool = False) -> None:
    from teleport.resources.applying import Change

    done: list[str] = []
    for number, step in enumerate(steps):
        if not dry_run:
            try:
                if step.change is Change.REMOVE:
                    reply = auth.client.call(routes.REMOVE[step.kind], m.ExpelRequest(name=step.name))
                else:
                    reply = auth.client.call(routes.STORE[step.kind], _request(step, check=False))
            except TeleportError as error:
                stopped = f"stopped at {number + 1} of {len(steps)}; run it again once that is mended"
                raise _named(step, error, "\n".join([stopped, *done])) from None
            if reply.note:
                render.note(f"warning: {render.printable(reply.note)}")
            if reply.name and reply.name != step.name:
                render.note(f"warning: {title(step.resource)} is called {render.printable(reply.name)!r}: write that")
        sentence = f"{title(step.resource)} {'would be' if dry_run else 'has been'} {_DONE[step.change]}"
        if quiet:
            done.append(sentence)
        else:
            render.out(f"{sentence}\n{''.join(_lines(step))}")


def _named(step: Step, error: TeleportError, more: str) -> TeleportError:
    """`error`, with what it is about and what had been done."""
    said = error.message if repr(step.name) in error.message else f"{title(step.resource)}: {error.message}"
    hint = "somebody made it at this moment: run it again" if isinstance(error, AlreadyExists) else error.hint
    return type(error)(f"{said}\n{more}", hint=hint)


# printing


def _lines(step: Step) -> Iterator[str]:
    for field in step.fields:
        for sign, value in (("-", field.before), ("+", field.after)):
            if value is not None:
                text = json.dumps(value, ensure_ascii=False)
                text = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
                yield f"  {sign} {render.printable(field.path)}: {render.printable(text)}\n"


def _as_json(step: Step) -> dict[str, Any]:
    fields = [{"path": field.path, "before": field.before, "after": field.after} for field in step.fields]
    return {"kind": str(step.kind), "name": step.name, "change": str(step.change), "fields": fields}


def _summary(changed: int, same: int, *, dry_run: bool) -> str:
    things = "1 resource" if changed == 1 else f"{changed} resources"
    said = f"{things} would be changed" if dry_run else f"{things} {'has' if changed == 1 else 'have'} been changed"
    return f"{said}, {same} as the documents say"
