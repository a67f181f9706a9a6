"""What `tctl` shows and changes of other clusters: `tctl update rc/NAME`, rows of `tctl status`, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Command, flags_of, format_option
from teleport.errors import AccessDenied, BadRequest, NotFound

if TYPE_CHECKING:
    from teleport.cli.tctl.connect import Auth
    from teleport.resources.kinds import Kind
    from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster


@click.command("update", cls=Command)
@click.argument("spec", metavar="rc/NAME")
@click.option("--set-labels", "labels", metavar="K=V,..", default=None, help="Labels that it has from now on.")
@click.option("--set-ttl", "ttl", type=DURATION, default=None, help="Forget the cluster after this time.")
@format_option("text", "json")
@click.pass_context
def update(ctx: click.Context, spec: str, labels: str | None, ttl: float | None, form: str) -> None:
    """Change the labels of a remote cluster, by which roles allow it, or when it is forgotten."""
    import msgspec

    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.outcome import outcome
    from teleport.client.addresses import parse_labels
    from teleport.resources.codec import from_json, to_json
    from teleport.resources.kinds import Kind
    from teleport.resources.references import ResourceRef
    from teleport.resources.trusted_cluster import RemoteCluster

    ref = ResourceRef.parse(spec)
    if ref.kind is not Kind.REMOTE_CLUSTER or not ref.name:
        raise BadRequest("tctl update changes remote clusters only", hint="tctl update rc/NAME --set-labels=env=prod")
    if labels is None and ttl is None:
        raise BadRequest("nothing to change was named", hint="--set-labels=env=prod, or --set-ttl=720h")
    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        found = from_json(bytes(auth.client.call(routes.GET["remote_cluster"], m.GetRequest(name=ref.name)).item))
        assert isinstance(found, RemoteCluster)
        metadata = found.metadata
        if labels is not None:
            metadata = msgspec.structs.replace(metadata, labels=parse_labels(labels))
        if ttl is not None:
            metadata = msgspec.structs.replace(metadata, expires=datetime.now(UTC) + timedelta(seconds=ttl))
        item = m.Document(to_json(msgspec.structs.replace(found, metadata=metadata)))
        auth.client.call(routes.STORE["remote_cluster"], m.StoreRequest(item=item, force=True))
        shown = render.printable(ref.name)
        tell("remote_cluster", ref.name, "updated", f"remote_cluster {shown!r} has been updated")


def status_rows(auth: Auth) -> list[tuple[str, str]]:
    """The other clusters that the caller may know of, with how the exchange with each stands."""
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind
    from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster

    rows: list[tuple[str, str]] = []
    for kind in (Kind.REMOTE_CLUSTER, Kind.TRUSTED_CLUSTER):
        unreadable: list[m.Unreadable] = []
        try:
            found = list(all_of(auth, kind, unreadable=unreadable.append))
        except (AccessDenied, NotFound):  # the latter: an auth server of an older version
            continue
        for one in found:
            if isinstance(one, RemoteCluster):
                state: str = "removed over there" if one.removed else one.status.connection
                rows.append(("Remote cluster", f"{one.name}: {state}, {_exchanged(one.status.last_exchange)}"))
            elif isinstance(one, TrustedCluster):
                state = "enabled" if one.spec.enabled else "disabled"
                problem = f"; {one.status.problem}" if one.status.problem else ""
                last = _exchanged(one.status.last_exchange)
                rows.append(("Trusted cluster", f"{one.name}: {state}, {last}{problem}"))
        title = str(kind).replace("_", " ").capitalize()
        rows += [(title, f"{one.name}: unreadable, counts for nothing; {one.problem}") for one in unreadable]
    return [(name, render.printable(text)) for name, text in rows]


def unreadable_note(kind: Kind, one: m.Unreadable) -> str:
    """What `tctl get` says of what auth cannot read."""
    return (
        f"{kind} {render.printable(one.name)!r} cannot be read, and counts for nothing: {render.printable(one.problem)}"
    )


def _exchanged(when: datetime | None) -> str:
    return f"authorities exchanged {render.when(when)} UTC" if when is not None else "authorities never exchanged"


def trusted_table(found: Sequence[TrustedCluster]) -> str:
    """Clusters whose users are let in."""
    headers = [
        "Name",
        "Enabled",
        "Proxy Address",
        "Reverse Tunnel Address",
        "Role Map",
        "Last Exchange (UTC)",
        "Problem",
    ]
    rows = [
        [
            one.name,
            "yes" if one.spec.enabled else "no",
            one.spec.web_proxy_addr,
            one.spec.tunnel_addr,
            ", ".join(f"{mapping.remote}={'|'.join(mapping.local)}" for mapping in one.role_map),
            render.when(one.status.last_exchange),
            one.status.problem,
        ]
        for one in found
    ]
    return render.table(headers, rows)


def remote_table(found: Sequence[RemoteCluster]) -> str:
    """Clusters whose hosts are reached."""
    rows = [
        [
            one.name,
            "removed" if one.removed else one.status.connection,
            render.when(one.status.last_heartbeat),
            render.when(one.status.last_exchange),
            _labels(one.metadata.labels),
        ]
        for one in found
    ]
    return render.table(["Name", "Status", "Last Heartbeat (UTC)", "Last Exchange (UTC)", "Labels"], rows)


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
