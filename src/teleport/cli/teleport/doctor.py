"""`teleport doctor`: what keeps this host from serving, each with the command that mends it. It changes nothing."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.errors import BadRequest, NotFound, TeleportError

if TYPE_CHECKING:
    from teleport.daemon.doctor.examination import Report


@click.command()
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("-r", "--roles", metavar="LIST", default="", help="Services, as for `start`: proxy,node,auth.")
@click.option("-f", "--format", "form", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def doctor(config_file: str | None, roles: str, form: str) -> None:
    """Look for what keeps this host from serving, and print each finding with the command that mends it.

    Changes nothing, and works with a daemon running or none. Exit status: 0 nothing was found, 1 something was, 2 it
    could not be looked for.
    """
    report = _looked(config_file, roles)
    render.out(render.as_json(_document(report)) if form == "json" else _text(report))
    if report.findings:
        raise TeleportError(
            f"{len(report.findings)} findings" if len(report.findings) > 1 else "1 finding",
            hint="run the commands that mend them, then this one again",
        )
    if report.blind:
        raise BadRequest("not all could be looked at, so nobody knows", hint=report.unseen[0].mend)


def _looked(config_file: str | None, roles: str) -> Report:
    from teleport.clock import SystemClock
    from teleport.daemon.config.effective import StartFlags, effective_config
    from teleport.daemon.config.file import DEFAULT_PATH, ENVIRONMENT_VARIABLE, read_config
    from teleport.daemon.doctor import examination, settings
    from teleport.daemon.doctor.patient import Patient, processes_of

    path = Path(config_file) if config_file is not None else DEFAULT_PATH
    in_environment = config_file is None and bool(os.environ.get(ENVIRONMENT_VARIABLE))
    if not in_environment and path.exists() and not os.access(path, os.R_OK):
        raise BadRequest(f"this user may not read {path}", hint=f"sudo teleport doctor --config={path}")
    try:
        if not in_environment and config_file is None and not path.exists():
            raise NotFound(
                f"there is no configuration file {path}", hint=f"write one: teleport configure -o file://{path}"
            )
        found = read_config(None if in_environment else path, "", os.environ if in_environment else {})
        config = effective_config(found, StartFlags(roles=roles), socket.gethostname())
    except TeleportError as error:
        return examination.report(settings.of_mistakes(error, path), [settings.CHECK])
    clock = SystemClock()
    patient = Patient(
        file=None if in_environment else path.absolute(),
        text="" if in_environment else path.read_text(errors="replace"),
        config=config,
        now=clock.now(),
        pids=processes_of(config.data_dir),
    )
    return examination.examined(patient, examination.checks(clock.now))


def _document(report: Report) -> dict[str, object]:
    return {
        "findings": [asdict(one) for one in report.findings],
        "unseen": [asdict(one) for one in report.unseen],
        "checks": report.checks,
    }


def _text(report: Report) -> str:
    lines = []
    for one in report.findings:
        lines += [f"{one.check}: {one.what}", f"  to mend it: {one.mend}", ""]
    for other in report.unseen:
        lines += [f"{other.check}: not looked at: {other.what}", f"  to have it looked at: {other.mend}", ""]
    if not report.findings:
        lines.append(f"Nothing was found. Looked at: {', '.join(report.checks)}")
    return "".join(f"{render.printable(line)}\n" for line in lines)
