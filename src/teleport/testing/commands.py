"""Runs one of the commands inside the test process, as its entry point would: arguments in, text and exit code out."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import click

from teleport.cli import app


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str
    out_bytes: bytes

    def ok(self) -> Ran:
        """Itself, if it exited with 0."""
        assert self.status == 0, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self


def run_command(
    command: click.Command,
    program: str,
    *arguments: str,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """One run; `environment` replaces variables (an empty mapping: none are replaced). Not for two threads at once."""
    out, err = io.BytesIO(), io.BytesIO()
    status: Any = 0
    with _streams(stdin, out, err), mock.patch.dict(os.environ, dict(environment or {})):
        try:
            app.run(command, program, list(arguments))
        except SystemExit as stop:
            status = stop.code if stop.code is not None else 0
        sys.stdout.flush()
        sys.stderr.flush()
    return Ran(int(status), out.getvalue().decode(errors="replace"), err.getvalue().decode(), out.getvalue())


@contextlib.contextmanager
def _streams(stdin: bytes, out: io.BytesIO, err: io.BytesIO) -> Iterator[None]:
    text = [
        io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"),
        io.TextIOWrapper(out, encoding="utf-8", write_through=True),
        io.TextIOWrapper(err, encoding="utf-8", write_through=True),
    ]
    saved = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = text
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = saved
        for stream in text[1:]:
            stream.detach()
