"""What `version` says of the installed program."""

from __future__ import annotations

import platform

import click

from teleport import __version__
from teleport.cli import render


def version_text(form: str = "text") -> str:
    """One line, or one JSON object: the version of teleport and of the Python that runs it."""
    if form == "json":
        return render.as_json({"version": __version__, "python": platform.python_version()})
    return f"Teleport v{__version__} python{platform.python_version()}\n"


@click.command()
@click.option("-f", "--format", "form", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def version(form: str) -> None:
    """Print the version."""
    render.out(version_text(form))
