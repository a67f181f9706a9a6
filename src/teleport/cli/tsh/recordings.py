"""`tsh recordings`: the sessions that you may play: which there are, what they showed, and exports of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from teleport.cli import recorded
from teleport.cli.tsh.flags import Flags, access, cluster_option, now, takes_flags
from teleport.errors import BadRequest

if TYPE_CHECKING:
    from teleport.api.sync_client import SyncAuthClient


@click.group()
def recordings() -> None:
    """List, search and export recorded sessions."""


@contextmanager
def _client(flags: Flags, cluster: str) -> Iterator[SyncAuthClient]:
    from teleport.cli.tsh.prompts import second_factor
    from teleport.client.cluster import cluster_client

    found = access(flags, cluster)
    with cluster_client(found, now(), second_factor(found.web)) as client:
        yield client


def _filters(options: dict[str, Any]) -> recorded.Filters:
    """The filters. tsh has `--user` and `--login` for every command, and they mean something else there."""
    return recorded.filters_of({**options, "of_user": options["whose"], "as_login": options["account"]})


def _filter_options(function: recorded.F) -> recorded.F:
    """As tctl's, with other names for what tsh's own flags are called."""
    for option in reversed(
        (
            click.option("--of", "whose", default="", metavar="USER", help="only sessions of this user"),
            click.option("--host", default="", help="only sessions on this host, by name or UUID"),
            click.option("--account", default="", metavar="LOGIN", help="only sessions of this Unix account"),
            click.option("--kind", type=click.Choice(recorded.KINDS), default=None, help="only sessions of this kind"),
            click.option("--from", "start", default="", metavar="TIME", help="begun not before: -24h, 2024-05-31"),
            click.option("--to", "end", default="", metavar="TIME", help="begun before; of a date, before its end"),
        )
    ):
        function = option(function)
    return function


def _form(*forms: str) -> Callable[[recorded.F], recorded.F]:
    return click.option("-f", "--format", "form", type=click.Choice(forms), default=forms[0], help="form of the output")


@recordings.command("ls")
@_filter_options
@click.option("--limit", type=click.IntRange(1), default=None, help="the newest so many; 500 for text, all for json")
@_form("text", "json")
@cluster_option
@takes_flags
def list_recordings(flags: Flags, cluster: str, limit: int | None, form: str, **options: Any) -> None:
    """List the sessions that you may play, oldest first."""
    filters = _filters(options)
    wanted = limit if limit is not None or form == "json" else recorded.DEFAULT_LIMIT
    with _client(flags, cluster) as client:
        recorded.list_recordings(client, filters, wanted, form)


@recordings.command("search")
@click.argument("text")
@_filter_options
@click.option("--limit", type=click.IntRange(1), default=recorded.DEFAULT_MATCHES, help="the newest so many")
@_form("text", "json")
@cluster_option
@takes_flags
def search(flags: Flags, cluster: str, text: str, limit: int, form: str, **options: Any) -> None:
    """Find the sessions whose screens showed TEXT, newest first."""
    filters = _filters(options)
    with _client(flags, cluster) as client:
        recorded.search_recordings(client, text, filters, limit, form)


@recordings.command("export")
@click.argument("sid")
@click.option("-o", "--out", default="", metavar="FILE", help="write to this file (0600) instead of stdout")
@click.option("--overwrite", is_flag=True, help="replace a file that exists")
@_form(*recorded.EXPORTS)
@cluster_option
@takes_flags
def export(flags: Flags, cluster: str, sid: str, out: str, overwrite: bool, form: str) -> None:
    """Write a session as asciicast, text, JSON lines, or one HTML page that plays it without any network."""
    from teleport.recording.format import canonical_name

    try:
        canonical_name(sid)
    except BadRequest:
        raise BadRequest(f"{sid[:64]!r} is no id of a session", hint="tsh recordings ls") from None
    with _client(flags, cluster) as client:
        recorded.export_recording(client, sid, form, out, overwrite=overwrite)
