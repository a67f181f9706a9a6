"""`tctl get`, `create` and `rm`: resources by kind and name, as documents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import Command, comma_list, flags_of, format_option
from teleport.cli.tctl.outcome import outcome
from teleport.errors import AlreadyExists, BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.resources.codec import Resource
    from teleport.resources.references import ResourceRef

ALL: Final = "all"
SETTINGS: Final = ("cluster_auth_preference", "cluster_networking_config", "session_recording_config")
BACKED_UP: Final = ("role", "user", "token", "cert_authority", "lock", *SETTINGS)
"""What `get all` prints: all that a cluster cannot find again by itself. Hosts announce themselves."""
MAX_INPUT: Final = 16 * 1024 * 1024  # bytes


@click.command("get", cls=Command)
@click.argument("specs", metavar="KIND[/NAME][,..]", nargs=-1, required=True)
@click.option(
    "--format", "form", type=click.Choice(("yaml", "json", "text")), default="yaml", help="Form of the output."
)
@click.option("--with-secrets", is_flag=True, help="Private keys of authorities, password hashes of users.")
@click.pass_context
def get(ctx: click.Context, specs: tuple[str, ...], form: str, with_secrets: bool) -> None:
    """Print resources: users, roles, tokens, nodes, cert_authority, locks, proxies, auth_servers, tc (trusted
    clusters), rc (remote clusters); each KIND or KIND/NAME. The cluster's settings are cap (cluster_auth_preference),
    netconfig, recconfig, cluster_audit_config. `all` prints everything that a backup needs, with its secrets."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.resources.references import ResourceRef

    wanted = comma_list(specs)
    if ALL in wanted:
        if wanted != [ALL] or form != "yaml":
            raise BadRequest("`get all` prints every kind, as YAML only", hint="tctl get all > state.yaml")
        refs, with_secrets = [ResourceRef.parse(kind) for kind in BACKED_UP], True
        render.note("This holds the private keys of the cluster: keep it as you keep those.")
    else:
        refs = [ResourceRef.parse(spec) for spec in wanted]
    for ref in refs:
        _served(ref.kind)
    found: list[Resource] = []
    with open_auth(flags_of(ctx)) as auth:
        for ref in refs:
            found += _find(auth, ref, with_secrets=with_secrets)
    if wanted == [ALL]:
        found = [one for one in found if not _is_said_elsewhere(one)]
    _print(found, refs, form, with_secrets=with_secrets)


def _served(kind: str, *, written: bool = False) -> None:
    """Raises `BadRequest` for a kind that auth does not serve, or not to be `written`."""
    if written and kind in routes.GET and kind not in routes.STORE:
        raise BadRequest(
            f"the {kind} is what the configuration file of the auth server says",
            hint="change teleport.storage there and restart it",
        )
    if kind not in routes.GET:
        raise BadRequest(
            f"resources of the kind {kind} cannot be managed with tctl yet",
            hint=f"kinds are {', '.join(sorted(routes.GET))}",
        )


def _is_said_elsewhere(resource: Resource) -> bool:
    """Whether the configuration file or the program itself says it, and brings it back."""
    from teleport.resources.metadata import ORIGIN_LABEL

    return resource.kind in ("token", *SETTINGS) and resource.metadata.labels.get(ORIGIN_LABEL) in (
        "config-file",
        "defaults",
    )


def _find(auth: Auth, ref: ResourceRef, *, with_secrets: bool) -> list[Resource]:
    from teleport.cli.tctl.clusters import unreadable_note
    from teleport.cli.tctl.listing import all_of
    from teleport.cli.tctl.tokens import public_id
    from teleport.resources.authority import Authority
    from teleport.resources.codec import from_json

    if not ref.name:
        kind = ref.kind
        found = list(
            all_of(
                auth, kind, with_secrets=with_secrets, unreadable=lambda one: render.note(unreadable_note(kind, one))
            )
        )
        return [one for one in found if not ref.sub_kind or (isinstance(one, Authority) and one.type == ref.sub_kind)]
    name = f"{ref.sub_kind}/{ref.name}" if ref.sub_kind else ref.name
    if ref.kind == "token":
        name = public_id(ref.name)
    reply = auth.client.call(routes.GET[ref.kind.value], m.GetRequest(name=name, with_secrets=with_secrets))
    return [from_json(bytes(reply.item))]


def _print(found: list[Resource], refs: Sequence[ResourceRef], form: str, *, with_secrets: bool) -> None:
    from teleport.cli.tctl.listing import documents
    from teleport.cli.tctl.tables import resource_table
    from teleport.resources.parse import to_yaml

    match form:
        case "json":
            render.out(render.as_json(documents(found, with_secrets=with_secrets)))
        case "text":
            for kind in dict.fromkeys(ref.kind for ref in refs):
                render.out(resource_table(kind, [one for one in found if one.kind == kind]))
        case _:
            render.out(to_yaml(*found, with_secrets=with_secrets) if found else "")


