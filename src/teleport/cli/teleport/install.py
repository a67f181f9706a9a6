"""`teleport install systemd`: the units, printed or written."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from teleport.cli import app, render
from teleport.errors import AlreadyExists, BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.daemon.systemd.units import Values

_PACKAGED: Final = Path("/usr/bin/teleport")
_PACKAGED_UNITS: Final = Path("/usr/lib/systemd/system")
_UNITS = ("teleport", "teleport-node", "combined")

install = app.LazyGroup(
    name="install",
    help="Set this host up to run the daemon.",
    lazy={"systemd": (f"{__name__}:systemd", "Print or write a unit of systemd.")},
)


@click.command()
@click.option(
    "--unit",
    type=click.Choice(_UNITS),
    default="teleport",
    help="teleport: auth and proxy, as a user of its own, closed off [the default]. teleport-node: sessions, as root. "
    "combined: all services as root, in place of the other two.",
)
@click.option(
    "-o",
    "--output",
    default="stdout",
    metavar="PLACE",
    help="stdout [the default], file for /etc/systemd/system, or file:///path.",
)
@click.option("--force", is_flag=True, help="Write over another unit.")
@click.option("--rating", is_flag=True, help="Print what systemd-analyze leaves open in this unit, with the reasons.")
@click.option(
    "--teleport-path", metavar="FILE", default="", help="The program [/usr/local/bin/teleport, or that of a package]."
)
@click.option("-c", "--config", "config_file", metavar="FILE", default="", help="Its configuration [/etc/UNIT.yaml].")
@click.option("--env-file", metavar="FILE", default="", help="Environment of the daemon [/etc/default/UNIT].")
@click.option("--pid-file", metavar="FILE", default="", help="Where the daemon writes its process id.")
@click.option(
    "--fd-limit", type=click.IntRange(1024, 1_048_576), default=65_536, help="Files that may be open [65536]."
)
@click.option("--user", metavar="NAME", default="teleport", help="Who runs auth and proxy [teleport].")
@click.option("--data-dir", metavar="DIR", default="", help="What auth and proxy may write to [/var/lib/teleport].")
@click.option("--low-ports", is_flag=True, help="Auth and proxy may listen on ports below 1024.")
def systemd(
    unit: str,
    output: str,
    force: bool,
    rating: bool,
    teleport_path: str,
    config_file: str,
    env_file: str,
    pid_file: str,
    fd_limit: int,
    user: str,
    data_dir: str,
    low_ports: bool,
) -> None:
    """Print a unit of systemd, or write it with --output=file."""
    from teleport.daemon.systemd import units

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    values = units.Values(
        units.Unit(unit),
        program=program_of(teleport_path),
        config=path(config_file),
        data_dir=path(data_dir),
        pid_file=path(pid_file),
        environment=path(env_file),
        files=fd_limit,
        user=user,
        low_ports=low_ports,
    )
    text = units.unit_text(values)
    if rating:
        if output != "stdout":
            raise BadRequest("--rating writes no unit", hint="leave --output out")
        _print_rating(values)
        return
    place = _place(output, values)
    if place is None:
        render.out(text)
        return
    write(values, text, place, force=force)


def write(values: Values, text: str, place: Path, *, force: bool) -> bool:
    """Writes the unit and says what comes next; whether that changed anything. Raises `AlreadyExists`."""
    check_program(values.program)
    place, changed = put_unit(place, text, force=force)
    render.out(f"{place} {'has been written' if changed else 'is there already, as it should be'}.\n")
    for line in _warnings(values):
        render.note(f"warning: {render.printable(line)}")
    render.out("Next:\n" + "".join(f"  {line}\n" for line in _next(values, place)))
    return changed


def program_of(given: str) -> Path:
    """The program of a unit: what was given, else that of `make install`, else that of a package."""
    from teleport.daemon.systemd.units import PROGRAM

    if given:
        return Path(given)
    return _PACKAGED if _PACKAGED.is_file() and not PROGRAM.exists() else PROGRAM


def put_unit(place: Path, text: str, *, force: bool) -> tuple[Path, bool]:
    """Writes a unit; where it is then, and whether that changed anything. One of a package that says the same is
    enough: it changes with the package. Raises `AlreadyExists`, as `put`."""
    from teleport.daemon.systemd.units import DIRECTORY

    packaged = _PACKAGED_UNITS / place.name
    if place.parent == DIRECTORY and not os.path.lexists(place) and packaged.is_file() and packaged.read_text() == text:
        return packaged, False
    return place, put(place, text, 0o644, force=force)


def put(place: Path, text: str, mode: int, *, force: bool) -> bool:
    """Writes a file so that it is whole or as it was; whether that changed anything.

    Raises `AlreadyExists` when other content is there, unless `force`.
    """
    from teleport.daemon.host import write_private

    try:
        if place.is_symlink():
            raise AlreadyExists(f"{place} is a link to {os.readlink(place)}", hint="remove it, or name another place")
        if place.exists():
            if place.read_text(errors="replace") == text:
                return False
            if not force:
                raise AlreadyExists(
                    f"{place} exists already and says something else", hint="compare; --force overwrites"
                )
        write_private(place, text, mode)
        place.chmod(mode)  # whatever the umask is
    except OSError as error:
        raise TeleportError(f"cannot write {place}: {error.strerror}", hint="run it as root") from None
    return True


def check_program(program: Path) -> None:
    """Raises `NotFound` when it is not there, or cannot be run."""
    if not (program.is_file() and os.access(program, os.X_OK)):
        import sys

        own = Path(sys.argv[0]).absolute()
        raise NotFound(f"there is no program {program}", hint=f"name it: --teleport-path={own}")


def _place(output: str, values: Values) -> Path | None:
    from teleport.daemon.systemd.units import DIRECTORY

    match output:
        case "stdout":
            return None
        case "file":
            return DIRECTORY / values.unit.file_name
    path = output.removeprefix("file://")
    if not path.startswith("/") or "\0" in path:
        raise BadRequest(f"--output={output}: no such place", hint="stdout, file, or file:///path")
    return Path(path)


def _warnings(values: Values) -> list[str]:
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import read_config
    from teleport.daemon.systemd.fitting import misfits

    file = values.config or values.unit.config
    if not file.exists():
        return [f"there is no {file} yet, without which the daemon does not start"]
    try:
        config = effective_config(read_config(file, environment={}), StartFlags(), socket.gethostname())
    except TeleportError as error:
        return [f"the daemon will not start: {error}"]
    return list(misfits(values, config))


def _next(values: Values, place: Path) -> list[str]:
    from teleport.daemon.systemd.units import Unit

    lines = []
    if values.unit is Unit.SERVICE:
        import pwd

        try:
            pwd.getpwnam(values.user)
        except KeyError:
            lines.append(f"useradd --system --user-group --no-create-home --shell=/usr/sbin/nologin {values.user}")
        file = values.config or values.unit.config
        lines.append(f"chown root:{values.user} {file} && chmod 0640 {file}")
    return [*lines, "systemctl daemon-reload", f"systemctl enable --now {place.stem}"]


def _print_rating(values: Values) -> None:
    from teleport.daemon.systemd import ratings

    said, rows = ratings.rate(values)
    render.out(f"{said}\n")
    shown = [[row.name, f"{row.exposure:.1f}", row.reason or "not known to this version"] for row in rows]
    render.out(render.table(["Open", "Exposure", "Why"], shown))
