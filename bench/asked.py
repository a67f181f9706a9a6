"""What the command lines of the benchmarks have in common: which of them are meant, and what comes before the first."""

from __future__ import annotations

import argparse
import compileall
import signal
import sys
from collections.abc import Sequence

from bench.programs import ROOT


def may_name(parser: argparse.ArgumentParser, known: Sequence[str]) -> None:
    """Takes names of benchmarks."""
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(known)} (default: all)")


def begin(parser: argparse.ArgumentParser, named: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Which are meant: those named, or all. Ends the program with a message for one that is not known."""
    if unknown := sorted(set(named) - set(known)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    # Byte code is what an installation has; a first run would pay for making it, or always when writing it is off.
    compileall.compile_dir(ROOT / "src", quiet=1)
    return named or known
