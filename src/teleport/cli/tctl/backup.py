"""`tctl backup`: making a backup while the cluster runs, proving one, restoring one.

Passphrases and private keys come from the terminal, from files or from stdin, never from arguments: those of a process
are there for all to see.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from teleport.cli import render
from teleport.cli.tctl.options import Command, Group, flags_of, format_option
from teleport.errors import BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.backup.age import Identity, Recipient
    from teleport.backup.check import Checked
    from teleport.daemon.restoring import Restored
    from teleport.pki.secret import Secret

F = TypeVar("F", bound=Callable[..., Any])
LEAST_PASSPHRASE: Final = 12  # characters
_MOST_KEYS: Final = 1024 * 1024  # bytes of a file of keys


@click.group("backup", cls=Group)
def backup() -> None:
    """Back the whole cluster up while it runs, prove a backup, and restore it elsewhere."""


def _opening_options(command: F) -> F:
    """How a backup is opened."""
    for option in (
        click.option(
            "--passphrase-file", default="", metavar="FILE", help="Take the passphrase from FILE; - is stdin."
        ),
        click.option(
            "--key-file",
            "key_files",
            multiple=True,
            metavar="FILE",
            help="Open it with the private key in FILE, from: tctl backup keygen.",
        ),
    ):
        command = option(command)
    return command


@backup.command("keygen", cls=Command)
@click.option("-o", "--out", required=True, metavar="FILE", help="Write the private key to this file (0600).")
@format_option("text", "json")
def keygen(out: str, form: str) -> None:
    """Make a pair of keys for backups: the private one goes to a file, the public one is printed, for --recipient. Keep
    the private key away from the cluster: it is needed to restore, not to back up."""
    from teleport.backup.age import Identity
    from teleport.cli.tctl.files import check_free, write_private

    check_free([Path(out)], overwrite=False)
    identity = Identity.generate()
    write_private(Path(out), f"# public key: {identity.recipient}\n{identity.reveal()}\n".encode())
    public = str(identity.recipient)
    render.out(render.as_json({"public_key": public, "private_key_file": out}) if form == "json" else f"{public}\n")


@backup.command("create", cls=Command)
@click.argument("file")
@click.option(
    "--recipient", "recipients", multiple=True, metavar="KEY", help="Encrypt to this public key, age1...; repeatable."
)
@click.option("--recipients-file", default="", metavar="FILE", help="Encrypt to the public keys in FILE, a line each.")
@click.option("--passphrase-file", default="", metavar="FILE", help="Encrypt with the passphrase in FILE; - is stdin.")
@click.option("--without-audit", is_flag=True, help="Leave the audit log out.")
@click.option("--without-recordings", is_flag=True, help="Leave the recordings out.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@format_option("text", "json")
@click.pass_context
def create(
    ctx: click.Context,
    file: str,
    recipients: tuple[str, ...],
    recipients_file: str,
    passphrase_file: str,
    without_audit: bool,
    without_recordings: bool,
    overwrite: bool,
    form: str,
) -> None:
    """Write a backup of the cluster, as it is now, to FILE, encrypted: users, roles, authorities with their keys,
    hosts, settings, the audit log and the recordings. Asks for a passphrase unless keys or a file of one are given."""
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.backup.age import seal
    from teleport.cli.progress import progress
    from teleport.cli.tctl.connect import open_auth
    from teleport.cli.tctl.files import check_free

    path = Path(file)
    check_free([path], overwrite=overwrite)
    public = [*map(_recipient, recipients), *_recipients_of(recipients_file)]
    if public and passphrase_file:
        raise BadRequest(
            "a backup opens with a passphrase or with keys, not with either", hint="leave --passphrase-file out"
        )
    passphrase = None if public else _new_passphrase(passphrase_file)
    request = m.BackupRequest(without_audit=without_audit, without_recordings=without_recordings)
    with open_auth(flags_of(ctx)) as auth, _whole_file(path) as target:
        sealing = seal(target, recipients=public, passphrase=passphrase)
        size = 0
        with progress("backing up", "bytes") as so_far:
            for part in auth.client.download(routes.CREATE_BACKUP, request):
                sealing.write(part)
                size += len(part)
                so_far(size)
        sealing.close()
    written = path.stat().st_size
    if form == "json":
        render.out(render.as_json({"file": file, "bytes": written}))
        return
    render.out(f"wrote {render.printable(file)}, {written} bytes\n")
    render.note(f"Prove it now and then: tctl backup verify {render.printable(file)}")


@backup.command("verify", cls=Command)
@click.argument("file")
@_opening_options
@format_option("text", "json")
def verify(file: str, key_files: tuple[str, ...], passphrase_file: str, form: str) -> None:
    """Prove that FILE is whole and unaltered, and that what it holds can be used: resources, audit log, recordings.
    Asks no auth server. Exits with 1 when anything is wrong."""
    with _opened(file, _keys(file, key_files, passphrase_file)) as stream:
        checked = _checked(stream)
    if form == "json":
        render.out(render.as_json({**_facts(checked), "ok": not checked.problems, "problems": checked.problems}))
    else:
        _show(checked)
    if checked.problems:
        raise TeleportError(
            f"the backup is as it was written, but what was written is not all sound: {len(checked.problems)} problems",
            hint="these were so when it was made: tctl audit verify",
        )


@backup.command("restore", cls=Command)
@click.argument("file")
@_opening_options
@format_option("text", "json")
@click.pass_context
def restore(ctx: click.Context, file: str, key_files: tuple[str, ...], passphrase_file: str, form: str) -> None:
    """Restore FILE into the data_dir of the configuration, which must be empty, of an auth server that does not run.
    Users log in as before and hosts come back without joining; join tokens, links and sessions of then do not."""
    from teleport.clock import SystemClock
    from teleport.daemon import restoring

    places, cluster = _target(flags_of(ctx).config)
    places.check_empty()
    keys = _keys(file, key_files, passphrase_file)
    with _opened(file, keys) as stream:
        checked = _checked(stream)
    if cluster and cluster != checked.manifest.cluster:
        raise BadRequest(
            f"the backup is of the cluster {checked.manifest.cluster!r}, the configuration names {cluster!r}: "
            "certificates carry the name, so it cannot change",
            hint=f"set auth_service.cluster_name to {checked.manifest.cluster!r}, or leave it out",
        )
    for problem in checked.problems:
        render.note(f"warning: {render.printable(problem)}")
    with _opened(file, keys) as stream:
        done = restoring.restore(stream, places, SystemClock(), _actor())
    if form == "json":
        render.out(render.as_json({**_facts(checked), **_outcome(done)}))
        return
    _tell(done)


# keys


@contextmanager
def _opened(file: str, keys: tuple[Sequence[Identity], Secret | None]) -> Iterator[BinaryIO]:
    from typing import cast

    from teleport.backup.age import unseal

    with _source(file) as source:
        yield cast(BinaryIO, unseal(source, identities=keys[0], passphrase=keys[1]))


@contextmanager
def _source(file: str) -> Iterator[BinaryIO]:
    try:
        with Path(file).open("rb") as source:
            yield source
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}", hint="tctl backup create FILE") from None
    except OSError as error:
        raise TeleportError(f"cannot read {file}: {error.strerror}", hint="check the path and its mode") from None


def _keys(file: str, key_files: Sequence[str], passphrase_file: str) -> tuple[Sequence[Identity], Secret | None]:
    """What opens the backup: the keys that were given, or the passphrase, which is asked for where there are none."""
    from teleport.backup.age import wants_passphrase

    identities = [identity for path in key_files for identity in _identities_of(path)]
    if identities:
        return identities, None
    with _source(file) as source:
        locked = wants_passphrase(source)
    if not locked:
        raise BadRequest("a key opens this backup", hint="--key-file=FILE, from tctl backup keygen")
    return (), _passphrase_of(passphrase_file) if passphrase_file else _typed("Passphrase of the backup: ")


def _recipient(text: str) -> Recipient:
    from teleport.backup.age import Recipient

    try:
        return Recipient.parse(text)
    except BadRequest as error:
        raise BadRequest(f"--recipient: {error.message}", hint="tctl backup keygen prints one: age1...") from None


def _recipients_of(path: str) -> list[Recipient]:
    return [_recipient(line) for line in _lines(path)] if path else []


def _identities_of(path: str) -> list[Identity]:
    from teleport.backup.age import Identity

    try:
        found = [Identity.parse(line) for line in _lines(path)]
    except BadRequest as error:
        raise BadRequest(f"{path}: {error.message}", hint="give the file that tctl backup keygen wrote") from None
    if not found:
        raise BadRequest(f"{path} holds no key", hint="give the file that tctl backup keygen wrote")
    return found


def _lines(path: str) -> list[str]:
    """What stands in a file of keys, without comments."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST_KEYS).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TeleportError(
            f"cannot read {path}: {error}", hint="a line for each key, age1... or AGE-SECRET-KEY-1..."
        ) from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _new_passphrase(path: str) -> Secret:
    found = _passphrase_of(path) if path else _typed("Passphrase for the backup: ")
    if len(found.reveal().decode()) < LEAST_PASSPHRASE:
        raise BadRequest(
            f"a passphrase has {LEAST_PASSPHRASE} characters or more: whoever gets the file can go on guessing",
            hint="several words that have nothing to do with one another",
        )
    if not path and _typed("Once more: ") != found:
        raise BadRequest("the two passphrases differ", hint="start again and type it twice")
    return found


