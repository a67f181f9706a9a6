"""`tctl tokens`: join tokens. A token's secret is shown once, when it is made; afterwards it goes by its public id.

Secrets need not stand in a command line, where other users of the host see them: `--out` writes the token to a file,
`--value` takes the path of one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.api import join_steps, routes
from teleport.api import messages as m
from teleport.cli import render
from teleport.cli.tctl.options import DURATION, Group, comma_list, flags_of, format_option
from teleport.errors import AlreadyExists, BadRequest, TeleportError

if TYPE_CHECKING:
    from teleport.resources.token import Token

_ID = re.compile(r"[0-9a-f]{8}")


@click.group(cls=Group)
def tokens() -> None:
    """Make, list and remove join tokens."""


@tokens.command("add")
@click.option(
    "--type",
    "types",
    multiple=True,
    required=True,
    metavar="ROLE,..",
    help="node, proxy, auth, kube, app, db, trusted_cluster.",
)
@click.option("--value", default="", metavar="FILE", help="Absolute path of a file that holds the token to use.")
@click.option("--labels", default="", metavar="K=V,..", help="Labels that the joined hosts get.")
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="Lifetime, at most 48h.")
@click.option("--single-use", is_flag=True, help="The token lets one host in.")
@click.option("--cluster", default="", metavar="NAME", help="The one cluster that a trusted_cluster token is for.")
@click.option("--out", default="", metavar="FILE", help="Write the token to a new file (0600) and do not print it.")
@format_option("text", "json")
@click.pass_context
def add(
    ctx: click.Context,
    types: tuple[str, ...],
    value: str,
    labels: str,
    ttl: float,
    single_use: bool,
    cluster: str,
    out: str,
    form: str,
) -> None:
    """Make a token that lets hosts join, and print how."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.client.addresses import parse_labels

    request = m.AddTokenRequest(
        roles=comma_list(types),
        ttl=ttl,
        value=read_token(value, "--value"),
        labels=parse_labels(labels),
        single_use=single_use,
        cluster=cluster.strip(),
    )
    with open_auth(flags_of(ctx)) as auth:
        out = str(Path(out).absolute()) if out else ""  # a relative path would be taken for a token
        with _token_file(out) as keep:
            made = auth.client.call(routes.ADD_TOKEN, request)
            keep(made.token)
        _show(made, ttl, out, form, auth.addresses)


def read_token(text: str, flag: str) -> str:
    """A token of the caller's own choice: the path of its file, or the token itself. Raises `BadRequest`."""
    if not text:
        return ""
    from teleport.daemon.config.token_source import TokenSource

    try:
        return TokenSource.parse(text).read()
    except ValueError:
        raise BadRequest(
            f"{flag}: a token is one word, or the absolute path of a file that holds it",
            hint="leave it away to get a token made here",
        ) from None