@click.command("create", cls=Command)
@click.argument("file", metavar="[FILE]", required=False)
@click.option("-f", "--force", is_flag=True, help="Replace resources that exist.")
@click.option("--confirm", is_flag=True, help="Also when nobody is left who may edit roles, or the file decides.")
@format_option("text", "json")
@click.pass_context
def create(ctx: click.Context, file: str | None, force: bool, confirm: bool, form: str) -> None:
    """Create resources from the YAML or JSON documents in FILE, or from stdin. Nothing is created when one of them
    has a mistake; all mistakes are named."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.resources.codec import to_json

    resources = read_resources(file)
    for resource in resources:
        _served(resource.kind, written=True)
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for done, resource in enumerate(resources):
            item = m.Document(to_json(resource, with_secrets=True))
            touches = _touches(auth, item) if resource.kind == "role" else ""
            try:
                stored, done_as = _store(auth, resource.kind, item, force=force, confirm=confirm)
                name = done_as.name or resource.metadata.name
                called = f"; its name is {render.printable(name)!r}" if done_as.name else ""
                tell(resource.kind, name, stored, f"{title(resource)} has been {stored}{touches}{called}")
                if done_as.note:
                    render.note(f"warning: {render.printable(done_as.note)}")
            except TeleportError as error:
                if done + 1 < len(resources):
                    render.note(f"stopped at document {done + 1} of {len(resources)}; those after it are not created")
                named = repr(resource.metadata.name) in error.message
                message = error.message if named else f"{title(resource)}: {error.message}"
                raise type(error)(message, hint=error.hint) from None


def read_resources(file: str | None) -> list[Resource]:
    """The documents in a file, or on stdin; warnings are said. Raises `BadRequest` with every mistake in them."""
    from teleport.resources.parse import parse_resources
    from teleport.resources.yaml_document import Problems

    source = "stdin" if file in (None, "-") else str(file)
    problems = Problems()
    resources = parse_resources(_read(file), source, problems)
    for notice in problems.notices:
        where = f"{notice.source}:{notice.line}" + (f": {notice.path}" if notice.path else "")
        render.note(f"warning: {where}: {render.printable(notice.text)}")
    return list(resources)


def _touches(auth: Auth, role: m.Document) -> str:
    """Whom a role touches, asked before it is stored; empty when nobody, or when the caller may not know."""
    from teleport.cli.tctl.access import counted

    try:
        found = auth.client.call(
            routes.DIFF_ACCESS, m.AccessDiffRequest(roles=m.Document(b"[" + bytes(role) + b"]"), sessions_only=True)
        )
    except TeleportError:
        return ""  # storing it says what is wrong
    if not found.users:
        return ""
    ends = (
        f", of which {len(found.ending)} now {'ends' if len(found.ending) == 1 else 'end'}"
        if found.open_sessions
        else ""
    )
    return f"; it touches {counted(len(found.users), 'user')} and {counted(found.open_sessions, 'open session')}{ends}"


def _store(auth: Auth, kind: str, item: m.Document, *, force: bool, confirm: bool) -> tuple[str, m.Done]:
    route = routes.STORE[kind]
    try:
        return "created", auth.client.call(route, m.StoreRequest(item=item, confirm=confirm))
    except AlreadyExists:
        if not force:
            raise
        return "updated", auth.client.call(route, m.StoreRequest(item=item, force=True, confirm=confirm))


def title(resource: Resource) -> str:
    """What messages call it."""
    sub_kind = getattr(resource, "sub_kind", "") if resource.kind == "cert_authority" else ""
    kind = f"{resource.kind}/{sub_kind}" if sub_kind else resource.kind
    return f"{kind} {render.printable(resource.metadata.name)!r}"


def _read(file: str | None) -> bytes:
    try:
        if file in (None, "-"):
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with Path(str(file)).open("rb") as stream:
                data = stream.read(MAX_INPUT + 1)
    except OSError as error:
        raise TeleportError(
            f"cannot read {file}: {error.strerror}", hint="tctl create FILE, or tctl create < FILE"
        ) from None
    if len(data) > MAX_INPUT:
        raise BadRequest(f"{file or 'stdin'} is larger than {MAX_INPUT} bytes", hint="split it into several files")
    return data


@click.command("rm", cls=Command)
@click.argument("specs", metavar="KIND/NAME", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also when nobody is left who may edit roles.")
@format_option("text", "json")
@click.pass_context
def rm(ctx: click.Context, specs: tuple[str, ...], force: bool, form: str) -> None:
    """Remove resources: users, roles, tokens, nodes, locks, proxies, auth_servers, tc (trusted clusters), rc (remote
    clusters). The cluster's settings go back to their defaults: cap, netconfig, recconfig."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.tokens import public_id
    from teleport.resources.cluster import SINGLETONS, setting_name
    from teleport.resources.references import ResourceRef

    refs = [ResourceRef.parse(spec) for spec in comma_list(specs)]
    for ref in refs:
        _served(ref.kind, written=True)
        if not (ref.name or ref.sub_kind) and ref.kind not in SINGLETONS:
            raise BadRequest(f"{ref.kind}: which one? A name is missing", hint=f"tctl rm {ref.kind}/NAME")
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for ref in refs:
            name = public_id(ref.name) if ref.kind == "token" else "/".join(filter(None, (ref.sub_kind, ref.name)))
            setting = ref.kind in SINGLETONS
            name = name or setting_name(ref.kind)
            reply = auth.client.call(routes.REMOVE[ref.kind.value], m.ExpelRequest(name=name, force=force))
            done = "has been reset to its defaults" if setting else "has been removed"
            tell(
                str(ref.kind), name, "reset" if setting else "removed", f"{ref.kind} {render.printable(name)!r} {done}"
            )
            if reply.note:
                render.note(f"warning: {render.printable(reply.note)}")
