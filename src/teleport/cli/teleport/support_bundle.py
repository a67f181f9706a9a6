"""`teleport support-bundle`: one archive for somebody who helps, without secrets."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from teleport.cli import render
from teleport.errors import BadRequest


@click.command(name="support-bundle")
@click.option("-c", "--config", "config_file", metavar="FILE", help="Configuration file [/etc/teleport.yaml].")
@click.option("-o", "--out", metavar="FILE", default="", help="Archive to write [teleport-support-NAME-TIME.tar.gz].")
@click.option(
    "--log", "log_file", metavar="FILE", default="", help="Log of the daemon [as configured, or the journal]."
)
@click.option("--without", multiple=True, metavar="PART", help="Leave this file out, as log.txt; may be repeated.")
@click.option("-f", "--format", "form", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def support_bundle(config_file: str | None, out: str, log_file: str, without: tuple[str, ...], form: str) -> None:
    """Write what somebody has to see who helps with this host: versions, settings, findings of `doctor`, ports, health,
    the end of the log. Secrets are not in it; look it through all the same before it leaves the house."""
    from teleport.clock import SystemClock
    from teleport.daemon.doctor.examination import Report, checks, examined
    from teleport.daemon.doctor.reception import received
    from teleport.daemon.support import bundle, collect, facts

    clock = SystemClock()
    patient = received(config_file, "", clock)
    if isinstance(patient, Report):
        raise BadRequest(
            "the configuration cannot be used, so nobody knows what is secret on this host",
            hint="mend it first: teleport doctor",
        )
    parts: dict[str, collect.Part] = {
        **collect.PARTS,
        "doctor.json": lambda patient: collect.findings(examined(patient, checks(clock.now))),
        "log.txt": partial(collect.log, named=Path(log_file) if log_file else None),
    }
    for name in without:
        if name not in parts:
            raise BadRequest(f"--without={name}: there is no such part", hint=", ".join(sorted(parts)))
        del parts[name]
    files = bundle.collected(patient, parts, facts.secrets(patient.config))
    path = Path(out or f"teleport-support-{patient.config.nodename}-{patient.now:%Y%m%dT%H%M%SZ}.tar.gz")
    bundle.write(path, files, patient.now.timestamp())
    if form == "json":
        render.out(render.as_json({"file": str(path), "parts": sorted(files)}))
        return
    for name in sorted({*parts} - {*files}):
        render.note(f"without {name}; {bundle.MANIFEST} says why")
    render.out(f"{render.printable(str(path))} has been written: {', '.join(sorted(files))}\n")