def _typed(question: str) -> Secret:
    from teleport.pki.secret import Secret

    if not sys.stdin.isatty():
        raise BadRequest(
            "there is nobody to ask for a passphrase", hint="--passphrase-file=FILE, or - for stdin; or keys instead"
        )
    import getpass

    try:
        return Secret(getpass.getpass(question).encode())
    except EOFError:
        raise BadRequest("no passphrase was typed", hint="start again and type it") from None


def _passphrase_of(path: str) -> Secret:
    """The first line of a file, or of stdin."""
    from teleport.pki.secret import Secret

    try:
        with contextlib.ExitStack() as stack:
            file: BinaryIO = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
            line = file.readline(4096).rstrip(b"\r\n")
            line.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TeleportError(
            f"cannot read a passphrase from {path}: {error}", hint="a file with the passphrase on its first line"
        ) from None
    if not line:
        raise BadRequest(f"{path} holds no passphrase", hint="a file with the passphrase on its first line")
    return Secret(line)


# files


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Writes a file that is there only when it is whole, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TeleportError(
            f"cannot write {path}: {error.strerror}", hint="name another place for the backup"
        ) from None


def _target(config_file: str) -> tuple[Any, str]:
    """Where the configuration says that an auth server keeps its data; the cluster that it names, if it does."""
    import socket

    from teleport.cli.tctl.connect import CONFIG_VARIABLE
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config
    from teleport.daemon.restoring import Places

    named = config_file or os.environ.get(CONFIG_VARIABLE, "")
    read = read_config(Path(named) if named else None, environment=os.environ)
    config = effective_config(read, StartFlags(), socket.gethostname())
    if config.auth is None:
        raise BadRequest(
            "the configuration is of a host without the auth service",
            hint="restore where that shall run: --config=FILE",
        )
    chosen = read is not None and "auth_service.cluster_name" in read.present
    return Places.of(config), config.auth.cluster_name if chosen else ""


