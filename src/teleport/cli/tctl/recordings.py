"""`tctl recordings`: recorded sessions: which there are, what they showed, and whether they are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from teleport.cli import recorded, render
from teleport.cli.tctl.options import Group, flags_of, format_option
from teleport.errors import BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.api import messages as m
    from teleport.api.sync_client import SyncAuthClient


@click.group(cls=Group)
def recordings() -> None:
    """List, search, export and verify recorded sessions."""


@recordings.command("ls")
@recorded.filter_options
@click.option(
    "--limit", type=click.IntRange(1), help=f"The newest so many; {recorded.DEFAULT_LIMIT} for text, all for json."
)
@format_option("text", "json")
@click.pass_context
def list_recordings(ctx: click.Context, /, limit: int | None, form: str, **options: Any) -> None:
    """List recordings, oldest first."""
    from teleport.cli.tctl.connect import open_auth

    filters = recorded.filters_of(options)
    wanted = limit if limit is not None or form == "json" else recorded.DEFAULT_LIMIT
    with open_auth(flags_of(ctx)) as auth:
        recorded.list_recordings(auth.client, filters, wanted, form)


@recordings.command("search")
@click.argument("text")
@recorded.filter_options
@click.option(
    "--limit", type=click.IntRange(1), default=recorded.DEFAULT_MATCHES, show_default=True, help="The newest so many."
)
@format_option("text", "json")
@click.pass_context
def search(ctx: click.Context, /, text: str, limit: int, form: str, **options: Any) -> None:
    """Find sessions by TEXT that their screens showed, or by commands and files, newest first.

    Case, colours, wrapped lines and what was written over later do not matter. Each find has its time in the session:
    in tsh play, g goes there."""
    from teleport.cli.tctl.connect import open_auth

    filters = recorded.filters_of(options)
    with open_auth(flags_of(ctx)) as auth:
        recorded.search_recordings(auth.client, text, filters, limit, form)


@recordings.command("export")
@click.argument("sid")
@click.option("-o", "--out", default="", metavar="FILE", help="Write to this file (0600) instead of stdout.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@format_option(*recorded.EXPORTS)
@click.pass_context
def export(ctx: click.Context, sid: str, out: str, overwrite: bool, form: str) -> None:
    """Write the recording of the session SID as asciicast, as text (what the screen showed), as JSON lines, or as
    one HTML page that plays it in a browser without any network. The recording is verified on the way."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        recorded.export_recording(auth.client, sid, form, out, overwrite=overwrite)


@recordings.command("download")
@click.argument("sid")
@click.option("-o", "--out", default="", metavar="FILE", help="Write to this file (0600) instead of stdout.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@format_option(*recorded.EXPORTS, "raw")
@click.pass_context
def download(ctx: click.Context, sid: str, out: str, overwrite: bool, form: str) -> None:
    """As export; also raw: the exact bytes that the session put out."""
    from teleport.cli.tctl.connect import open_auth

    with open_auth(flags_of(ctx)) as auth:
        recorded.export_recording(auth.client, sid, form, out, overwrite=overwrite)


@recordings.command("verify")
@click.argument("sid", required=False)
@click.option("--all", "every", is_flag=True, help="All recordings that you may play.")
@format_option("text", "json")
@click.pass_context
def verify(ctx: click.Context, sid: str | None, every: bool, form: str) -> None:
    """Prove that the recording of the session SID, or every one, is whole, unaltered, signed by its host, and the one
    that arrived. Fails when one is not, and names the place."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth

    if bool(sid) == every:
        raise BadRequest("name one session, or give --all", hint="tctl recordings verify --all")
    with open_auth(flags_of(ctx)) as auth:
        found = _verdicts(auth.client, sid or "")
    if sid and not found:
        raise NotFound(f"there is no recording of session {sid[:64]!r}", hint="tctl recordings ls")
    broken = [one for one in found if not one.ok]
    if form == "json":
        render.out(render.as_json([msgspec.to_builtins(one) for one in found]))
    else:
        for one in broken:
            render.out(render.printable(f"{one.sid}  {one.problem}") + "\n")
        render.out(f"{len(found) - len(broken)} of {len(found)} recordings are whole\n")
    if broken:
        raise TeleportError(
            f"{len(broken)} recordings are not whole, the first is of session {broken[0].sid}: {broken[0].problem}",
            hint="keep a copy of the files as they are now, and find out who could write to them",
        )


def _verdicts(client: SyncAuthClient, sid: str) -> list[m.RecordingVerdict]:
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.cli.progress import progress

    found: list[m.RecordingVerdict] = []
    key = ""
    with progress("auth verifies recordings", "recordings") as so_far:
        while True:
            page = client.call(routes.VERIFY_RECORDINGS, m.VerifyRecordingsRequest(sid=sid, start_key=key))
            found += page.items
            so_far(len(found))
            if not page.next_key:
                return found
            key = page.next_key
