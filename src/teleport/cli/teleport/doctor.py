"""`teleport doctor`: what keeps this host from serving, each with the command that mends it. It changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from teleport.cli import render
from teleport.errors import BadRequest, TeleportError

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
        raise BadRequest(
            "not all could be looked at, so nobody knows", hint=next(one.mend for one in report.unseen if one.blind)
        )


def _looked(config_file: str | None, roles: str) -> Report:
    from teleport.clock import SystemClock
    from teleport.daemon.doctor.examination import Report, checks, examined
    from teleport.daemon.doctor.reception import received

    clock = SystemClock()
    found = received(config_file, roles, clock)
    return found if isinstance(found, Report) else examined(found, checks(clock.now))


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