def _checked(stream: BinaryIO) -> Checked:
    from teleport.backup.check import check
    from teleport.cli.progress import progress

    with tempfile.TemporaryDirectory(prefix="teleport-backup-") as folder, progress("reading", "bytes") as so_far:
        return check(stream, Path(folder), so_far)


# telling


def _facts(checked: Checked) -> dict[str, Any]:
    manifest = checked.manifest
    return {
        "cluster": manifest.cluster,
        "created": manifest.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": manifest.host_name,
        "version": manifest.version,
        "ca_pins": manifest.pins,
        "resources": dict(sorted(checked.resources.items())),
        "audit": manifest.audit,
        "events": checked.events,
        "checkpoints": checked.checkpoints,
        "recordings": checked.recordings,
    }


def _show(checked: Checked) -> None:
    manifest = checked.manifest
    rows = [
        ["Cluster", manifest.cluster],
        ["Made", f"{_when(manifest.created)} UTC, on {manifest.host_name}, by version {manifest.version}"],
        *(["CA pin", pin] for pin in manifest.pins),
        ["Resources", ", ".join(f"{count} {kind}" for kind, count in sorted(checked.resources.items()))],
        ["Audit log", f"{checked.events} events, {checked.checkpoints} checkpoints" if manifest.audit else "left out"],
        ["Recordings", str(checked.recordings) if manifest.recordings else "left out"],
        ["Proof", "whole and unaltered" if not checked.problems else f"{len(checked.problems)} problems"],
    ]
    for name, value in rows:
        render.out(f"{name:<11} {render.printable(value)}\n")
    for problem in checked.problems:
        render.out(f"  {render.printable(problem)}\n")


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _outcome(done: Restored) -> dict[str, Any]:
    return {
        "items": done.items,
        "sessions_ended": done.ended,
        "left_out": dict(sorted(done.left_out.items())),
        "unknown": dict(sorted(done.unknown.items())),
    }


def _tell(done: Restored) -> None:
    manifest = done.manifest
    render.out(f"restored the cluster {manifest.cluster} as it was at {_when(manifest.created)} UTC\n")
    for pin in manifest.pins:
        render.out(f"CA pin:     {pin}\n")
    for what, count in sorted(done.left_out.items()):
        render.out(f"left out:   {count} x {what}\n")
    for what, count in sorted(done.unknown.items()):
        render.out(f"left out:   {count} x {what}/, which this version does not know\n")
    if done.ended:
        render.out(f"ended:      {done.ended} sessions that were open then\n")
    render.out("Start it now: teleport start. Then:\n")
    render.out("  legal holds that were placed since: tctl hold ls, tctl hold add; for a week nothing is pruned\n")
    render.out("  hosts whose auth_servers are elsewhere: change them and restart the daemon; they need no token\n")
    render.out("  people: tsh login --proxy=HOST, when the proxy has another address\n")
    render.out("  join tokens, invitations: make new ones; static tokens of the configuration file work\n")


def _actor() -> Any:
    from teleport.audit.events.base import Actor
    from teleport.cli.tctl.actor import HEADERS, actor_headers

    found = actor_headers()
    login = found.get(HEADERS["login_uid"], "")
    return Actor(
        unix_user=found.get(HEADERS["unix_user"], ""),
        login_uid=int(login) if login.isdecimal() else -1,
        terminal=found.get(HEADERS["terminal"], ""),
    )
