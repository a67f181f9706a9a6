"""`tctl roles`: roles as texts that can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.authz.lint import Finding
    from teleport.resources.role import Role


@click.group(cls=Group)
def roles() -> None:
    """Look roles over before they are stored."""


@roles.command("lint")
@click.argument("file", required=False, metavar="[ROLE.yaml]")
@click.option("--all", "every", is_flag=True, help="The roles that are stored, instead of a file.")
@format_option("text", "json")
@click.pass_context
def lint(ctx: click.Context, file: str | None, every: bool, form: str) -> int:
    """Say what in the roles of ROLE.yaml (- for stdin) may mean something else than it seems to.

    A warning is about a rule that does not hold what it seems to promise, a note about one that gives much. Exit code 0
    without warnings, 1 with some. A file is read here; no cluster is asked.
    """
    from teleport.authz.lint import Level, lint_role

    if every is (file is not None):
        raise BadRequest("name a file, or give --all", hint="tctl roles lint ROLE.yaml, or tctl roles lint --all")
    found = [one for role in (_stored(ctx) if every else _read(file)) for one in lint_role(role)]
    if form == "json":
        render.out(render.as_json([asdict(one) for one in found]))
    else:
        render.out(_text(found))
    return int(any(one.level is Level.WARNING for one in found))


def _read(file: str | None) -> list[Role]:
    from teleport.cli.tctl.resources import read_resources
    from teleport.resources.role import Role

    found: list[Role] = []
    for resource in read_resources(file):
        if not isinstance(resource, Role):
            raise BadRequest(
                f"only roles are looked over; {render.printable(resource.metadata.name)!r} is a {resource.kind}",
                hint="tctl roles lint ROLE.yaml",
            )
        found.append(resource)
    return found


def _stored(ctx: click.Context) -> list[Role]:
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind
    from teleport.resources.role import Role

    with open_auth(flags_of(ctx)) as auth:
        return [one for one in all_of(auth, Kind.ROLE) if isinstance(one, Role)]


def _text(found: Sequence[Finding]) -> str:
    if not found:
        return "Nothing to say about these roles.\n"
    lines = []
    for one in found:
        lines.append(f"{one.role}: {one.level}: {one.message} ({one.field}, {one.check})")
        if one.hint:
            lines.append(f"    instead: {one.hint}")
    return "".join(f"{render.printable(line)}\n" for line in lines)
