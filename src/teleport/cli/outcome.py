"""How a command's failure reaches its user: a sentence on stderr and the exit code; a traceback only for `--debug`."""

from __future__ import annotations

import os
import sys

from teleport.cli import render
from teleport.errors import TeleportError


def exit_code(error: Exception | KeyboardInterrupt, program: str, *, debug: bool, as_json: bool) -> int:
    """Says what `error` says, where a person is to read it, and returns the code to end with (`ours.md`)."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):
        # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if debug:
        import traceback

        traceback.print_exception(error)
    if not isinstance(error, TeleportError):
        error = TeleportError(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a fault of ours: run it again with -d and report what it prints",
        )
    render.report(error, program, as_json_object=as_json)
    return error.exit_code