@contextlib.contextmanager
def _token_file(out: str) -> Iterator[Callable[[str], object]]:
    """A new file for a token; made before the token is, so that no token is made whose secret nobody has."""
    if not out:
        yield lambda secret: None
        return
    path = Path(out)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already", hint="name a new file with --out, or remove this one") from None
    except OSError as error:
        raise TeleportError(f"cannot write {path}: {error.strerror}", hint="name another place with --out") from None
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            yield lambda secret: file.write(f"{secret}\n".encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _show(made: m.JoinToken, ttl: float, out: str, form: str, reached: Sequence[str]) -> None:
    if form == "json":
        shown: dict[str, object] = {
            "id": made.id,
            "roles": made.roles,
            "expires": made.expires,
            "labels": made.labels,
            "single_use": made.single_use,
            "ca_pins": made.ca_pins,
            "auth_servers": made.auth_servers,
        }
        if "trusted_cluster" in made.roles:
            shown |= {"cluster": made.cluster} if made.cluster else {"cluster": "", "warnings": [_unnamed()]}
        render.out(render.as_json({"file" if out else "token": out or made.token, **shown}))
        return
    secret = f"The join token is in {out}" if out else f"The join token: {made.token}"
    render.out(f"{secret}\nIts id, by which it is listed and removed: {made.id}\n")
    missing = [role for role in made.roles if role not in join_steps.SERVED and role != "trusted_cluster"]
    if missing:
        kinds = " and no ".join(missing)
        render.note(f"This version has no {kinds} service yet: nothing joins as {' or '.join(missing)} so far.")
    if "trusted_cluster" in made.roles:
        which = "one other cluster" if made.single_use else "other clusters"
        which = f"the cluster {render.printable(made.cluster)}" if made.cluster else which
        warning = "" if made.cluster else f"Warning: {_unnamed()}\n\n"
        term = render.how_long(ttl)
        render.out(
            f"It lets {which} trust this one for the next {term}.\n\n{warning}{join_steps.for_cluster(made, out)}"
        )
        return
    served = [role for role in made.roles if role in join_steps.SERVED]
    if not served:
        return
    render.out(f"It lets {how_many(made)} join as {', '.join(served)} for the next {render.how_long(ttl)}.\n")
    render.out("\n" + join_steps.for_host(made, out, reached))


def _unnamed() -> str:
    from teleport.resources.token import NAMES_NONE

    return f"{NAMES_NONE}. Better: tctl tokens add --type=trusted_cluster --cluster=NAME"


def how_many(made: m.JoinToken) -> str:
    """Whom the token lets in."""
    return "one host" if made.single_use else "hosts"


@tokens.command("ls")
@format_option("text", "json")
@click.pass_context
def list_tokens(ctx: click.Context, form: str) -> None:
    """List join tokens by their public ids, those that end first at the top."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.listing import all_of
    from teleport.resources.kinds import Kind
    from teleport.resources.token import Token

    with open_auth(flags_of(ctx)) as auth:
        found = [token for token in all_of(auth, Kind.TOKEN) if isinstance(token, Token)]
    found.sort(key=lambda token: (token.metadata.expires is None, token.metadata.expires, token.name))
    if form == "json":
        listed = [
            {
                "id": token.name,
                "roles": [str(role) for role in token.roles],
                "labels": dict(token.metadata.labels),
                "expires": token.metadata.expires,
                "single_use": token.spec.single_use,
                "used_by": token.spec.used_by,
                "cluster": token.spec.cluster,
            }
            for token in found
        ]
        render.out(render.as_json(listed))
        return
    render.out(token_table(found))


def token_table(found: Sequence[Token]) -> str:
    """Join tokens as a table."""
    rows = [
        [token.name, _for_whom(token), label_text(token.metadata.labels), render.when(token.metadata.expires)]
        for token in found
    ]
    return render.table(["Token", "Type", "Labels", "Expiry Time (UTC)"], rows)


def _for_whom(token: Token) -> str:
    """The roles; of a token for one host, also that it is one, or which host has used it."""
    roles = ",".join(token.roles)
    if token.spec.cluster:
        roles += f" for {token.spec.cluster}"
    if not token.spec.single_use:
        return roles
    return f"{roles} (used by {token.spec.used_by})" if token.spec.used_by else f"{roles} (single use)"


def label_text(labels: Mapping[str, str]) -> str:
    """`k=v,k=v`, sorted."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


@tokens.command("rm")
@click.argument("names", metavar="ID", nargs=-1, required=True)
@format_option("text", "json")
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], form: str) -> None:
    """Remove join tokens by their ids; the token itself, or the path of its file, is taken too."""
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.outcome import outcome

    with open_auth(flags_of(ctx)) as auth, outcome(form) as tell:
        for name in comma_list(names):
            public = public_id(name)
            auth.client.call(routes.REMOVE["token"], m.ExpelRequest(name=public))
            tell("token", public, "removed", f"token {public} has been removed")


def public_id(name: str) -> str:
    """The id of a token that somebody named by id, secret or file. A secret is hashed here and sent nowhere."""
    if _ID.fullmatch(name):
        return name
    from teleport.resources.secret import SecretText
    from teleport.resources.token import token_id

    return token_id(SecretText(read_token(name, "ID")))
